//! Webhooks: what happens to a team is sent where the team has said, signed as
//! [Standard Webhooks](https://www.standardwebhooks.com) has it; at least once, and in order.
//!
//! The endpoints are events, so they are folded from the log. How far each has got is kept in the side store and may be
//! lost: then an endpoint is sent again what came after it was last set, under the same message ids. Nothing waits in
//! memory: an endpoint reads its team's stream from where it stands.

pub mod address;
pub mod delivery;
mod message;
mod notices;
pub mod progress;
pub mod sending;
pub mod signing;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use keyledger_events::{
    Event, Position, TeamId, Timestamp, WebhookId,
    commit::PlacedRecord,
    record::RecordHeader,
    store::{ReadError, Store},
    team::webhook_type,
};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

use self::{
    notices::Notice,
    progress::{Kept, Progress},
    sending::Sender,
    signing::{Secrets, SigningSecret},
};
use crate::{http::metrics::Metrics, side::Side};

/// How many messages may be under way at once, over all teams.
const IN_FLIGHT_MAX: usize = 64;
/// How many of them may be one team's.
const IN_FLIGHT_PER_TEAM_MAX: usize = 4;
/// How long the secret before signs too, once there is another.
pub const OVERLAP: Duration = Duration::from_secs(86_400);
/// How long after each failure the next attempt comes: the schedule that Standard Webhooks recommends, some three days.
/// After the last the endpoint is parked.
pub const RETRY_SECONDS: [u64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// All endpoints. One for the process.
pub struct Webhooks {
    teams: RwLock<HashMap<TeamId, Team>>,
    /// How many endpoints there are: every event asks.
    len: AtomicUsize,
    secrets: Secrets,
    /// What requests go out by.
    pub sender: Sender,
    kept: Kept,
    retry: Vec<Duration>,
    in_flight: Semaphore,
    /// Endpoints that nobody follows yet.
    fresh: Mutex<Vec<Arc<Endpoint>>>,
    /// There is something fresh, or room for more notices.
    news: Notify,
    metrics: Arc<Metrics>,
}

struct Team {
    turns: Arc<Semaphore>,
    endpoints: BTreeMap<WebhookId, Arc<Endpoint>>,
}

/// One endpoint.
pub struct Endpoint {
    /// Its id.
    pub id: WebhookId,
    /// Whose events it is sent.
    pub team: TeamId,
    settings: RwLock<Settings>,
    progress: Mutex<Progress>,
    /// What will end soon and has not been said.
    due: Mutex<VecDeque<Notice>>,
    wake: Notify,
    removed: AtomicBool,
    turns: Arc<Semaphore>,
}

/// What the team's events say of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where to.
    pub url: String,
    /// Which types; none: all.
    pub types: Vec<String>,
    /// Which of its secrets signs.
    pub generation: u32,
    /// Until when the one before signs too.
    pub previous_until: Option<Timestamp>,
    /// When it was added.
    pub added_at: Timestamp,
    /// Where the last event about it is: what follows is sent.
    pub since: Position,
}

impl Settings {
    /// Whether something of this type, such as `credential.revoked`, is to be sent.
    pub fn wants(&self, kind: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|wanted| wanted == kind)
    }
}

impl Endpoint {
    /// What it is sent, and where.
    pub fn settings(&self) -> Settings {
        self.settings.read().clone()
    }

    /// How far it has got.
    pub fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    fn wants_event(&self, event: &Event) -> bool {
        self.settings.read().wants(&webhook_type(event.name()))
    }
}

impl Webhooks {
    /// The endpoints of a log, as they stand at its head.
    ///
    /// # Errors
    /// [`ReadError`], and when the side store can't be opened.
    pub fn open(
        store: &dyn Store,
        side: &Side,
        secrets: Secrets,
        sender: Sender,
        retry: Vec<Duration>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ReadError> {
        let kept = Kept::open(side).map_err(|error| ReadError::Io { file: "side".into(), error })?;
        let webhooks = Self {
            teams: RwLock::default(),
            len: AtomicUsize::new(0),
            secrets,
            sender,
            kept,
            retry,
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            fresh: Mutex::default(),
            news: Notify::new(),
            metrics,
        };
        let head = store.head();
        let (known, position) = webhooks.kept.snapshot(head.position).unwrap_or_default();
        for (team, id, settings) in known {
            webhooks.insert(team, id, settings);
        }
        webhooks.catch_up(store, position)?;
        // What the snapshot and the log both told of was made twice; one of each is followed.
        let all = webhooks.all();
        webhooks.len.store(all.len(), Relaxed);
        webhooks.fresh.lock().clone_from(&all);
        for endpoint in &all {
            let since = endpoint.settings.read().since;
            let mut progress = webhooks.kept.progress(endpoint.id).unwrap_or_else(|| Progress::behind(since));
            // A log that was restored from a copy may be shorter.
            progress.cursor = progress.cursor.min(head.position);
            webhooks.metrics.webhooks_parked.increment(if progress.parked.is_some() { 1 } else { 0 });
            *endpoint.progress.lock() = progress;
        }
        let there: HashSet<_> = all.iter().map(|endpoint| endpoint.id).collect();
        webhooks.kept.forget_all_but(|id| there.contains(&id));
        Ok(webhooks)
    }

    /// Reads what the log says of endpoints from `position` on.
    fn catch_up(&self, store: &dyn Store, position: Position) -> Result<(), ReadError> {
        let Some(first) = store.locate(position)? else { return Ok(()) };
        let mut log = store.follow(first)?;
        let kinds = ["webhook_added", "webhook_changed", "webhook_removed"].map(Event::type_named);
        while let Some(commit) = log.next(Duration::ZERO)? {
            let mut headers = commit.body.view().records().map(|record| RecordHeader::decode(record.bytes()));
            if !headers.any(|header| header.is_ok_and(|header| kinds.contains(&Some(header.kind)))) {
                continue;
            }
            for placed in commit.records().flatten().filter(|placed| placed.position >= position) {
                self.take_in(&placed);
            }
        }
        Ok(())
    }

    /// Whether there is no endpoint at all.
    pub fn is_empty(&self) -> bool {
        self.len.load(Relaxed) == 0
    }

    /// Told of every event, in order, before its writer is answered.
    pub fn observe(&self, placed: &PlacedRecord) {
        match &placed.record.event {
            Event::WebhookAdded(_) => {
                self.take_in(placed);
                self.news.notify_one();
            }
            Event::WebhookChanged(_) => {
                if let Some(endpoint) = self.take_in(placed) {
                    self.resume(&endpoint);
                }
            }
            Event::WebhookRemoved(_) => drop(self.take_in(placed)),
            _ if self.is_empty() => return,
            _ => {}
        }
        let teams = self.teams.read();
        let endpoints = teams.get(&placed.record.team).into_iter().flat_map(|team| team.endpoints.values());
        endpoints.for_each(|endpoint| endpoint.wake.notify_one());
    }

    /// Takes in what an event says of an endpoint.
    fn take_in(&self, placed: &PlacedRecord) -> Option<Arc<Endpoint>> {
        let (team, at, since) = (placed.record.team, placed.record.recorded_at, placed.position);
        match &placed.record.event {
            Event::WebhookAdded(e) => {
                let (url, types) = (e.url.clone(), e.types.clone());
                let settings = Settings { url, types, generation: 0, previous_until: None, added_at: at, since };
                Some(self.insert(team, e.webhook, settings))
            }
            Event::WebhookChanged(e) => {
                let endpoint = self.get(team, e.webhook)?;
                let mut settings = endpoint.settings.write();
                if settings.generation != e.generation {
                    settings.previous_until = Some(at.plus(OVERLAP));
                }
                settings.url.clone_from(&e.url);
                settings.types.clone_from(&e.types);
                settings.generation = e.generation;
                settings.since = since;
                drop(settings);
                Some(endpoint)
            }
            Event::WebhookRemoved(e) => {
                let endpoint = self.teams.write().get_mut(&team)?.endpoints.remove(&e.webhook)?;
                self.len.fetch_sub(1, Relaxed);
                if endpoint.progress.lock().parked.take().is_some() {
                    self.metrics.webhooks_parked.decrement(1);
                }
                endpoint.removed.store(true, Relaxed);
                endpoint.wake.notify_one();
                Some(endpoint)
            }
            _ => None,
        }
    }

    fn insert(&self, team: TeamId, id: WebhookId, settings: Settings) -> Arc<Endpoint> {
        let mut teams = self.teams.write();
        let of_team = teams.entry(team).or_insert_with(|| Team {
            turns: Arc::new(Semaphore::new(IN_FLIGHT_PER_TEAM_MAX)),
            endpoints: BTreeMap::new(),
        });
        let endpoint = Arc::new(Endpoint {
            id,
            team,
            progress: Mutex::new(Progress::behind(settings.since)),
            settings: RwLock::new(settings),
            due: Mutex::default(),
            wake: Notify::new(),
            removed: AtomicBool::new(false),
            turns: of_team.turns.clone(),
        });
        of_team.endpoints.insert(id, endpoint.clone());
        self.len.fetch_add(1, Relaxed);
        self.fresh.lock().push(endpoint.clone());
        endpoint
    }

    /// A team's endpoints, the oldest first.
    pub fn of_team(&self, team: TeamId) -> Vec<Arc<Endpoint>> {
        let teams = self.teams.read();
        teams.get(&team).map(|team| team.endpoints.values().cloned().collect()).unwrap_or_default()
    }

    /// A team's endpoint.
    pub fn get(&self, team: TeamId, id: WebhookId) -> Option<Arc<Endpoint>> {
        self.teams.read().get(&team)?.endpoints.get(&id).cloned()
    }

    fn all(&self) -> Vec<Arc<Endpoint>> {
        self.teams.read().values().flat_map(|team| team.endpoints.values().cloned()).collect()
    }

    /// The secret that an endpoint's deliveries are signed with.
    pub fn secret(&self, team: TeamId, id: WebhookId, generation: u32) -> SigningSecret {
        self.secrets.derive(team, id, generation)
    }

    /// Tries again at once, parked or not.
    pub fn resume(&self, endpoint: &Endpoint) {
        let mut progress = endpoint.progress.lock();
        if progress.parked.take().is_some() {
            self.metrics.webhooks_parked.decrement(1);
        }
        (progress.failures, progress.next_at) = (0, Timestamp::default());
        self.kept.put_progress(endpoint.id, &progress);
        drop(progress);
        endpoint.wake.notify_one();
    }

    /// The last attempts, the newest first.
    pub fn attempts(&self, endpoint: &Endpoint) -> Vec<progress::Attempt> {
        self.kept.attempts(endpoint.id)
    }

    /// Writes down what the endpoints are, all events before `position` included, so that the next start need not read
    /// them from the log.
    pub fn save(&self, position: Position) {
        let known = self.all().into_iter().map(|endpoint| (endpoint.team, endpoint.id, endpoint.settings())).collect();
        self.kept.put_snapshot(known, position);
    }

    /// How long the oldest message waits that is to be tried again.
    fn measure(&self, now: Timestamp) {
        let waiting = |endpoint: Arc<Endpoint>| {
            let progress = endpoint.progress.lock();
            progress.waiting_since.filter(|_| progress.parked.is_none())
        };
        let oldest = self.all().into_iter().filter_map(waiting).min();
        self.metrics.webhook_lag_seconds.set(oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()));
    }
}

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhooks").field("len", &self.len).finish_non_exhaustive()
    }
}
