//! Points in a ledger's history, and the two questions that can be asked of one.

use std::{fmt, str::FromStr};

use keyledger_events::{Position, Timestamp};
use serde::{Deserialize, Serialize};

/// A point in history: an instant of the clock, or an event's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// What held at this instant, by all that is known now.
    Instant(Timestamp),
    /// What was known once the event at this position, and all others of its commit, was appended.
    Position(Position),
}

impl FromStr for Point {
    type Err = PointError;

    /// Digits are a position, anything else must be an RFC 3339 instant.
    fn from_str(text: &str) -> Result<Self, PointError> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(Position(position)));
        }
        text.parse().map(Self::Instant).map_err(|_| PointError)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instant(at) => at.fmt(f),
            Self::Position(position) => write!(f, "position {position}"),
        }
    }
}

/// The text is neither a position nor an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a position, such as 1234, nor an RFC 3339 instant, such as 2026-03-03T12:00:00Z")]
pub struct PointError;

/// A question's two times, kept apart: for which instant is asked, and how much of the log may be used to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The instant asked about; none: that of the last event that may be used.
    pub at: Option<Timestamp>,
    /// The last position that may be used, rounded up to its whole commit; none: all there are.
    pub known_at: Option<Position>,
}

impl From<Point> for Moment {
    fn from(point: Point) -> Self {
        match point {
            Point::Instant(at) => Self { at: Some(at), known_at: None },
            Point::Position(position) => Self { at: None, known_at: Some(position) },
        }
    }
}

impl From<ResolvedMoment> for Moment {
    fn from(moment: ResolvedMoment) -> Self {
        Self { at: Some(moment.at), known_at: moment.known_at }
    }
}

/// A [`Moment`] once the log has been read: both times are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedMoment {
    /// The instant the answer is about.
    pub at: Timestamp,
    /// The last position the answer takes into account; none in an empty log.
    pub known_at: Option<Position>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_positions_and_the_rest_instants() {
        let instant = "2026-03-03T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("0", Ok(Point::Position(Position(0)))),
            ("1234", Ok(Point::Position(Position(1234)))),
            ("2026-03-03T12:00:00Z", Ok(Point::Instant(instant))),
            ("2026-03-03T13:00:00+01:00", Ok(Point::Instant(instant))),
            ("-1", Err(PointError)),
            ("99999999999999999999999", Err(PointError)),
            ("yesterday", Err(PointError)),
            ("", Err(PointError)),
        ] {
            assert_eq!(text.parse::<Point>(), expected, "{text}");
        }
    }
}
