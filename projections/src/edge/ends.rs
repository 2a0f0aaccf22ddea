//! Who keeps something open on a key's word hears here that it has ended.

use keyledger_events::CredentialId;
use tokio::sync::broadcast::{self, error::RecvError};

/// How many ends a receiver may be behind; then it hears [`Ended::Any`] instead.
const BACKLOG: usize = 4096;

/// What has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This credential: revoked, ended with its device, or past its end by the clock.
    Credential(CredentialId),
    /// Whatever is held may have: verify all of it again. Said when the edge stops accepting keys (it is stale, or its state
    /// in doubt), when it has fetched another state, and to a receiver that was too slow.
    Any,
}

#[derive(Debug)]
pub(super) struct Ends(broadcast::Sender<Ended>);

impl Default for Ends {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

impl Ends {
    pub(super) fn subscribe(&self) -> EndedReceiver {
        EndedReceiver(self.0.subscribe())
    }

    pub(super) fn has_listeners(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(super) fn tell(&self, ended: Ended) {
        // Nobody may be listening.
        let _ = self.0.send(ended);
    }
}

/// From [`super::Edge::ended`]. It misses nothing that ends after it was made: verify a key after making it, not before.
#[derive(Debug)]
pub struct EndedReceiver(broadcast::Receiver<Ended>);

impl EndedReceiver {
    /// The next; none once the edge was dropped.
    pub async fn recv(&mut self) -> Option<Ended> {
        Self::heard(self.0.recv().await)
    }

    /// The same for who may block: not from within an asynchronous runtime.
    pub fn blocking_recv(&mut self) -> Option<Ended> {
        Self::heard(self.0.blocking_recv())
    }

    fn heard(heard: Result<Ended, RecvError>) -> Option<Ended> {
        match heard {
            Ok(ended) => Some(ended),
            Err(RecvError::Lagged(_)) => Some(Ended::Any),
            Err(RecvError::Closed) => None,
        }
    }
}
