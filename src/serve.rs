//! `keyledger serve`: opens the ledger, makes what is missing, answers until it is told to stop.

mod bootstrap;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use keyledger_events::{
    Event,
    head::{HeadSigner, HeadVerifier},
    rotation::KeyChain,
    store::{
        ReadError, Store,
        file::{FileStore, LogFiles, Options, RotateError, Settled, TilesFound, settle_rotation},
        keyring::{Keyring, KeyringError, create_signing_seed, load_signing_seed},
    },
    witness::Policy,
};
use keyledger_projections::{Projections, usage::Usage};

use tokio::{net::TcpListener, sync::mpsc::Receiver};
use zeroize::Zeroizing;

use crate::{
    app::{App, Shared},
    clock::Clock,
    config::Config,
    dead_keys::{self, DeadKeys, Knock},
    feed::Feed,
    http::{self, limits::RateLimits, metrics::Metrics, server::asked_to_end},
    identity::{link::Links, pairing::Pairings, session::Sessions, token::Tokens},
    leaks::github::LeakKeys,
    ledger::{Ledger, Observer},
    random,
    seals::{self, Seals},
    side::{Side, USAGE},
    sweeper,
    webhooks::{
        self, Webhooks,
        address::{Allowed, system_lookup},
        sending::{Sender, read_roots},
        signing::Secrets,
    },
    witnesses::{Heads, Witnesses},
};

/// How long a write may take until its caller is told that the outcome is not known.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long a clean end waits for the ledger's threads.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Why the service did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The ledger is damaged, or another process has it.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The keys can't be read or written.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The projections can't be made.
    #[error("projections: {0}")]
    Projections(String),
    /// The log took nothing more while the service ran.
    #[error("the log has failed: {0}")]
    Failed(String),
    /// Anything else the operating system refuses.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        error: std::io::Error,
    },
    /// A rotation of the signing key was cut short and can't be finished.
    #[error("the signing key's rotation can't be finished: {0}")]
    Rotation(#[from] RotateError),
    /// The ledger's name or key is not usable.
    #[error(transparent)]
    Head(#[from] keyledger_events::head::HeadError),
    /// The witness policy can't be used.
    #[error("{}: {what}", file.display())]
    Witnesses {
        /// The policy's file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A first step on a fresh ledger was refused.
    #[error("the fresh ledger could not be set up: {0}")]
    Bootstrap(String),
}

impl ServeError {
    /// The process's exit code: 3 when the ledger is damaged, 1 otherwise.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Log(error) | Self::Rotation(RotateError::Log(error)) => match error {
                ReadError::Locked { .. } | ReadError::Io { .. } => 1,
                _ => 3,
            },
            Self::Failed(_) => 3,
            _ => 1,
        }
    }
}

/// Runs the service until it is told to stop or the log fails.
///
/// # Errors
/// [`ServeError`].
pub fn run(config: Config) -> Result<(), ServeError> {
    http::server::raise_open_files();
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| ServeError::Io { what: "runtime".to_owned(), error })?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), ServeError> {
    let asked_to_end = asked_to_end().map_err(|error| ServeError::Io { what: "signals".to_owned(), error })?;
    // The address is taken before anything is made: of two processes started by mistake, the second touches nothing.
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.map_err(|error| ServeError::Io { what: config.listen.to_string(), error })?;
    let (app, background, knocks) = open(config).await?;
    bootstrap::ensure(&app).await?;
    announce(&app);

    let mut tasks = vec![
        tokio::spawn(sweeper::sweep(app.clone())),
        tokio::spawn(sweeper::keep(app.clone(), background.usage.clone())),
        tokio::spawn(app.feed.clone().wake()),
        tokio::spawn(dead_keys::record(app.clone(), knocks)),
        tokio::spawn(webhooks::delivery::run(app.clone())),
    ];
    if let Some(every) = app.config.seal_every() {
        tasks.push(tokio::spawn(seals::keep(app.clone(), every)));
    }
    let server = http::service::server(&app);
    app.readiness.ready();
    let failed = app.ledger.clone();
    let failed = async move { failed.failed().await };
    let mut failure = None;
    let stop = async {
        tokio::select! {
            () = asked_to_end => {}
            why = failed => failure = Some(why),
        }
        // Followers never end by themselves, and come back.
        app.feed.close();
    };
    let drained = server.run(listener, stop).await;
    tracing::info!(cut = drained.cut, "no more requests");
    for task in tasks {
        task.abort();
        // Aborted, or done: either way it holds the ledger no longer.
        let _ = task.await;
    }
    if let Some(why) = failure {
        return Err(ServeError::Failed(why));
    }
    if app.config.seal_every().is_some() {
        seals::seal_and_tell(&app).await;
    }
    tokio::task::block_in_place(|| background.close(app)).map_err(ServeError::Failed)
}

/// Everything that runs besides the requests.
struct Background {
    usage: Arc<Usage>,
    side: Side,
    log: Arc<FileStore>,
}

impl Background {
    /// Leaves everything so that the next start is fast. Acknowledged events need nothing of this. Says why the log has
    /// failed, if it did so in the end.
    fn close(self, app: Shared) -> Result<(), String> {
        if let Err(error) = self.usage.save(app.projections.active()) {
            tracing::warn!(%error, "last uses could not be saved");
        }
        if let Err(error) = app.projections.checkpoint() {
            tracing::warn!(%error, "the projections could not be checkpointed; the next start takes longer");
        }
        if let Some(last) = app.ledger.position() {
            app.webhooks.save(last.next());
        }
        self.side.flush();
        if let Some(witnesses) = &app.witnesses {
            witnesses.stop();
        }
        // With the last handle to the ledger its threads end; dropping the log then signs its last tree head.
        drop(app);
        let mut log = self.log;
        let began = Instant::now();
        loop {
            match Arc::try_unwrap(log) {
                Ok(log) => return log.close(),
                Err(shared) if began.elapsed() < CLOSE_WITHIN => log = shared,
                Err(_) => {
                    tracing::warn!("the log is still in use; its last tree head may be a second old");
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Says where the service is, and how to begin.
fn announce(app: &App) {
    println!(
        "keyledger {} on {}, ledger in {}",
        env!("CARGO_PKG_VERSION"),
        app.config.public_url(),
        app.config.data.display()
    );
    if (app.config.sign_in_link || !app.links.has_been_used())
        && let Some(text) = bootstrap::welcome(app)
    {
        println!("\n{text}");
    }
}

/// Opens the ledger in `config.data` and starts its write path.
async fn open(config: Config) -> Result<(Shared, Background, Receiver<Knock>), ServeError> {
    let data = config.data.clone();
    create_private(&data)?;
    let keys = data.join("keys");
    create_private(&keys)?;
    finish_rotation(&data)?;
    let seed = signing_seed(&data, &keys.join("signing.key"))?;
    let origin = origin(&config)?;
    let signer = HeadSigner::new(&origin, &seed)?;
    let policy = config.witness_policy.as_deref().map(witness_policy).transpose()?;
    let verifier = signer.verifier();
    let (store, recovery) = FileStore::open(&data, signer, &Options::default())?;
    if let Some(trimmed) = &recovery.trimmed {
        tracing::warn!(?trimmed, "an unfinished write at the log's end was trimmed; nothing acknowledged was in it");
    }
    report_tiles(recovery.tiles);
    let log = Arc::new(store);
    let store: Arc<dyn Store> = log.clone();
    let keyring = Keyring::open(&keys.join("persons.keys"))?;
    let (projections, opened) = Projections::open(store.as_ref(), &data.join("projections"))
        .map_err(|error| ServeError::Projections(error.to_string()))?;
    tracing::info!(?opened, position = store.head().position.0, "the ledger is open");
    let projections = Arc::new(projections);
    let io = |what: &str| {
        let what = what.to_owned();
        move |error| ServeError::Io { what, error }
    };
    let side = Side::open(&data.join("side")).map_err(io("side"))?;
    let sessions = Arc::new(Sessions::load(side.table("sessions").map_err(io("side"))?));
    let links = Links::new(side.table("links").map_err(io("side"))?);
    let usage = Usage::load(side.tree(USAGE).map_err(io("side"))?, projections.active())
        .map_err(|error| ServeError::Io { what: "side".to_owned(), error: std::io::Error::other(error) })?;
    let clock = Arc::new(Clock::new(store.head().recorded_at, config.clock_offset_seconds));
    let tokens = Tokens::new(&seed).map_err(|error| ServeError::Bootstrap(error.to_string()))?;
    let metrics = Arc::new(Metrics::new());
    let connections_max = config.limits().within_open_files().connections_max;
    let feed = Feed::new(store.clone(), projections.clone(), clock.clone(), metrics.clone(), connections_max);
    let webhooks = open_webhooks(&config, &keys, store.as_ref(), &side, metrics.clone())?;
    let observers =
        vec![end_sessions_of_the_departed(&sessions, &projections), feed.observer(), feed_webhooks(&webhooks)];
    let ledger =
        Ledger::start(store.clone(), projections.clone(), clock.clone(), observers, metrics.clone(), ANSWER_WITHIN)?;
    let keyring = Arc::new(keyring);
    let rates = Arc::new(RateLimits::new(config.rates(), metrics.clone()));
    let witnesses = policy.map(|policy| Arc::new(Witnesses::new(policy, &verifier, &data, metrics.clone())));
    if let Some(witnesses) = &witnesses {
        let heads: Arc<dyn Heads> = log.tree();
        witnesses.start(&heads).map_err(io("witness threads"))?;
    }
    let (dead_keys, knocks) = DeadKeys::new(metrics.dead_keys_dropped.clone());
    let leak_keys = LeakKeys::new(&config.leak_keys_url);
    let app = Arc::new(App {
        config,
        ledger,
        store,
        tree: log.tree(),
        witnesses,
        key_rotations: key_rotations(&data)?,
        signer: HeadSigner::new(&origin, &seed)?,
        seals: Seals::default(),
        projections,
        feed,
        keyring,
        clock,
        sessions,
        links,
        tokens,
        pairings: Pairings::default(),
        leak_keys,
        dead_keys,
        webhooks,
        metrics,
        rates,
        readiness: Arc::default(),
    });
    erase_the_erased(&app)?;
    Ok((app, Background { usage: Arc::new(usage), side, log }, knocks))
}

/// The certificates beside the log. The log's own were compared with them when the last rotation was settled.
fn key_rotations(data: &Path) -> Result<Vec<String>, ServeError> {
    let file = LogFiles::keys_file(data);
    let refuse = |what: String| ServeError::Io { what: file.display().to_string(), error: std::io::Error::other(what) };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refuse(error.to_string())),
    };
    let keys = KeyChain::parse(&text).map_err(|error| refuse(error.to_string()))?;
    let notes = |keys: KeyChain| keys.certificates().iter().map(|certificate| certificate.note().to_owned()).collect();
    Ok(keys.map(notes).unwrap_or_default())
}

fn witness_policy(file: &Path) -> Result<Policy, ServeError> {
    let refuse = |what: String| ServeError::Witnesses { file: file.to_path_buf(), what };
    let text = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
    Policy::parse(&text).map_err(|error| refuse(error.to_string()))
}

/// Says what was found of the tree's tiles, if they are not as they were left.
fn report_tiles(found: TilesFound) {
    match found {
        TilesFound::Whole => {}
        TilesFound::Short { covered } => {
            tracing::info!(covered, "the tree's tiles end before the log; the rest is made from it");
        }
        TilesFound::Missing => tracing::info!("the tree has no tiles; they are made from the log"),
        TilesFound::Long => tracing::warn!("the tree's tiles went beyond the log; they were cut to it"),
        TilesFound::Useless => {
            tracing::warn!("the tree's tiles are unfinished or not of this log; they are made from it again");
        }
    }
}

/// A person who has left their last team is signed out everywhere. (Who is left in another team stays signed in, and
/// has no way into this one.)
fn end_sessions_of_the_departed(sessions: &Arc<Sessions>, projections: &Arc<Projections>) -> Observer {
    let (sessions, projections) = (sessions.clone(), projections.clone());
    Box::new(move |records| {
        for placed in records {
            if let Event::MemberDeparted(departed) = &placed.record.event
                && projections.people().teams_of(departed.member).is_empty()
            {
                sessions.end_all(departed.member);
            }
        }
    })
}

/// The endpoints that the teams' events are sent to, with what sends.
fn open_webhooks(
    config: &Config,
    keys: &Path,
    store: &dyn Store,
    side: &Side,
    metrics: Arc<Metrics>,
) -> Result<Arc<Webhooks>, ServeError> {
    let (secrets, is_new) = Secrets::open(&keys.join("webhooks.key"))?;
    let roots = match &config.webhook_ca_file {
        None => Vec::new(),
        Some(file) => read_roots(file).map_err(|what| ServeError::Io {
            what: format!("webhook_ca_file {}", file.display()),
            error: std::io::Error::other(what),
        })?,
    };
    let sender = Sender::new(Allowed::new(config.webhook_allow_networks.clone()), system_lookup(), roots);
    let retry = config.webhook_retry_seconds.iter().copied().map(Duration::from_secs).collect();
    let webhooks = Webhooks::open(store, side, secrets, sender, retry, metrics)?;
    if is_new && !webhooks.is_empty() {
        tracing::error!(
            "keys/webhooks.key was missing and has been made anew: every webhook's secret is another one now; restore the file, or rotate the secrets and tell the receivers"
        );
    }
    Ok(Arc::new(webhooks))
}

fn feed_webhooks(webhooks: &Arc<Webhooks>) -> Observer {
    let webhooks = webhooks.clone();
    Box::new(move |commit| commit.iter().for_each(|placed| webhooks.observe(placed)))
}

/// A crash between the record of an erasure and the erasure is made good here.
fn erase_the_erased(app: &App) -> Result<(), ServeError> {
    for person in app.projections.people().erased() {
        if app.keyring.get(person).is_some() {
            app.keyring.erase(person)?;
        }
    }
    Ok(())
}

/// A rotation of the signing key that a crash has cut short is ended before anything is signed.
fn finish_rotation(data: &Path) -> Result<(), ServeError> {
    match settle_rotation(data, &Options::default())? {
        Some(Settled::Finished(certificate)) => {
            tracing::warn!(key = %certificate.new_key(), "an interrupted rotation of the signing key was finished");
        }
        Some(Settled::TakenBack) => {
            tracing::warn!("an interrupted rotation of the signing key was taken back; the old key stays in force");
        }
        None => {}
    }
    Ok(())
}

/// The ledger's name: what its public key says, once there is one; the settings name a new ledger only.
fn origin(config: &Config) -> Result<String, ServeError> {
    let file = config.data.join("ledger.vkey");
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(text.parse::<HeadVerifier>()?.origin().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(config.origin()),
        Err(error) => Err(ServeError::Io { what: file.display().to_string(), error }),
    }
}

/// The seed of the ledger's signing key; a new one only for a new ledger: an old one without its key is refused.
fn signing_seed(data: &Path, file: &Path) -> Result<Zeroizing<[u8; 32]>, ServeError> {
    if let Some(seed) = load_signing_seed(file)? {
        return Ok(seed);
    }
    if data.join("ledger.vkey").exists() || data.join("log").exists() {
        return Err(ServeError::Bootstrap(format!("{} is missing, and the ledger has a history", file.display())));
    }
    create_signing_seed(file, &random::bytes())?;
    // Read back what is on the disk: of two processes that make it at once, both use the one that stayed.
    load_signing_seed(file)?.ok_or_else(|| ServeError::Bootstrap(format!("{} has gone again", file.display())))
}

fn create_private(dir: &Path) -> Result<(), ServeError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| ServeError::Io { what: dir.display().to_string(), error })
}
