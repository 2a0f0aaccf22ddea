//! `keyledger export --format jsonl|csv|ocsf`: the team's audit trail in a file, for other people's tools.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
};

use keyledger_events::Timestamp;
use serde_json::{Value, json};

use super::{
    Failure,
    bar::Bar,
    client::{Client, Stream},
    output::Output,
};
use crate::http::export::Format;

/// What is exported, and where to.
pub struct Trail<'a> {
    /// The form.
    pub format: Format,
    /// Only what was recorded at this instant or later.
    pub from: Option<Timestamp>,
    /// Only what was recorded before this instant.
    pub to: Option<Timestamp>,
    /// Go on behind the last whole line of a file that was cut off.
    pub resume: bool,
    /// Where to write it; `-` is standard output.
    pub file: &'a Path,
}

/// Where an event stands: in the log, and in its team's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    position: u64,
    revision: u64,
}

/// The place of the event on a whole line; none for a heading, or what is no line of this form.
fn place_of(format: Format, line: &[u8]) -> Option<Place> {
    let read =
        |position: &Value, revision: &Value| Some(Place { position: position.as_u64()?, revision: revision.as_u64()? });
    match format {
        Format::Csv => {
            let text = std::str::from_utf8(line).ok()?;
            let mut cells = text.split(',');
            Some(Place { position: cells.next()?.parse().ok()?, revision: cells.next()?.parse().ok()? })
        }
        Format::Jsonl => {
            let event: Value = serde_json::from_slice(line).ok()?;
            read(&event["position"], &event["revision"])
        }
        Format::Ocsf => {
            let event: Value = serde_json::from_slice(line).ok()?;
            read(&event["metadata"]["sequence"], &event["unmapped"]["revision"])
        }
    }
}

/// Exports it.
///
/// # Errors
/// What was refused or could not be written.
pub fn export(client: &Client, output: Output, args: &Trail<'_>) -> Result<(), Failure> {
    if args.file == Path::new("-") {
        if args.resume {
            return Err(Failure::Usage("standard output can't be resumed".to_owned()));
        }
        let stream = ask(client, args, None)?;
        return copy(stream, args.format, None, &mut io::stdout().lock()).map(|_| ()).map_err(cut_off);
    }
    let (mut file, last) = open(args)?;
    let stream = ask(client, args, last)?;
    let written = copy(stream, args.format, last, &mut file).map_err(cut_off)?;
    file.sync_all().map_err(Failure::io(args.file.display()))?;
    let statement = beside(args.file, &client.statement()?)?;
    let (name, statement) = (args.file.display().to_string(), statement.display().to_string());
    let events = written.events;
    let position = written.last.map(|last| last.position);
    let facts = json!({ "file": name, "events": events, "position": position, "statement": statement });
    let sentence = format!("{events} events written to {name}; where the history ends, signed, to {statement}.");
    output.done(&sentence, facts);
    Ok(())
}

/// Leaves the team's signed statement beside the export: its lines carry hashes, the last one's is in the statement.
fn beside(file: &Path, statement: &str) -> Result<PathBuf, Failure> {
    let mut name = file.as_os_str().to_owned();
    name.push(".statement");
    let path = PathBuf::from(name);
    std::fs::write(&path, statement).map_err(Failure::io(path.display()))?;
    Ok(path)
}

fn ask(client: &Client, args: &Trail<'_>, last: Option<Place>) -> Result<Stream, Failure> {
    let mut query = vec![("format", args.format.name().to_owned())];
    query.extend(args.from.map(|from| ("from", from.to_string())));
    query.extend(args.to.map(|to| ("to", to.to_string())));
    query.extend(last.map(|last| ("after", last.position.to_string())));
    client.open("/audit/export", &query)
}

/// A new file, or one that was cut off, cut to its whole lines and open behind the last of them.
fn open(args: &Trail<'_>) -> Result<(File, Option<Place>), Failure> {
    let io = |error| Failure::io(args.file.display())(error);
    if !args.resume {
        return match File::create_new(args.file) {
            Ok(file) => Ok((file, None)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::Refused(format!(
                "{} exists; give another name, or --resume to go on with it",
                args.file.display()
            ))),
            Err(error) => Err(io(error)),
        };
    }
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(args.file).map_err(io)?;
    let (end, line) = last_whole_line(&mut file).map_err(io)?;
    let last = place_of(args.format, &line);
    let is_heading = args.format == Format::Csv && line.starts_with(b"position,");
    if last.is_none() && !line.is_empty() && !is_heading {
        return Err(Failure::Refused(format!(
            "{} is no export of the form {}; nothing was changed",
            args.file.display(),
            args.format.name()
        )));
    }
    // A heading alone is written anew.
    let end = if last.is_some() { end } else { 0 };
    file.set_len(end).map_err(io)?;
    file.seek(SeekFrom::Start(end)).map_err(io)?;
    Ok((file, last))
}

/// The end of the last whole line, and the line without its end.
fn last_whole_line(file: &mut File) -> io::Result<(u64, Vec<u8>)> {
    // No line is that long: an event has at most 65,535 bytes of meta and a body of a few hundred.
    const LINE_LEN_MAX: u64 = 1 << 20;
    let len = file.seek(SeekFrom::End(0))?;
    let start = len.saturating_sub(LINE_LEN_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(LINE_LEN_MAX).read_to_end(&mut tail)?;
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else { return Ok((0, tail)) };
    let line = &tail[..end];
    let line = line.iter().rposition(|byte| *byte == b'\n').map_or(line, |before| &line[before + 1..]);
    Ok((start + end as u64 + 1, line.strip_suffix(b"\r").unwrap_or(line).to_vec()))
}

/// What was written.
struct Written {
    events: u64,
    last: Option<Place>,
}

/// Why it ended too early, and the last event written whole.
struct CutOff {
    error: io::Error,
    last: Option<Place>,
}

fn cut_off(CutOff { error, last }: CutOff) -> Failure {
    let how_far = last.map_or("before its first event".to_owned(), |last| format!("behind position {}", last.position));
    Failure::Refused(format!("the export was cut off {how_far}: {error}. --resume goes on there"))
}

/// Writes line by line, so that a whole line is never taken for half of one.
fn copy(stream: Stream, format: Format, from: Option<Place>, to: &mut dyn Write) -> Result<Written, CutOff> {
    // Reading a line's place costs more than writing it: the bar does not need each.
    const LINES_A_LOOK: u64 = 256;
    let (bar, total) = (Bar::of_events(), stream.stream_events);
    let (mut reader, mut writer) = (BufReader::with_capacity(1 << 17, stream.body), io::BufWriter::new(to));
    let (mut line, mut last_line, mut lines) = (Vec::new(), Vec::new(), 0u64);
    let outcome = loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => break Ok(()),
            Ok(_) if !line.ends_with(b"\n") => break Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
        if let Err(error) = writer.write_all(&line) {
            break Err(error);
        }
        lines += 1;
        if lines % LINES_A_LOOK == 0
            && let (Some(place), Some(total)) = (place_of(format, line.trim_ascii_end()), total)
        {
            bar.at((place.revision + 1).min(total), total);
        }
        std::mem::swap(&mut line, &mut last_line);
    };
    bar.clear();
    let last = place_of(format, last_line.trim_ascii_end()).or(from);
    let headings = u64::from(format == Format::Csv && from.is_none() && lines > 0);
    let outcome = outcome.and_then(|()| writer.flush());
    outcome.map(|()| Written { events: lines - headings, last }).map_err(|error| CutOff { error, last })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_tells_its_place() {
        let place = Some(Place { position: 70, revision: 7 });
        for (format, line, expected) in [
            (Format::Jsonl, r#"{"position":70,"revision":7,"id":"x"}"#, place),
            (Format::Jsonl, r#"{"position":70,"revisi"#, None),
            (Format::Ocsf, r#"{"metadata":{"sequence":70},"unmapped":{"revision":7}}"#, place),
            (Format::Ocsf, r#"{"position":70,"revision":7}"#, None),
            (Format::Csv, "70,7,2026-03-03T12:00:00.000000Z", place),
            (Format::Csv, "position,revision,recorded_at", None),
            (Format::Csv, "", None),
        ] {
            assert_eq!(place_of(format, line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn a_cut_off_file_is_cut_to_its_whole_lines() {
        for (text, end, line) in
            [("", 0, ""), ("half", 0, "half"), ("one\n", 4, "one"), ("one\ntwo\r\nhal", 9, "two"), ("\n", 1, "")]
        {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            assert_eq!(last_whole_line(&mut file).unwrap(), (end, line.as_bytes().to_vec()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..60), json in "[{}\\[\\]\":,a-z0-9]{0,40}") {
            for format in [Format::Jsonl, Format::Csv, Format::Ocsf] {
                let _ = (place_of(format, &line), place_of(format, json.as_bytes()));
            }
        }
    }
}
