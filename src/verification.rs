//! What a presented key is worth, whichever way it came: `/verify`, a proxy's question, OAuth introspection. Whoever asks
//! comes through [`App::verify_key`], so that last use, knocks of dead keys and metrics never depend on the way.

use std::net::IpAddr;

use keyledger_events::{
    TeamId,
    presented::AddressClass,
    secret::{Presented, SecretHash},
};
use keyledger_projections::{Denied, Surface, Verdict};

use crate::{app::App, dead_keys::Place, http::metrics::VerifyOutcome};

impl App {
    /// Judges a key that somebody presents now, notes its use, and counts the outcome. It reads memory only. `client` is
    /// where the key was presented from, asked for only when that is worth knowing.
    ///
    /// # Errors
    /// [`Denied`]. Every doubt denies. Only [`Denied::WrongSurface`] may be told from the others to who presented it.
    pub fn verify_key(
        &self,
        presented: &[u8],
        surface: Option<Surface>,
        team: Option<TeamId>,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Verdict, Denied> {
        match Presented::parse(presented) {
            Ok(presented) => self.verify_hash(&presented.hash(), surface, team, client),
            Err(_) => {
                self.metrics.verified(VerifyOutcome::Malformed);
                Err(Denied::Malformed)
            }
        }
    }

    /// As [`App::verify_key`], for who has the hash already.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn verify_hash(
        &self,
        hash: &SecretHash,
        surface: Option<Surface>,
        team: Option<TeamId>,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Verdict, Denied> {
        let now = self.now();
        let active = self.projections.active();
        let judged = active.judge(hash, surface, team, now);
        match &judged {
            Ok(verdict) => {
                active.touch(verdict.handle, now, surface, || AddressClass::of(client()));
                self.metrics.verified(VerifyOutcome::Valid);
            }
            Err(denied) => {
                if let (Denied::Revoked | Denied::Expired, Some(known)) = (denied, active.known(hash, now)) {
                    self.dead_keys.heard(&known, now, || Place::of(surface, client()));
                }
                self.metrics.verified(outcome(denied));
            }
        }
        judged
    }
}

fn outcome(denied: &Denied) -> VerifyOutcome {
    match denied {
        Denied::Malformed => VerifyOutcome::Malformed,
        Denied::Unknown => VerifyOutcome::Unknown,
        Denied::Revoked => VerifyOutcome::Revoked,
        Denied::Expired => VerifyOutcome::Expired,
        Denied::WrongTeam | Denied::WrongSurface(_) => VerifyOutcome::WrongSurface,
    }
}
