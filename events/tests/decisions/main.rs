//! Every rule of a team, its members and its credentials, as given-when-then tables over the real bytes: each commit is
//! encoded, parsed, decoded and folded before the next command is decided.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the finding")]

mod departures;
mod devices;
mod expiry;
mod found;
mod impossible;
mod issuing;
mod members;
mod operators;
mod property;
mod revoking;
mod roles;
mod rotation;
mod story;
mod webhooks;
mod words;
