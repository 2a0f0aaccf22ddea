//! keyledger, the service: the only owner of HTTP, the command line, the wall clock and randomness.
//!
//! The decisions and the log live in `keyledger-events`, what is derived from the log in `keyledger-projections`, the
//! auditor's read-only view in `keyledger-replay`.

pub mod cli;
pub mod config;
pub mod http;
pub mod scrub;
pub mod telemetry;

/// The service.
pub mod serve {
    /// Why the service did not start, or stopped.
    #[derive(Debug, thiserror::Error)]
    #[error("the service is not part of this build yet")]
    pub struct ServeError;

    impl ServeError {
        /// The process's exit code.
        pub const fn exit_code(&self) -> u8 {
            1
        }
    }

    /// Runs the service.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn run(_: crate::config::Config) -> Result<(), ServeError> {
        Err(ServeError)
    }
}
