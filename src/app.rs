//! Everything a request handler can reach.

use std::sync::Arc;

use keyledger_events::{
    PersonId, Position, TeamId, Timestamp,
    commit::PlacedRecord,
    event::Role,
    head::HeadSigner,
    seal::{Label, PersonKey, Sealed},
    store::{
        ReadError, Store,
        file::PublishedTree,
        keyring::{Keyring, KeyringError},
    },
};
use keyledger_projections::{Projections, TeamView, Until};

use crate::{
    clock::Clock,
    config::Config,
    dead_keys::DeadKeys,
    feed::Feed,
    http::{Problem, auth::Person, health::Readiness, limits::RateLimits, metrics::Metrics},
    identity::{link::Links, pairing::Pairings, session::Sessions, token::Tokens},
    leaks::github::LeakKeys,
    ledger::Ledger,
    random,
    seals::Seals,
    webhooks::Webhooks,
    witnesses::Witnesses,
};

/// The service's parts. One for the process, shared by all handlers.
pub struct App {
    /// The settings.
    pub config: Config,
    /// The write path.
    pub ledger: Ledger,
    /// The log, for reading.
    pub store: Arc<dyn Store>,
    /// The log's Merkle tree, as far as it is published.
    pub tree: Arc<PublishedTree>,
    /// Who cosigns the tree's heads, if anybody is asked to.
    pub witnesses: Option<Arc<Witnesses>>,
    /// The certificates by which older signing keys have named their successors.
    pub key_rotations: Vec<String>,
    /// Signs what is said about one team.
    pub signer: HeadSigner,
    /// The seals of the map of streams.
    pub seals: Seals,
    /// What reads are answered from.
    pub projections: Arc<Projections>,
    /// What followers are told.
    pub feed: Arc<Feed>,
    /// The persons' sealing keys.
    pub keyring: Arc<Keyring>,
    /// The wall clock.
    pub clock: Arc<Clock>,
    /// Who is signed in.
    pub sessions: Arc<Sessions>,
    /// Sign-in links and invitations.
    pub links: Links,
    /// Access tokens.
    pub tokens: Tokens,
    /// Pairings in flight.
    pub pairings: Pairings,
    /// Who signs reports of leaks.
    pub leak_keys: LeakKeys,
    /// Who still presents what has ended.
    pub dead_keys: DeadKeys,
    /// Where the teams' events are sent.
    pub webhooks: Arc<Webhooks>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who may ask how often.
    pub rates: Arc<RateLimits>,
    /// Whether requests may come.
    pub readiness: Arc<Readiness>,
}

/// How handlers hold the [`App`].
pub type Shared = Arc<App>;

impl App {
    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Makes a person: an id, and a sealing key that is durable before any event needs it.
    ///
    /// # Errors
    /// When the keyring can't be written.
    pub fn new_person(&self) -> Result<PersonId, KeyringError> {
        let person = PersonId::from(random::uuid_v7(self.now()));
        self.keyring.insert(person, PersonKey::from_bytes(random::bytes()))?;
        Ok(person)
    }

    /// Seals a text about a person; none if they have been erased.
    pub fn seal(&self, person: PersonId, text: &str) -> Option<Sealed> {
        self.keyring.get(person)?.seal(person, random::bytes(), text).ok()
    }

    /// A name for the log that only the person's key opens.
    pub fn seal_name(&self, person: PersonId, name: &str) -> Label {
        let erased = || Label::Clear(String::new());
        self.seal(person, name).map_or_else(erased, Label::Sealed)
    }

    /// A name from the log, for showing. An erased person's is none.
    pub fn open(&self, label: &Label) -> Option<String> {
        match label {
            Label::Clear(name) => Some(name.clone()),
            Label::Sealed(sealed) => self.open_sealed(sealed),
        }
    }

    /// A sealed text; none once its person is erased.
    pub fn open_sealed(&self, sealed: &Sealed) -> Option<String> {
        self.keyring.get(sealed.person)?.open(sealed).ok()
    }

    /// Lets the ledger's operators pass: owner and admins of the system stream.
    ///
    /// # Errors
    /// 403.
    pub fn operator(&self, person: &Person) -> Result<(), Problem> {
        match self.projections.people().role(person.id, TeamId::SYSTEM) {
            Some(Role::Owner | Role::Admin) => Ok(()),
            _ => Err(Problem::forbidden("forbidden", "Only the ledger's operators may do this.")),
        }
    }

    /// Where a one-time link leads.
    pub fn sign_in_url(&self, token: &str) -> String {
        format!("{}/sign-in?token={token}", self.config.public_url())
    }

    /// Asks a team's view, as it stands or stood. The second argument is the instant to ask it with.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn team_at<T>(
        &self,
        team: TeamId,
        until: Until,
        ask: impl FnOnce(&TeamView, Timestamp) -> T,
    ) -> Result<T, Problem> {
        // A team that nobody has asked about for a while is folded from the log here: the other tasks of this thread
        // must not wait for that.
        tokio::task::block_in_place(|| match until {
            Until::Now => {
                let view = self.projections.team_view(self.store.as_ref(), team);
                let view = view.map_err(|error| unreadable(&error))?.ok_or_else(Problem::not_found)?;
                let view = view.read();
                Ok(ask(&view, self.now()))
            }
            Until::Position(_) | Until::Instant(_) => {
                let view = self.projections.team_view_until(self.store.as_ref(), team, until);
                let view = view.map_err(|error| unreadable(&error))?.ok_or_else(Problem::not_found)?;
                Ok(ask(&view, self.instant_of(until)?))
            }
        })
    }

    /// When something stood: what had expired by the clock then is judged by this, recorded or not.
    fn instant_of(&self, until: Until) -> Result<Timestamp, Problem> {
        Ok(match until {
            Until::Now => self.now(),
            Until::Instant(at) => at,
            // A position that is still to come stands where the log does.
            Until::Position(position) => {
                self.event(position)?.map_or_else(|| self.now(), |placed| placed.record.recorded_at)
            }
        })
    }

    /// The events at these positions.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn events(&self, positions: &[Position]) -> Result<Vec<PlacedRecord>, Problem> {
        tokio::task::block_in_place(|| {
            positions.iter().map(|position| self.event(*position)).filter_map(Result::transpose).collect()
        })
    }

    fn event(&self, position: Position) -> Result<Option<PlacedRecord>, Problem> {
        let Some(number) = self.store.locate(position)? else { return Ok(None) };
        let Some(commit) = self.store.commit(number)? else { return Ok(None) };
        let index = position.0.saturating_sub(commit.first_position.0) as usize;
        commit.records().nth(index).transpose().map_err(|error| unreadable(&error))
    }
}

/// Says in the operator's log where the damage is, and to whoever asked that there is some.
pub fn unreadable(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "the log could not be read");
    Problem::unavailable("ledger_damaged", "The ledger could not read its log; its operator has been told.")
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        unreadable(&error)
    }
}
