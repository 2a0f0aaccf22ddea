//! The calls.

use keyledger_events::{
    CredentialId, PersonId, TeamId, Timestamp,
    presented::Surface,
    secret::{Kind, Presented},
};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    transport::{Client, Error},
    types::{Accepted, BatchAnswer, Credential, CredentialPage, Issued, PairingPolled, PairingStarted, RawKey},
};

/// How a key was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// It is good.
    Accepted(Accepted),
    /// Malformed, unknown, expired, revoked, or another team's: not told apart. Answer 401.
    Invalid,
    /// Alive, and not for this surface. Answer 403.
    WrongSurface,
}

/// What to issue.
#[derive(Clone, Debug, Serialize)]
pub struct Issue<'a> {
    /// [`Kind::Integration`] or [`Kind::Agent`]; a device pairs, a service key is the operator's to issue.
    pub kind: Kind,
    /// What to call it: 1–100 characters.
    pub display_name: &'a str,
    /// Its lifetime, 1–365 days; none: it never ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_days: Option<u16>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<&'a str>,
}

/// Which credentials to list. Each that is set narrows the list.
#[derive(Clone, Debug, Default, Serialize)]
pub struct List<'a> {
    /// Of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// `active`, `expired` or `revoked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'a str>,
    /// Issued by this person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_by: Option<PersonId>,
    /// Only those whose holder has left.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub departed: bool,
    /// Ending by themselves before this instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_before: Option<Timestamp>,
    /// Not used for so many days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused_days: Option<u32>,
    /// With this in their name or prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<&'a str>,
    /// As the list stood: a position, or an instant in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<&'a str>,
}

impl Client {
    /// Judges a key that somebody presents. What is not of a key's form is refused here, without a request.
    ///
    /// # Errors
    /// [`Error`], when the ledger gave no verdict: deny then.
    pub async fn verify(
        &self,
        presented: &str,
        surface: Option<Surface>,
        team: Option<TeamId>,
    ) -> Result<Verification, Error> {
        if Presented::parse(presented.as_bytes()).is_err() {
            return Ok(Verification::Invalid);
        }
        let body = json!({ "surface": surface, "team_id": team });
        match self.as_bearer(presented)?.call(Method::POST, "/api/v1/verify", &(), Some(&body)).await {
            Ok(accepted) => Ok(Verification::Accepted(accepted)),
            Err(Error::Refused(problem)) if problem.status == 401 => Ok(Verification::Invalid),
            Err(Error::Refused(problem)) if problem.status == 403 => Ok(Verification::WrongSurface),
            Err(error) => Err(error),
        }
    }

    /// Judges up to 1,000 keys, with the precise code of each. Needs an `sv-` key.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn verify_batch(&self, keys: &[&str], surface: Option<Surface>) -> Result<BatchAnswer, Error> {
        let body = json!({ "keys": keys, "surface": surface });
        self.call(Method::POST, "/api/v1/verify/batch", &(), Some(&body)).await
    }

    /// Issues a key. Tried again with the same idempotency key where the outcome is not known, so that it is issued once;
    /// if the answer with the secret was lost on the way, `raw_key` is none: revoke it and issue another.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn issue(&self, issue: &Issue<'_>) -> Result<Issued, Error> {
        self.write(Method::POST, "/api/v1/credentials", &json!(issue)).await
    }

    /// One page of the team's credentials, newest first; pages count from 1 and hold at most 100.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn list(&self, list: &List<'_>, current_page: u32, per_page: u32) -> Result<CredentialPage, Error> {
        #[derive(Serialize)]
        struct Query<'a> {
            #[serde(flatten)]
            list: &'a List<'a>,
            current_page: u32,
            per_page: u32,
        }
        self.call(Method::GET, "/api/v1/credentials", &Query { list, current_page, per_page }, None).await
    }

    /// One credential.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn credential(&self, id: CredentialId) -> Result<Credential, Error> {
        self.call(Method::GET, &format!("/api/v1/credentials/{id}"), &(), None).await
    }

    /// Ends a key, finally; a device takes its companion along. Ending it again changes nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn revoke(&self, id: CredentialId, reason: Option<&str>) -> Result<(), Error> {
        let body = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
        self.write::<Option<Value>>(Method::DELETE, &format!("/api/v1/credentials/{id}"), &body).await.map(drop)
    }

    /// Issues a successor; the old key lives on for `overlap_seconds` (at most 30 days), never longer than it would have.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn rotate(
        &self,
        id: CredentialId,
        overlap_seconds: u32,
        expires_in_days: Option<u16>,
    ) -> Result<Issued, Error> {
        let body = json!({ "overlap_seconds": overlap_seconds, "expires_in_days": expires_in_days });
        self.write(Method::POST, &format!("/api/v1/credentials/{id}/rotate"), &body).await
    }

    /// Starts to pair this device; show the person `user_code` and `verification_uri`.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn start_pairing(&self, device_name: &str) -> Result<PairingStarted, Error> {
        let body = json!({ "device_name": device_name });
        self.call(Method::POST, "/api/v1/desktop/pair/start", &(), Some(&body)).await
    }

    /// Asks what became of a pairing; no more often than its `interval` says. The keys are answered once.
    ///
    /// # Errors
    /// [`Error`]; 404 when it has run out, or its keys were fetched.
    pub async fn poll_pairing(&self, device_code: &RawKey) -> Result<PairingPolled, Error> {
        let body = json!({ "device_code": device_code });
        self.call(Method::POST, "/api/v1/desktop/pair/poll", &(), Some(&body)).await
    }
}
