//! Everything between a socket and a handler, and the handlers.

pub mod auth;
pub mod body;
pub mod connection;
pub mod docs;
mod error;
pub mod export;
mod extract;
pub mod forward_auth;
pub mod health;
pub mod limits;
pub mod metrics;
pub mod middleware;
pub mod oauth;
pub mod openapi;
pub mod problem;
pub mod routes;
pub mod server;
pub mod service;
pub mod text;
pub mod views;
pub mod write;

pub use extract::{ApiJson, ApiJsonOrDefault, ApiPath, ApiQuery};
pub use problem::{Challenge, Problem};
pub use text::{Name, Note};
