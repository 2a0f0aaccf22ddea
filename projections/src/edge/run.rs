//! The edge's thread: carries the machine's decisions out.

use std::{
    collections::{BTreeSet, HashSet},
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use keyledger_events::{TeamId, Timestamp, head::HeadVerifier};
use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::{
    runtime::Runtime,
    sync::{Notify, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    EdgeBuilder, EdgeState, Ended, Known, Policy, Shared,
    counters::Told,
    disk,
    gate::wall,
    machine::{Effect, Left, Machine, Moment, News, Next, Reading, Refusal},
    reports::{DeadKey, Waiting},
    sse::{SseEvent, SseParser},
    tree::{TreeCheck, TreeWatch},
    upstream::{GotSnapshot, Upstream},
};
use crate::{
    Active,
    feed::{Changes, HeadMessage, snapshot},
};

/// The first pause between two tries, doubled up to the longest; each is shortened by up to a half at random.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often the tree is looked at while it is good, and while it is not known to be.
const TREE_EVERY: Duration = Duration::from_secs(60);
const TREE_AGAIN: Duration = Duration::from_secs(1);
const SAVE_EVERY: Duration = Duration::from_secs(60);
const REPORT_EVERY: Duration = Duration::from_secs(15);
/// How long anything that depends on the wall clock sleeps at most: it may be set.
const CLOCK_TRUSTED: Duration = Duration::from_millis(250);

/// What the thread begins with.
pub(super) struct Follower {
    runtime: Runtime,
    upstream: Upstream,
    teams: Option<BTreeSet<TeamId>>,
    policy: Policy,
    file: Option<PathBuf>,
    pins: Vec<HeadVerifier>,
}

impl Follower {
    pub(super) fn new(of: &EdgeBuilder, upstream: Upstream) -> std::io::Result<Self> {
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            upstream,
            teams: of.teams.clone(),
            policy: of.policy,
            file: of.snapshot_file.clone(),
            pins: of.pins.clone(),
        })
    }

    /// Follows until it is told to stop, and saves the state.
    pub(super) fn run(self, shared: &Arc<Shared>, knocks: Receiver<DeadKey>, stopped: oneshot::Receiver<()>) {
        let Self { runtime, upstream, teams, policy, file, pins } = self;
        let late = match policy {
            Policy::Strict { max } => Some(max / 2),
            Policy::BestEffort => None,
        };
        let left = file.as_ref().and_then(|file| load(file, upstream.url(), teams.as_ref()));
        let (left, tree, news) = match left {
            Some((left, tree, news)) => (Some(left), tree, Some(news)),
            None => (None, None, None),
        };
        let core = Core {
            shared,
            url: upstream.url().to_owned(),
            teams: teams.clone(),
            machine: Machine::new(teams, late, left),
            tree: TreeWatch::new(pins, tree),
            waiting: Waiting::new(knocks),
            news,
            save: Save::NotNow,
            saving: None,
            attempts: 0,
        };
        if let Some(news) = &news {
            shared.gate.replace(core.machine.index().clone());
            shared.gate.open(news);
        }
        core.publish();
        let core = Mutex::new(core);
        let again = Notify::new();
        let following = async {
            tokio::join!(
                follow(&core, &upstream, &again),
                tick(&core),
                watch_ends(&core, &again),
                report(&core, &upstream),
                keep(&core, file.as_ref()),
            );
        };
        runtime.block_on(async {
            tokio::select! {
                _ = stopped => {}
                () = following => {}
            }
        });
        let mut core = core.into_inner();
        if let Some(file) = &file {
            core.saved();
            core.save(file);
            core.saved();
        }
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

/// What was left on the disk, if it is of this ledger and these teams.
fn load(
    file: &Path,
    url: &str,
    teams: Option<&BTreeSet<TeamId>>,
) -> Option<(Left, Option<super::tree::Remembered>, News)> {
    let (header, of, index) = match disk::read(file) {
        Ok(Some(read)) => read,
        Ok(None) => return None,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the edge's saved state can't be used; starting without");
            return None;
        }
    };
    if header.url != url || of.teams.as_ref() != teams {
        tracing::warn!(file = %file.display(), "the edge's saved state is of another ledger or of other teams; starting without");
        return None;
    }
    // What a wrong clock has written counts as very old.
    let as_of = if header.as_of > wall() { Timestamp::default() } else { header.as_of };
    let began = Reading { mono: Moment(0), wall: as_of };
    let news = News { as_of: began, heard: began, at: of.at };
    tracing::info!(file = %file.display(), position = ?of.position, as_of = %header.as_of, "starting with the edge's saved state");
    Some((Left { index, held: of.position, highest: header.highest }, header.tree, news))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Save {
    NotNow,
    /// There is news.
    InTime,
    /// The state is another one.
    Soon,
}

/// The thread's own. Locked for as long as one input takes.
struct Core<'a> {
    shared: &'a Shared,
    url: String,
    teams: Option<BTreeSet<TeamId>>,
    machine: Machine,
    tree: TreeWatch,
    waiting: Waiting,
    /// The newest news.
    news: Option<News>,
    save: Save,
    /// Writes the state.
    saving: Option<JoinHandle<()>>,
    /// Tries since a head was believed.
    attempts: u32,
}

impl Core<'_> {
    /// Gives the machine an input and does what follows; whether the connection must end.
    fn input(&mut self, input: impl FnOnce(&mut Machine) -> Vec<Effect>) -> bool {
        let effects = input(&mut self.machine);
        let mut disconnect = false;
        for effect in effects {
            match effect {
                Effect::Ended(credentials) => {
                    credentials.into_iter().for_each(|credential| self.shared.ends.tell(Ended::Credential(credential)));
                }
                Effect::Replaced => {
                    let before = self.shared.gate.replace(self.machine.index().clone());
                    self.waiting.take_uses(&before);
                    self.shared.ends.tell(Ended::Any);
                    self.save = Save::Soon;
                }
                Effect::Close => {
                    self.shared.gate.close();
                    self.shared.ends.tell(Ended::Any);
                    let cause = match self.machine.state() {
                        EdgeState::Resyncing(cause) => cause.name(),
                        state => state.name(),
                    };
                    counter!("keyledger_edge_resyncs_total", "cause" => cause).increment(1);
                }
                Effect::Open(news) => {
                    self.shared.gate.open(&news);
                    self.tree.believe();
                    self.news = Some(news);
                    self.attempts = 0;
                    if self.save == Save::NotNow {
                        self.save = Save::InTime;
                    }
                }
                Effect::Disconnect => disconnect = true,
            }
        }
        self.publish();
        disconnect
    }

    fn publish(&self) {
        *self.shared.known.lock() = Known { held: self.machine.held(), highest: self.machine.ledger_end() };
        let state = self.machine.state();
        self.shared.state.send_if_modified(|before| {
            if *before == state {
                return false;
            }
            if state.denies() {
                tracing::warn!(position = ?self.machine.held(), "the edge denies every key: {state}");
            } else {
                tracing::info!(position = ?self.machine.held(), "{state}");
            }
            *before = state;
            true
        });
    }

    fn pause(&mut self) -> Duration {
        let longest = PAUSE_MIN.saturating_mul(1 << self.attempts.min(10)).min(PAUSE_MAX);
        self.attempts = self.attempts.saturating_add(1);
        let mut random = [0; 4];
        // Without randomness all edges come at once, which is all that is lost.
        let _ = getrandom::fill(&mut random);
        longest.mul_f64(1.0 - f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX) / 2.0)
    }

    /// Waits until the state is written, if it is being.
    fn saved(&mut self) {
        if let Some(saving) = self.saving.take() {
            let _ = saving.join();
        }
    }

    /// Begins to write the state, if there is a sound one that was not written.
    fn save(&mut self, file: &Path) {
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        let Some(news) = self.news.filter(|_| self.save != Save::NotNow && self.machine.is_sound()) else { return };
        let header = disk::Header {
            url: self.url.clone(),
            highest: self.machine.highest(),
            tree: self.tree.remembered().cloned(),
            as_of: news.as_of.wall,
        };
        let index = self.machine.index().clone();
        let mut of = snapshot::Header {
            position: self.machine.held(),
            credentials: 0,
            digest: index.nameless_digest(None),
            teams: self.teams.clone(),
            at: news.at,
        };
        let (frozen, is_frozen) = sync_channel(1);
        let file = file.to_owned();
        let written = std::thread::Builder::new().name("keyledger-edge-save".to_owned()).spawn(move || {
            if let Err(error) = disk::write(&file, &header, &index, &mut of, &frozen) {
                tracing::warn!(file = %file.display(), %error, "the edge's state could not be saved");
            }
        });
        match written {
            // Nothing is applied until the state is held fast: milliseconds.
            Ok(saving) => {
                let _ = is_frozen.recv();
                self.saving = Some(saving);
            }
            Err(error) => tracing::warn!(%error, "the edge's state could not be saved"),
        }
        self.save = Save::NotNow;
    }
}

/// Fetches, follows, and begins again, for ever.
async fn follow(core: &Mutex<Core<'_>>, upstream: &Upstream, again: &Notify) {
    loop {
        let next = core.lock().machine.next();
        match next {
            Next::Snapshot => match upstream.snapshot().await {
                GotSnapshot::Whole(whole) => {
                    let (header, index) = *whole;
                    core.lock().input(|machine| machine.snapshot(&header, index));
                    again.notify_one();
                    if core.lock().machine.is_sound() {
                        continue;
                    }
                }
                GotSnapshot::Malformed => drop(core.lock().input(Machine::snapshot_malformed)),
                GotSnapshot::Refused(refusal) => drop(core.lock().input(|machine| machine.refused(refusal))),
            },
            Next::Feed(after) => {
                look_at_tree(core, upstream).await;
                let reading = core.lock().shared.gate.reading();
                core.lock().machine.connecting(reading);
                match upstream.feed(after).await {
                    Ok(feed) => follow_feed(core, upstream, feed, again).await,
                    Err(refusal) => drop(core.lock().input(|machine| machine.refused(refusal))),
                }
            }
        }
        let pause = core.lock().pause();
        sleep(pause).await;
    }
}

async fn follow_feed(core: &Mutex<Core<'_>>, upstream: &Upstream, mut feed: super::upstream::Feed, again: &Notify) {
    let mut parser = SseParser::default();
    let mut looking: Option<Pin<Box<dyn Future<Output = ()> + '_>>> = None;
    let mut look_at = Instant::now() + tree_pause(core);
    let mut coming = Box::pin(feed.next());
    loop {
        let bytes = tokio::select! {
            biased;
            () = async { match &mut looking { Some(looking) => looking.await, None => sleep_until(look_at).await } } => {
                if looking.take().is_some() {
                    look_at = Instant::now() + tree_pause(core);
                    if core.lock().machine.state().denies() {
                        return core.lock().machine.lost();
                    }
                } else {
                    looking = Some(Box::pin(look_at_tree(core, upstream)));
                }
                continue;
            }
            bytes = &mut coming => bytes,
        };
        let Some(bytes) = bytes else {
            core.lock().input(|machine| {
                machine.lost();
                vec![]
            });
            return;
        };
        let events = parser.push(&bytes);
        let mut core = core.lock();
        let disconnect = match events {
            Ok(events) => events.iter().any(|event| hear(&mut core, event, again)),
            Err(_) => core.input(Machine::malformed),
        };
        if disconnect {
            return;
        }
        drop(core);
        drop(coming);
        coming = Box::pin(feed.next());
    }
}

/// Takes in one event; whether the connection must end.
fn hear(core: &mut Core<'_>, event: &SseEvent, again: &Notify) -> bool {
    match event.name.as_str() {
        "changes" => match serde_json::from_str::<Changes>(&event.data) {
            Ok(changes) => {
                let disconnect = core.input(|machine| machine.changes(&changes));
                again.notify_one();
                disconnect
            }
            Err(_) => core.input(Machine::malformed),
        },
        "head" => match serde_json::from_str::<HeadMessage>(&event.data) {
            Ok(head) => {
                let now = core.shared.gate.reading();
                core.input(|machine| machine.head(now, &head))
            }
            Err(_) => core.input(Machine::malformed),
        },
        // A later ledger's. Continuity is in those that we know.
        _ => false,
    }
}

fn tree_pause(core: &Mutex<Core<'_>>) -> Duration {
    if core.lock().machine.wants_tree() { TREE_AGAIN } else { TREE_EVERY }
}

async fn look_at_tree(core: &Mutex<Core<'_>>, upstream: &Upstream) {
    let remembered = core.lock().tree.remembered().map(|remembered| remembered.size);
    let text = upstream.tree(remembered).await;
    let mut core = core.lock();
    let check = text.map_or(TreeCheck::Unknown, |text| core.tree.judge(&text));
    if let TreeCheck::Fault(fault) = &check {
        tracing::error!(?fault, remembered = ?core.tree.remembered(), "the ledger's tree is not the one that was known");
    }
    core.input(|machine| machine.tree(&check));
}

/// Each second, or when the news grows too old: says so, and how everything stands.
async fn tick(core: &Mutex<Core<'_>>) {
    let (mut told, mut was_ready) = (Told::new(), false);
    loop {
        let fresh_for = {
            let mut core = core.lock();
            let Core { shared, waiting, machine, .. } = &mut *core;
            waiting.take_knocks();
            told.tell(&shared.counters);
            let fresh_for = shared.gate.fresh_for();
            let is_ready = !fresh_for.is_zero();
            if was_ready && !is_ready {
                if !machine.state().denies() {
                    tracing::warn!("the edge denies every key: nothing new from the ledger for too long");
                }
                shared.ends.tell(Ended::Any);
            }
            was_ready = is_ready;
            gauge!("keyledger_edge_ready").set(if is_ready { 1.0 } else { 0.0 });
            gauge!("keyledger_edge_news_seconds").set(shared.gate.age().map_or(f64::INFINITY, |age| age.as_secs_f64()));
            let count =
                |position: Option<keyledger_events::Position>| position.map_or(0, |position| position.0 + 1) as f64;
            gauge!("keyledger_edge_positions").set(count(machine.held()));
            gauge!("keyledger_edge_ledger_positions").set(count(machine.ledger_end()));
            fresh_for
        };
        let until_stale = fresh_for.saturating_add(Duration::from_millis(1));
        sleep(if fresh_for.is_zero() { CLOCK_TRUSTED } else { until_stale.min(Duration::from_secs(1)) }).await;
    }
}

/// Tells who listens of keys that end by the clock.
async fn watch_ends(core: &Mutex<Core<'_>>, again: &Notify) {
    let mut told = HashSet::new();
    loop {
        let (shared, index) = {
            let core = core.lock();
            (core.shared, core.machine.index().clone())
        };
        let mut pause = CLOCK_TRUSTED;
        if shared.ends.has_listeners() {
            let now = shared.gate.now();
            let due: HashSet<_> = index.due(now, usize::MAX).into_iter().map(|(_, credential, _)| credential).collect();
            due.difference(&told).for_each(|credential| shared.ends.tell(Ended::Credential(*credential)));
            told = due;
            pause = pause.min(until(&index, now));
        }
        drop(index);
        tokio::select! {
            () = sleep(pause) => {}
            () = again.notified() => {}
        }
    }
}

/// How long until another key ends by the clock.
fn until(index: &Active, now: Timestamp) -> Duration {
    index.next_due().map_or(Duration::MAX, |at| at.since(now)).max(Duration::from_millis(1))
}

async fn report(core: &Mutex<Core<'_>>, upstream: &Upstream) {
    if !core.lock().shared.reports {
        return;
    }
    loop {
        sleep(REPORT_EVERY).await;
        {
            let mut core = core.lock();
            let index = core.machine.index().clone();
            core.waiting.take_uses(&index);
        }
        loop {
            let Some(report) = core.lock().waiting.next() else { break };
            match upstream.report(&report).await {
                Ok(()) => {}
                Err(Refusal::Away) => {
                    core.lock().waiting.put_back(report);
                    break;
                }
                // It would be refused again.
                Err(refusal) => {
                    tracing::warn!(?refusal, "the ledger does not take the report of last uses");
                    break;
                }
            }
        }
    }
}

async fn keep(core: &Mutex<Core<'_>>, file: Option<&PathBuf>) {
    let Some(file) = file else { return };
    let mut saved = Instant::now();
    loop {
        sleep(Duration::from_millis(500)).await;
        let mut core = core.lock();
        let due = core.save == Save::Soon || saved.elapsed() >= SAVE_EVERY;
        // A state that nobody has confirmed yet waits.
        if due && core.machine.state() == EdgeState::Following {
            core.save(file);
            saved = Instant::now();
        }
    }
}
