//! Asks the configured witnesses to cosign each tree head, and says which head to publish.
//!
//! A witness has a thread of its own, so that one that is slow or gone holds up nobody. It speaks C2SP
//! [tlog-witness](https://c2sp.org/tlog-witness): the newest head, with the proof that it follows from the one the
//! witness knows. What comes back is believed only after its signature was checked.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use keyledger_events::{
    head::HeadVerifier,
    note::Note,
    store::file::{PublishedHead, PublishedTree},
    tree::{NodeHash, wire},
    witness::{Policy, Witness},
};
use keyledger_replay::verify::COSIGNED;
use ureq::Agent;

use crate::http::metrics::Metrics;

/// How often a thread looks for a new head.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a witness may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a witness that has refused or failed is left alone, at first and at most; doubled each time.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a head that is not cosigned yet is held back, if an older one is.
const HELD_BACK: Duration = Duration::from_secs(1);
/// How many heads are waited for at once: a slow witness answers about an older one.
const HEADS_KEPT: usize = 16;
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// The ledger's own side: what there is to cosign.
pub trait Heads: Send + Sync + 'static {
    /// The newest published tree head; none while there is none.
    fn newest(&self) -> Option<PublishedHead>;

    /// The proof that the tree of `new` events begins with the one of `old`.
    ///
    /// # Errors
    /// Why it can't be had.
    fn consistency(&self, old: u64, new: u64) -> Result<Vec<NodeHash>, String>;
}

impl Heads for PublishedTree {
    fn newest(&self) -> Option<PublishedHead> {
        self.head()
    }

    fn consistency(&self, old: u64, new: u64) -> Result<Vec<NodeHash>, String> {
        Self::consistency(self, old, new).map_err(|error| error.to_string())
    }
}

/// The witnesses, and what they have cosigned.
pub struct Witnesses {
    policy: Policy,
    file: PathBuf,
    state: Mutex<State>,
    saving: Mutex<()>,
    /// Another head meets the policy, or it is time to end.
    changed: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    /// The newest heads, the oldest first.
    heads: VecDeque<Collected>,
    /// The newest one that meets the policy.
    met: Option<PublishedHead>,
    stopping: bool,
}

/// A head, and the cosignatures it has got so far.
struct Collected {
    published: PublishedHead,
    since: Instant,
}

impl Witnesses {
    /// Of a data directory, where an earlier process may have left a cosigned head; one that does not hold any more, by
    /// the ledger's key and this policy, is as good as none.
    pub fn new(policy: Policy, ledger: &HeadVerifier, dir: &Path, metrics: Arc<Metrics>) -> Self {
        let file = dir.join(COSIGNED);
        let met = fs::read_to_string(&file).ok().and_then(|note| {
            let head = ledger.verify(&note).ok()?;
            policy.is_met(&Note::parse(&note).ok()?).then_some(PublishedHead { head, note })
        });
        let state = State { met, ..State::default() };
        Self { policy, file, state: Mutex::new(state), saving: Mutex::default(), changed: Condvar::new(), metrics }
    }

    /// Starts a thread for each witness that has an address. They end after [`Witnesses::stop`].
    ///
    /// # Errors
    /// If a thread can't be had.
    pub fn start(self: &Arc<Self>, heads: &Arc<dyn Heads>) -> io::Result<()> {
        for at in (0..self.policy.witnesses().len()).filter(|at| self.policy.witnesses()[*at].url.is_some()) {
            let (this, heads) = (self.clone(), heads.clone());
            thread::Builder::new().name(format!("witness-{at}")).spawn(move || this.ask_forever(at, &*heads))?;
        }
        Ok(())
    }

    /// Asks nobody any more.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    /// The head to publish: the newest one with the cosignatures it has; for a moment still the newest one that meets
    /// the policy, if this one does not yet.
    pub fn published(&self, newest: PublishedHead) -> PublishedHead {
        let mut state = self.lock();
        let size = newest.head.size;
        let Collected { published, since } = state.collected(newest);
        let (newest, held_back) = (published.clone(), since.elapsed() < HELD_BACK);
        match &state.met {
            Some(met) if met.head.size == size || (met.head.size < size && held_back) => met.clone(),
            _ => newest,
        }
    }

    /// A head of at least `size` events that meets the policy; none if there is none in time.
    pub fn wait_for(&self, size: u64, at_most: Duration) -> Option<PublishedHead> {
        let until = Instant::now() + at_most;
        let mut state = self.lock();
        loop {
            if let Some(met) = state.met.as_ref().filter(|met| met.head.size >= size) {
                return Some(met.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.stopping {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn ask_forever(&self, at: usize, heads: &dyn Heads) {
        let Some(witness) = self.policy.witnesses().get(at) else { return };
        let config = Agent::config_builder().timeout_global(Some(ANSWER_WITHIN)).http_status_as_error(false);
        let mut asking = Asking { witness, agent: config.max_redirects(0).build().new_agent(), known: 0, cosigned: 0 };
        let (mut pause, mut trouble) = (PAUSE.0, None);
        let mut wait = LOOK_EVERY;
        while !self.sleep(wait) {
            wait = LOOK_EVERY;
            let Some(newest) = heads.newest().filter(|newest| newest.head.size != asking.cosigned) else { continue };
            let PublishedHead { head, note } = newest.clone();
            self.lock().collected(newest);
            match asking.ask(head.size, &note, heads) {
                Ok(lines) => {
                    self.collect(head.size, &lines);
                    (pause, trouble) = (PAUSE.0, None);
                }
                Err(why) => {
                    self.metrics.witness_failures.increment(1);
                    if trouble.as_ref() != Some(&why) {
                        tracing::warn!(witness = witness.name, %why, size = head.size, "a witness has not cosigned");
                        trouble = Some(why);
                    }
                    wait = pause;
                    pause = (2 * pause).min(PAUSE.1);
                }
            }
        }
    }

    /// Adds a witness's lines to a head.
    fn collect(&self, size: u64, lines: &str) {
        let mut state = self.lock();
        let Some(known) = state.heads.iter_mut().find(|known| known.published.head.size == size) else { return };
        known.published.note.push_str(lines);
        let published = known.published.clone();
        let met = Note::parse(&published.note).is_ok_and(|note| self.policy.is_met(&note));
        if !met || state.met.as_ref().is_some_and(|newest| newest.head.size > size) {
            return;
        }
        state.met = Some(published);
        drop(state);
        self.changed.notify_all();
        self.metrics.witnessed_positions.set(size as f64);
        if let Err(error) = self.save() {
            tracing::warn!(%error, file = %self.file.display(), "the cosigned tree head could not be saved");
        }
    }

    /// Replaces the file by what is newest by now.
    fn save(&self) -> io::Result<()> {
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(PublishedHead { note, .. }) = self.lock().met.clone() else { return Ok(()) };
        let new = self.file.with_extension("cosigned.new");
        fs::write(&new, note)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &self.file)
    }

    /// True: it is time to end.
    fn sleep(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        let mut state = self.lock();
        while !state.stopping {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What has been collected for a head; begun now, if it is new.
    fn collected(&mut self, head: PublishedHead) -> &Collected {
        let known = self.heads.iter().position(|known| known.published.head.size == head.head.size);
        let at = known.unwrap_or_else(|| {
            if self.heads.len() == HEADS_KEPT {
                self.heads.pop_front();
            }
            self.heads.push_back(Collected { published: head, since: Instant::now() });
            self.heads.len() - 1
        });
        &self.heads[at]
    }
}

/// One witness's thread's own.
struct Asking<'a> {
    witness: &'a Witness,
    agent: Agent,
    /// The size of the head the witness knows, as far as it has said.
    known: u64,
    /// The size of the last head it has cosigned here.
    cosigned: u64,
}

/// Why a head was not cosigned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NotCosigned {
    #[error(
        "it knows {known} events of this ledger, which has signed only {signed}: history is missing here, or forked"
    )]
    Ahead { known: u64, signed: u64 },
    #[error("it knows another history of this ledger: {0}")]
    Forked(String),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    #[error("its answer does not hold: {0}")]
    Answer(&'static str),
    #[error("the proof for it can't be made: {0}")]
    Proof(String),
}

impl Asking<'_> {
    /// The witness's signature lines for this head.
    fn ask(&mut self, size: u64, note: &str, heads: &dyn Heads) -> Result<String, NotCosigned> {
        // A second time, if it says that it knows another head than we thought.
        for last in [false, true] {
            if self.known > size {
                return Err(NotCosigned::Ahead { known: self.known, signed: size });
            }
            let proof = heads.consistency(self.known, size).map_err(NotCosigned::Proof)?;
            let (status, body) = self.send(&wire::consistency_file(self.known, &proof, note))?;
            match status {
                200 => {
                    let lines = self.checked(note, &body)?;
                    (self.known, self.cosigned) = (size, size);
                    return Ok(lines);
                }
                409 => {
                    let known = body.trim().parse().map_err(|_| NotCosigned::Answer("no size in its conflict"))?;
                    if known == self.known {
                        return Err(NotCosigned::Forked(format!("another root at {known} events")));
                    }
                    self.known = known;
                    if last {
                        return Err(NotCosigned::Refused("it knows another head at every attempt".to_owned()));
                    }
                }
                422 => return Err(NotCosigned::Forked(format!("no consistency with its {} events", self.known))),
                403 => return Err(NotCosigned::Refused("it trusts no signature on the tree head".to_owned())),
                404 => return Err(NotCosigned::Refused("it does not know this ledger".to_owned())),
                500.. => return Err(NotCosigned::Unreachable(format!("status {status}"))),
                _ => return Err(NotCosigned::Refused(format!("status {status}"))),
            }
        }
        Err(NotCosigned::Answer("no outcome"))
    }

    fn send(&self, request: &str) -> Result<(u16, String), NotCosigned> {
        let url = format!("{}/add-checkpoint", self.witness.url.as_deref().unwrap_or_default().trim_end_matches('/'));
        let unreachable = |error: ureq::Error| NotCosigned::Unreachable(error.to_string());
        let mut answer = self.agent.post(&url).content_type("text/plain").send(request).map_err(unreachable)?;
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(unreachable)?;
        Ok((answer.status().as_u16(), body))
    }

    /// Of the answer's lines, those that are this witness's and hold.
    fn checked(&self, note: &str, lines: &str) -> Result<String, NotCosigned> {
        let mut own = String::new();
        for line in lines.lines() {
            let with =
                Note::parse(&format!("{note}{line}\n")).map_err(|_| NotCosigned::Answer("not a signature line"))?;
            if self.witness.key.cosigned_at(&with).is_some() {
                own = format!("{line}\n");
            }
        }
        if own.is_empty() { Err(NotCosigned::Answer("no cosignature by its key")) } else { Ok(own) }
    }
}

#[cfg(test)]
mod tests;
