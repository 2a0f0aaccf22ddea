//! The audit trail as RFC 4180: a heading, then one row an event, rows ending in CR LF. A spreadsheet takes what begins
//! like a formula for one, so such a cell gets an apostrophe in front, which it shows as the text it is.

use std::borrow::Cow;

use keyledger_events::Timestamp;
use serde_json::Value;

use crate::http::views::EventBody;

/// The columns. New ones come at the end.
pub const COLUMNS: [&str; 20] = [
    "position",
    "revision",
    "recorded_at",
    "effective_at",
    "event_id",
    "team_id",
    "type",
    "actor_type",
    "actor_id",
    "auth",
    "credential_id",
    "person_id",
    "name",
    "cause",
    "correlation_id",
    "ip",
    "user_agent",
    "data",
    "hash",
    "previous",
];

/// The first row.
pub fn heading() -> Vec<u8> {
    let mut out = Vec::new();
    write(COLUMNS.into_iter().map(Cow::Borrowed), &mut out);
    out
}

/// An event's row. `data` is the event's own fields as JSON; what an event does not have is empty.
pub fn row(body: &EventBody, effective_at: Timestamp, out: &mut Vec<u8>) {
    let of = |map: Option<&Value>| match map {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let data = |names: [&str; 2]| of(names.into_iter().find_map(|name| body.data.get(name)));
    let context = |name: &str| of(body.context.as_ref().and_then(|context| context.get(name)));
    let cells: [String; COLUMNS.len()] = [
        body.position.to_string(),
        body.revision.to_string(),
        body.recorded_at.to_string(),
        effective_at.to_string(),
        body.id.to_string(),
        body.team_id.to_string(),
        body.kind.to_owned(),
        body.actor.kind.to_owned(),
        body.actor.id.map_or_else(String::new, |id| id.to_string()),
        of(serde_json::to_value(body.auth).ok().as_ref()),
        data(["credential", "credential"]),
        data(["member", "person"]),
        data(["name", "device_name"]),
        body.cause.map_or_else(String::new, |cause| cause.to_string()),
        body.correlation_id.to_string(),
        context("ip"),
        context("user_agent"),
        serde_json::to_string(&body.data).unwrap_or_default(),
        body.hash.to_string(),
        body.previous.to_string(),
    ];
    write(cells.iter().map(|cell| safe(cell)), out);
}

/// A cell that no spreadsheet computes.
fn safe(cell: &str) -> Cow<'_, str> {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        Cow::Owned(format!("'{cell}"))
    } else {
        Cow::Borrowed(cell)
    }
}

fn write<'a>(cells: impl Iterator<Item = Cow<'a, str>>, out: &mut Vec<u8>) {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
    // Writing into memory can't fail, and every row has as many cells as the heading.
    let _ = writer.write_record(cells.map(|cell| cell.into_owned()));
    let _ = writer.flush();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cells_that_begin_like_a_formula_are_text() {
        for (cell, written) in [
            ("=1+1", "'=1+1\r\n"),
            ("+1", "'+1\r\n"),
            ("-1", "'-1\r\n"),
            ("@SUM(A1)", "'@SUM(A1)\r\n"),
            ("\tx", "'\tx\r\n"),
            ("\rx", "\"'\rx\"\r\n"),
            ("\nx", "\"'\nx\"\r\n"),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\"\r\n"),
            ("a=1", "a=1\r\n"),
            ("'=1", "'=1\r\n"),
            ("a,b", "\"a,b\"\r\n"),
            ("", "\"\"\r\n"),
        ] {
            let mut out = Vec::new();
            write([safe(cell)].into_iter(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), written, "{cell:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_cell_comes_back_and_begins_no_formula(cells in proptest::collection::vec(".{0,20}|[=+@\t\r\n\",-].{0,9}", 1..8)) {
            // A reader takes a byte order mark away from a file's beginning; ours begin with the heading.
            let cells: Vec<_> = std::iter::once("position".to_owned()).chain(cells).collect();
            let mut out = Vec::new();
            write(cells.iter().map(|cell| safe(cell)), &mut out);
            prop_assert!(out.ends_with(b"\r\n"));
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&out[..]);
            let rows: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(rows.len(), 1);
            prop_assert_eq!(rows[0].len(), cells.len());
            for (read, cell) in rows[0].iter().zip(&cells) {
                prop_assert!(!read.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']));
                prop_assert_eq!(read.strip_prefix('\'').filter(|_| read != cell.as_str()).unwrap_or(read), cell.as_str());
            }
        }
    }
}
