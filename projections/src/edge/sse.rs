//! Server-sent events as bytes arrive, by the rules of the HTML standard (§9.2.6, "interpreting an event stream"). Whatever
//! is sent, no more than one event's bytes are held.

/// Longer events are refused, in bytes. A commit changes a few thousand keys at most.
pub(super) const EVENT_LEN_MAX: usize = 4 << 20;

/// What was dispatched. An event without data is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// Its type; empty for `message`.
    pub name: String,
    /// Its data, lines joined with a line feed.
    pub data: String,
}

/// More was sent as one event than is taken, or it is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAStream;

/// Takes bytes in any pieces.
#[derive(Debug, Default)]
pub(super) struct SseParser {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed right behind it ends no other line.
    after_return: bool,
    event: SseEvent,
    has_data: bool,
}

impl SseParser {
    /// The events that end within these bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, NotAStream> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let piece = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + self.event.data.len() + piece.len() > EVENT_LEN_MAX {
                return Err(NotAStream);
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else { break };
            self.after_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            let line = std::str::from_utf8(&line).map_err(|_| NotAStream)?;
            events.extend(self.end_line(line));
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Positions stand in the data, comments keep a connection warm, and when to come again is ours to say.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn streams_are_read_as_the_standard_has_it() {
        for (text, events) in [
            ("data: a\n\n", vec![event("", "a")]),
            ("event: head\nid: 7\ndata:{\"x\":1}\n\n", vec![event("head", "{\"x\":1}")]),
            ("data: a\r\ndata:  b\rdata\n\r\n", vec![event("", "a\n b\n")]),
            (": warm\n\nevent: x\n\ndata: y\n\n", vec![event("", "y")]),
            ("data: cut\n", vec![]),
        ] {
            assert_eq!(SseParser::default().push(text.as_bytes()), Ok(events), "{text:?}");
        }
    }

    #[test]
    fn no_more_is_held_than_one_event_may_have() {
        let mut parser = SseParser::default();
        let line = format!("data: {}\n", "x".repeat(1 << 20));
        assert!((0..3).all(|_| parser.push(line.as_bytes()).is_ok()));
        assert_eq!(parser.push(line.as_bytes()), Err(NotAStream));
        assert_eq!(SseParser::default().push(&[b'd', 0xff, b'\n']), Err(NotAStream));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            text in "((data|event|id|x)?:? ?[a-zé]{0,5}(\n|\r|\r\n)){0,12}", cuts in prop::collection::vec(0..99usize, 0..9),
        ) {
            let whole = SseParser::default().push(text.as_bytes()).unwrap();
            let (mut parser, mut pieces, mut rest) = (SseParser::default(), vec![], text.as_bytes());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.extend(parser.push(piece).unwrap());
                rest = after;
            }
            pieces.extend(parser.push(rest).unwrap());
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SseParser::default().push(&bytes);
        }
    }
}
