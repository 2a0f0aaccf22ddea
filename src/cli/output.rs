//! What commands print: the server's JSON as it came, or a table for people.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
}

impl Output {
    /// Prints the answer: as JSON, or as `text` makes of it.
    pub fn print(self, answer: &Value, text: impl FnOnce(&Value) -> String) {
        if self.json {
            println!("{}", serde_json::to_string_pretty(answer).unwrap_or_default());
        } else {
            println!("{}", text(answer));
        }
    }

    /// For answers without a body: a sentence, or the JSON object that says the same.
    pub fn done(self, sentence: &str, facts: Value) {
        self.print(&facts, |_| sentence.to_owned());
    }
}

/// A heading, and how to get its cell from a row.
type Column<'a> = (&'a str, &'a dyn Fn(&Value) -> String);

/// A table with these columns.
pub fn table(rows: &[Value], columns: &[Column<'_>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for row in rows {
        table.add_row(columns.iter().map(|(_, cell)| plain(&cell(row))));
    }
    table.to_string()
}

/// One `name: value` a line, for what is not null.
pub fn facts(object: &Value, names: &[&str]) -> String {
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0) + 1;
    let line = |name: &&str| match text(object, name) {
        value if value.is_empty() => None,
        value => Some(format!("{:width$} {}", format!("{name}:"), plain(&value))),
    };
    names.iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

/// A member of an object as text; nothing for null.
pub fn text(object: &Value, name: &str) -> String {
    match &object[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The rows of a list.
pub fn rows<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object[name].as_array().map_or(&[], Vec::as_slice)
}

/// An instant to the second, for tables.
pub fn when(object: &Value, name: &str) -> String {
    let text = text(object, name);
    match text.split_once('.') {
        Some((seconds, _)) if text.ends_with('Z') => format!("{seconds}Z"),
        _ => text,
    }
}

/// Text that can't drive the terminal, whatever a server sends.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' || is_bidi(c) { '\u{fffd}' } else { c }).collect()
}

const fn is_bidi(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_harmless_and_nulls_are_empty() {
        let rows =
            [json!({ "name": "a\u{1b}[2Jb\u{202e}", "at": "2026-03-03T12:00:00.123456Z", "n": 7, "none": null })];
        let text = table(
            &rows,
            &[
                ("NAME", &|row| text(row, "name")),
                ("AT", &|row| when(row, "at")),
                ("N", &|row| super::text(row, "n")),
                ("NONE", &|row| super::text(row, "none")),
            ],
        );
        assert!(
            text.contains("a\u{fffd}[2Jb\u{fffd}") && text.contains("2026-03-03T12:00:00Z") && text.contains('7'),
            "{text}"
        );
        assert!(!text.contains("null") && !text.contains('\u{1b}'), "{text}");
    }
}
