//! The service's own log: lines on standard error, scrubbed on their way out.

use std::io;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    config::{Config, LogFormat},
    scrub::{ScrubbingWriter, scrub},
};

/// Sets up the log and the panic hook for the process. The first call decides; later ones change nothing.
pub fn init(config: &Config) {
    let filter = EnvFilter::try_new(&config.log_filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(|| ScrubbingWriter(io::stderr()));
    let registry = tracing_subscriber::registry().with(filter);
    let first = match config.log_format {
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if first.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let payload = panic.payload();
            let what = payload.downcast_ref::<&str>().copied();
            let what = what.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(target: "keyledger::panic", place, "{}", scrub(what));
        }));
    }
}
