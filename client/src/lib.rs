//! A client of keyledger for services and programs in Rust: is this key good, here, now? And: issue, list, rotate, end.
//!
//! A service that verifies a key on each request is better served by
//! `keyledger_projections::edge`, which answers in its own process; this client
//! asks the server each time.
//!
//! ```no_run
//! use keyledger_client::{Client, Surface, Verification};
//!
//! # async fn handler(presented: &str) -> Result<(), keyledger_client::Error> {
//! let ledger = Client::new("https://ledger.example")?;
//! match ledger.verify(presented, Some(Surface::Runtime), None).await? {
//!     Verification::Accepted(key) => println!("{} of team {}", key.credential_id, key.team_id),
//!     Verification::Invalid => println!("401"),
//!     Verification::WrongSurface => println!("403"),
//! }
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "http")]
mod client;
#[cfg(feature = "http")]
mod transport;
pub mod types;

pub use keyledger_events::{
    CredentialId, PersonId, TeamId, Timestamp,
    presented::{AddressClass, Surface},
    secret::Kind,
};

#[cfg(feature = "http")]
pub use self::{
    client::{Issue, List, Verification},
    transport::{Client, Error},
};
