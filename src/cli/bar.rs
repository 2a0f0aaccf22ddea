//! Progress, on standard error and only where that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use keyledger_replay::Progress;

/// A progress bar.
pub struct Bar(ProgressBar);

impl Bar {
    /// Of bytes.
    pub fn of_bytes() -> Self {
        Self::new("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
    }

    /// Of events.
    pub fn of_events() -> Self {
        Self::new("{bar:40} {human_pos} of {human_len} events, {per_sec}, {eta} left")
    }

    /// Of commits.
    pub fn of_commits() -> Self {
        Self::new("{bar:40} {human_pos} of {human_len} commits, {per_sec}, {eta} left")
    }

    /// Of bytes, nobody knows how many.
    pub fn of_unknown_bytes() -> Self {
        Self::new("{spinner} {bytes} read, {bytes_per_sec}")
    }

    fn new(template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        Self(bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    /// Shows the bar while `work` lasts, and leaves nothing of it.
    pub fn during<T>(self, work: impl FnOnce(Progress<'_>) -> T) -> T {
        let done = work(&|done, total| {
            self.0.set_length(total);
            self.0.set_position(done);
        });
        self.0.finish_and_clear();
        done
    }

    /// So many of so many are done.
    pub fn at(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}
