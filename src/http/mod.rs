//! Everything between a socket and a handler.

pub mod body;
pub mod connection;
pub mod docs;
pub mod extract;
pub mod health;
pub mod limits;
pub mod metrics;
pub mod middleware;
pub mod problem;
pub mod server;
pub mod text;

pub use extract::{ApiJson, ApiJsonOrDefault, ApiPath, ApiQuery};
pub use problem::{Challenge, Problem};
pub use text::{Name, Note};
