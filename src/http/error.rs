//! The one place where a refusal of the domain becomes an answer over HTTP.

use std::time::Duration;

use http::StatusCode;
use keyledger_events::team::Refusal;

use super::Problem;
use crate::ledger::LedgerError;

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (code, detail) = (refusal.code(), format!("{}.", capitalised(&refusal.to_string())));
        match refusal {
            // Byte for byte what a foreign id answers.
            Refusal::UnknownTeam | Refusal::UnknownCredential | Refusal::UnknownMember | Refusal::UnknownWebhook => {
                Self::not_found()
            }
            Refusal::Forbidden => Self::forbidden(code, detail),
            Refusal::LifetimeTooLong { days_max } => Self::forbidden(code, detail).with_member("days_max", days_max),
            Refusal::NeverNotAllowed => Self::forbidden(code, detail),
            Refusal::LifetimeOutOfRange | Refusal::NotAWebhookUrl | Refusal::UnknownEventType => {
                Self::bad_request(code, detail)
            }
            Refusal::Stale { actual } => Self::conflict(code, detail).with_member("revision", actual.0),
            Refusal::Ended
            | Refusal::NotRotatable
            | Refusal::AlreadyMember
            | Refusal::OwnerStays
            | Refusal::NotAHeir
            | Refusal::NotTheirs(_)
            | Refusal::DecidedTwice(_)
            | Refusal::TooManyDevices
            | Refusal::TooManyKeys
            | Refusal::TooManyWebhooks
            | Refusal::StillMember => Self::conflict(code, detail),
        }
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        let detail = format!("{}.", capitalised(&error.to_string()));
        match error {
            LedgerError::Refused(refusal) => refusal.into(),
            LedgerError::KeyReused => Self::unprocessable("idempotency_key_reused", detail),
            LedgerError::Full => Self::insufficient_storage(),
            LedgerError::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "decision_too_large", detail),
            LedgerError::Busy => Self::unavailable("busy", detail).with_retry_after(Duration::from_secs(1)),
            LedgerError::Unknown => {
                Self::unavailable("outcome_unknown", detail).with_retry_after(Duration::from_secs(1))
            }
            LedgerError::Unsound => Self::internal(),
            LedgerError::Failed => Self::unavailable("ledger_failed", detail),
        }
    }
}

fn capitalised(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
