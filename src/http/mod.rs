//! Everything between a socket and a handler.

pub mod body;
pub mod connection;
pub mod extract;
pub mod metrics;
pub mod problem;
pub mod server;
pub mod text;

pub use extract::{ApiJson, ApiJsonOrDefault, ApiPath, ApiQuery};
pub use problem::{Challenge, Problem};
pub use text::{Name, Note};
