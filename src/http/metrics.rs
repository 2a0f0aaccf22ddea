//! What the service counts, for Prometheus.
//!
//! Each ledger has a recorder of its own, not the process's, so that two in one process don't mix. Handles are made once:
//! counting on the hot path is one atomic addition, never a look-up.

use std::{fmt, time::Duration};

use http::StatusCode;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::server::Closed;
use crate::feed::FeedEnd;
use crate::webhooks::sending::Outcome;

/// Upper bounds of durations, in seconds: from a verification to a slow disk.
const SECONDS_BUCKETS: &[f64] =
    &[0.000_01, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How a verification ended, for the counters. Finer than what the bearer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyOutcome {
    /// Alive and on its surface.
    Valid,
    /// Not a credential's form, or its checksum is wrong.
    Malformed,
    /// Well-formed and never issued.
    Unknown,
    /// Past its end.
    Expired,
    /// Ended by somebody.
    Revoked,
    /// Alive, on the wrong surface or for another team.
    WrongSurface,
    /// Refused for its rate.
    RateLimited,
    /// The view was too stale to say yes.
    Denied,
}

impl VerifyOutcome {
    const ALL: [Self; 8] = [
        Self::Valid,
        Self::Malformed,
        Self::Unknown,
        Self::Expired,
        Self::Revoked,
        Self::WrongSurface,
        Self::RateLimited,
        Self::Denied,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::WrongSurface => "wrong_surface",
            Self::RateLimited => "rate_limited",
            Self::Denied => "denied",
        }
    }
}

/// Every counter, gauge and histogram of one ledger.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    verifications: [Counter; VerifyOutcome::ALL.len()],
    closed: [Counter; Closed::ALL.len()],
    /// Open HTTP connections.
    pub connections_open: Gauge,
    /// Requests refused with 429.
    pub rate_limited: Counter,
    /// Panics caught while answering.
    pub panics: Counter,
    /// Events appended by this process.
    pub events_appended: Counter,
    /// Commits appended by this process.
    pub commits_appended: Counter,
    /// From a commit's proposal to its being durable, in seconds.
    pub append_seconds: Histogram,
    /// Events in the log.
    pub log_positions: Gauge,
    /// Events the projections have applied.
    pub projected_positions: Gauge,
    /// 1 once the log has refused to go on, else 0.
    pub log_poisoned: Gauge,
    /// Expiries recorded by the sweeper.
    pub expiries_swept: Counter,
    /// Events in the newest tree head that enough witnesses have cosigned.
    pub witnessed_positions: Gauge,
    /// Presentations of dead keys that could not be noted.
    pub dead_keys_dropped: Counter,
    /// Heads that a witness was asked about and has not cosigned.
    pub witness_failures: Counter,
    /// Followers of the feed.
    pub feed_followers: Gauge,
    /// Messages that followers were sent.
    pub feed_messages: Counter,
    /// Times a follower fell behind what is kept in memory and went on from the log.
    pub feed_lagged: Counter,
    feed_ended: [Counter; FeedEnd::ALL.len()],
    webhook_deliveries: [Counter; Outcome::NAMES.len()],
    /// Webhook endpoints that nothing is tried with any more.
    pub webhooks_parked: Gauge,
    /// How long the oldest message waits that a webhook's receiver has not taken, in seconds.
    pub webhook_lag_seconds: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything, at zero.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)
            .unwrap_or_else(|_| PrometheusBuilder::new())
            .build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, describe);
        let with = |make: &dyn Fn() -> Counter| metrics::with_local_recorder(&recorder, make);
        let gauge = |name: &'static str| metrics::with_local_recorder(&recorder, || gauge!(name));
        let count = |name: &'static str| metrics::with_local_recorder(&recorder, || counter!(name));
        Self {
            verifications: VerifyOutcome::ALL
                .map(|outcome| with(&|| counter!("keyledger_verifications_total", "outcome" => outcome.name()))),
            closed: Closed::ALL
                .map(|why| with(&|| counter!("keyledger_connections_closed_total", "why" => why.name()))),
            connections_open: gauge("keyledger_connections_open"),
            rate_limited: count("keyledger_rate_limited_total"),
            panics: count("keyledger_panics_total"),
            events_appended: count("keyledger_events_appended_total"),
            commits_appended: count("keyledger_commits_appended_total"),
            append_seconds: metrics::with_local_recorder(&recorder, || histogram!("keyledger_append_seconds")),
            log_positions: gauge("keyledger_log_positions"),
            projected_positions: gauge("keyledger_projected_positions"),
            log_poisoned: gauge("keyledger_log_poisoned"),
            expiries_swept: count("keyledger_expiries_swept_total"),
            witnessed_positions: gauge("keyledger_witnessed_positions"),
            dead_keys_dropped: count("keyledger_dead_keys_dropped_total"),
            witness_failures: count("keyledger_witness_failures_total"),
            feed_followers: gauge("keyledger_feed_followers"),
            feed_messages: count("keyledger_feed_messages_total"),
            feed_lagged: count("keyledger_feed_lagged_total"),
            feed_ended: FeedEnd::ALL.map(|why| with(&|| counter!("keyledger_feed_ended_total", "why" => why.name()))),
            webhook_deliveries: Outcome::NAMES
                .map(|outcome| with(&|| counter!("keyledger_webhook_deliveries_total", "outcome" => outcome))),
            webhooks_parked: gauge("keyledger_webhooks_parked"),
            webhook_lag_seconds: gauge("keyledger_webhook_lag_seconds"),
            recorder,
            handle,
        }
    }

    /// Counts a verification.
    #[inline]
    pub fn verified(&self, outcome: VerifyOutcome) {
        self.verifications[outcome as usize].increment(1);
    }

    /// Counts an attempt to deliver to a webhook.
    pub fn webhook_tried(&self, outcome: &Outcome) {
        self.webhook_deliveries[outcome.number()].increment(1);
    }

    /// Counts a connection's end.
    pub fn connection_closed(&self, why: Closed) {
        self.closed[why as usize].increment(1);
    }

    /// Counts the end of a follower's feed.
    pub fn feed_ended(&self, why: FeedEnd) {
        self.feed_ended[why as usize].increment(1);
    }

    /// Counts an answer of the router's. `route` is a template, so that the number of series stays small.
    pub fn answered(&self, method: &'static str, route: &str, status: StatusCode, took: Duration) {
        metrics::with_local_recorder(&self.recorder, || {
            let route = route.to_owned();
            counter!("keyledger_http_requests_total", "method" => method, "route" => route.clone(), "status" => status.as_u16().to_string())
                .increment(1);
            histogram!("keyledger_http_request_seconds", "method" => method, "route" => route).record(took);
        });
    }

    /// The Prometheus text format (0.0.4).
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }

    /// Folds the histograms' samples together, which otherwise wait in memory for the next scrape. The server calls it.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

fn describe() {
    describe_counter!(
        "keyledger_verifications_total",
        "Verifications by outcome; the outcome is finer than the answer"
    );
    describe_counter!("keyledger_connections_closed_total", "HTTP connections that ended, by why");
    describe_gauge!("keyledger_connections_open", "HTTP connections open now");
    describe_counter!("keyledger_rate_limited_total", "Requests refused with 429");
    describe_counter!("keyledger_panics_total", "Requests that ended in a panic; each is a defect");
    describe_counter!("keyledger_events_appended_total", "Events made durable by this process");
    describe_counter!("keyledger_commits_appended_total", "Commits made durable by this process");
    describe_histogram!("keyledger_append_seconds", "From a commit's proposal to its being durable, in seconds");
    describe_gauge!("keyledger_log_positions", "Events in the log");
    describe_gauge!("keyledger_projected_positions", "Events the projections have applied");
    describe_gauge!("keyledger_log_poisoned", "1 once a failed fsync has ended all writing, else 0");
    describe_counter!("keyledger_expiries_swept_total", "Expiries recorded by the sweeper");
    describe_gauge!("keyledger_witnessed_positions", "Events in the newest tree head that meets the witness policy");
    describe_counter!("keyledger_dead_keys_dropped_total", "Presentations of dead keys that could not be noted");
    describe_counter!("keyledger_witness_failures_total", "Attempts to have a tree head cosigned that failed");
    describe_gauge!("keyledger_feed_followers", "Followers of the feed now");
    describe_counter!("keyledger_feed_messages_total", "Messages sent to followers of the feed");
    describe_counter!("keyledger_feed_lagged_total", "Times a follower fell behind and went on from the log");
    describe_counter!("keyledger_feed_ended_total", "Feeds that ended, by why");
    describe_counter!("keyledger_webhook_deliveries_total", "Attempts to deliver to a webhook, by outcome");
    describe_gauge!("keyledger_webhooks_parked", "Webhook endpoints that are parked until somebody resumes them");
    describe_gauge!(
        "keyledger_webhook_lag_seconds",
        "Age of the oldest message that a webhook's receiver has refused and is sent again"
    );
    describe_counter!("keyledger_http_requests_total", "Requests answered by the router, by method, route and status");
    describe_histogram!(
        "keyledger_http_request_seconds",
        "Time to the head of the answer, by method and route, in seconds"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_there_from_the_start_and_two_do_not_mix() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.verified(VerifyOutcome::Valid);
        one.connections_open.increment(2);
        one.append_seconds.record(0.002);
        one.answered("GET", "/api/v1/credentials/{id}", StatusCode::OK, Duration::from_millis(3));
        let text = one.render();
        for line in [
            "keyledger_verifications_total{outcome=\"valid\"} 1",
            "keyledger_verifications_total{outcome=\"revoked\"} 0",
            "keyledger_connections_closed_total{why=\"timeout\"} 0",
            "keyledger_connections_open 2",
            "keyledger_append_seconds_bucket{le=\"0.0025\"} 1",
            "keyledger_http_requests_total{method=\"GET\",route=\"/api/v1/credentials/{id}\",status=\"200\"} 1",
            "# HELP keyledger_connections_open HTTP connections open now",
            "# TYPE keyledger_http_request_seconds histogram",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(other.render().contains("keyledger_verifications_total{outcome=\"valid\"} 0"));
    }
}
