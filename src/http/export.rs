//! The audit trail in the forms that other people's tools read. Whatever the form, a line carries its event's position:
//! whoever was cut off goes on behind it.

pub mod csv;
pub mod ocsf;

use http::HeaderValue;
use keyledger_events::{TeamId, commit::PlacedRecord};
use keyledger_projections::team_view::effective_at;

use super::{
    auth::Caller,
    views::{EventBody, event_body},
};
use crate::app::App;

/// A form of export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The events as `GET /audit` shows them, one JSON object a line.
    Jsonl,
    /// RFC 4180, one row an event: see [`csv`].
    Csv,
    /// OCSF, one JSON object a line: see [`ocsf`].
    Ocsf,
}

impl Format {
    /// The form of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Jsonl, Self::Csv, Self::Ocsf].into_iter().find(|format| format.name() == name)
    }

    /// Its name, as [`Format::named`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Ocsf => "ocsf",
        }
    }

    /// Its media type.
    pub const fn content_type(self) -> HeaderValue {
        match self {
            Self::Jsonl | Self::Ocsf => HeaderValue::from_static("application/x-ndjson"),
            Self::Csv => HeaderValue::from_static("text/csv; charset=utf-8"),
        }
    }

    /// What a browser calls the file.
    pub fn disposition(self, team: TeamId) -> Option<HeaderValue> {
        let suffix = match self {
            Self::Jsonl | Self::Csv => self.name(),
            Self::Ocsf => "ocsf.jsonl",
        };
        HeaderValue::try_from(format!("attachment; filename=\"keyledger-{team}.{suffix}\"")).ok()
    }

    /// What stands before the first event.
    pub fn heading(self) -> Vec<u8> {
        match self {
            Self::Jsonl | Self::Ocsf => Vec::new(),
            Self::Csv => csv::heading(),
        }
    }

    /// The lines of some events, as `caller` may see them.
    pub fn lines(self, app: &App, caller: &Caller, events: Vec<PlacedRecord>) -> Vec<u8> {
        let mut lines = Vec::new();
        for placed in events {
            let (event, effective_at) = (placed.record.event.clone(), effective_at(&placed));
            let body: EventBody = event_body(app, caller, placed);
            match self {
                Self::Jsonl => json_line(&body, &mut lines),
                Self::Csv => csv::row(&body, effective_at, &mut lines),
                Self::Ocsf => json_line(&ocsf::event(&body, &event, effective_at), &mut lines),
            }
        }
        lines
    }
}

fn json_line(value: &impl serde::Serialize, lines: &mut Vec<u8>) {
    lines.extend(serde_json::to_vec(value).unwrap_or_default());
    lines.push(b'\n');
}
