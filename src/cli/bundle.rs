//! `keyledger export` and `keyledger statement`: a team's history in one file that proves itself, and what the ledger
//! signs about it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use keyledger_events::{
    TeamId,
    head::HeadSigner,
    rotation::KeyChain,
    statement::TeamStatement,
    store::{ReadLog, file::FileLog, keyring::load_signing_seed},
};
use keyledger_replay::bundle::{self, ExportError, Material, Selection};
use serde_json::json;
use uuid::Uuid;

use super::{
    Failure, Global,
    bar::Bar,
    client::Client,
    export::Args,
    output::Output,
    replay::{failure, known_heads, unreadable},
};
use crate::clock::Clock;

/// Exports a bundle.
///
/// # Errors
/// What was refused or could not be written.
pub fn export(global: &Global, output: Output, args: &Args) -> Result<(), Failure> {
    let since = known_heads(&args.head)?.iter().map(|note| size_of(note)).collect::<Result<_, _>>()?;
    let selection = Selection { from: args.from, to: args.to, since };
    let temporary = Temporary::beside(&args.file)?;
    match &args.data {
        Some(dir) => from_directory(dir, global.team, &selection, &temporary)?,
        None => from_server(&Client::new(global)?, &selection, &temporary)?,
    }
    // What cannot be verified must not be handed on: read back, with the key it names itself.
    let report = bundle::verify(&temporary.path, &bundle::Options::default())
        .map_err(|error| Failure::Refused(format!("what was exported does not hold: {error}")))?;
    let bytes = temporary.keep(&args.file)?;
    let answer = json!({
        "file": args.file, "bytes": bytes, "team": report.team, "whole": report.whole, "from": report.from, "to": report.to,
        "events": report.events, "tree_size": report.tree_size,
    });
    let part = if report.whole {
        "the whole history".to_owned()
    } else {
        format!("revisions {} to {}", report.from, report.to)
    };
    let sentence = format!(
        "{}: {part} of team {}, {} events, {bytes} bytes.\nWhoever has {}'s public key checks it with\n  keyledger replay verify {} --key VKEY",
        args.file.display(),
        report.team,
        report.events,
        report.origin,
        args.file.display(),
    );
    output.done(&sentence, answer);
    Ok(())
}

/// Prints the team's signed statement.
///
/// # Errors
/// What was refused.
pub fn statement(client: &Client, output: Output) -> Result<(), Failure> {
    let note = client.statement()?;
    output.print(&json!({ "statement": note }), |_| note.trim_end().to_owned());
    Ok(())
}

fn from_server(client: &Client, selection: &Selection, to: &Temporary) -> Result<(), Failure> {
    let since = selection.since.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let query: Vec<(&str, String)> = [
        ("from", selection.from.map(|bound| bound.to_string())),
        ("to", selection.to.map(|bound| bound.to_string())),
        ("since", Some(since).filter(|since| !since.is_empty())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let mut body = client.open("/export", &query)?.body;
    // How long it will be, nobody knows before the end.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {bytes}, {bytes_per_sec}, {elapsed}");
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let copied = io::copy(&mut body, &mut bar.wrap_write(&to.file));
    bar.finish_and_clear();
    copied.map(drop).map_err(Failure::io("the bundle broke off"))
}

fn from_directory(dir: &Path, team: Option<Uuid>, selection: &Selection, to: &Temporary) -> Result<(), Failure> {
    let team = team.ok_or_else(|| Failure::Usage("--team says whose history is exported".to_owned()))?;
    let team = TeamId::from(team);
    let log = FileLog::open(dir).map_err(|error| unreadable(&error))?;
    let keys = log.files().keys();
    let key = keys.newest();
    let signer = signer(dir, key.origin())?;
    if signer.verifier() != *key {
        return Err(Failure::Refused(format!("{}: the signing key is not that of ledger.vkey", dir.display())));
    }
    let heads = log.files().tree_heads();
    let tree = *heads.last().ok_or_else(|| Failure::Damaged("the log has no signed tree head".to_owned()))?;
    let gathered =
        Bar::of_events().during(|progress| bundle::gather(&log, tree.size, team, progress)).map_err(failure)?;
    let (head, position) = gathered.end.ok_or_else(|| Failure::Refused(format!("no team {team} in this log")))?;
    let time = Clock::new(log.head().recorded_at, 0).now();
    let statement = TeamStatement { origin: key.origin().to_owned(), team, head, position, tree, time };
    let material = Material {
        log: &log as &dyn ReadLog,
        nodes: &gathered.nodes,
        origin: key.origin().to_owned(),
        key: key.to_string(),
        key_rotations: notes(keys),
        team,
        numbers: gathered.numbers,
        tree,
        tree_head: signer.sign(&tree),
        statement: statement.sign(&signer),
        seal: gathered.seal,
        last_used: None::<BTreeMap<_, _>>,
        exported_at: time,
    };
    let mut out = BufWriter::new(&to.file);
    let exported = Bar::of_commits().during(|progress| bundle::export(material, selection, &mut out, progress));
    exported.map(drop).map_err(|error| match error {
        ExportError::Read(error) => unreadable(&error),
        error => Failure::Refused(error.to_string()),
    })
}

/// The certificates that lead from older keys to the newest.
fn notes(keys: &KeyChain) -> Vec<String> {
    keys.certificates().iter().map(|certificate| certificate.note().to_owned()).collect()
}

fn signer(dir: &Path, origin: &str) -> Result<HeadSigner, Failure> {
    let file = dir.join("keys/signing.key");
    let seed = load_signing_seed(&file).map_err(|error| Failure::Refused(error.to_string()))?;
    let seed = seed.ok_or_else(|| {
        let file = file.display();
        Failure::Refused(format!(
            "{file} is missing, so nothing can state where the history ends: ask the running server"
        ))
    })?;
    HeadSigner::new(origin, &seed).map_err(|error| Failure::Refused(error.to_string()))
}

/// The size in a tree head's note. Its signature is checked when the bundle is verified with it.
fn size_of(note: &str) -> Result<u64, Failure> {
    let size = note.lines().nth(1).and_then(|line| line.parse().ok());
    size.ok_or_else(|| Failure::Usage("--head is not a signed tree head".to_owned()))
}

/// A file that is not there under its name until it is whole.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn beside(file: &Path) -> Result<Self, Failure> {
        let name = file.file_name().ok_or_else(|| Failure::Usage(format!("{}: not a file's name", file.display())))?;
        let mut name = name.to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = file.with_file_name(name);
        let made = File::create_new(&path).map_err(Failure::io(path.display()))?;
        Ok(Self { path, file: made })
    }

    /// Gives it its name, durably; how many bytes it has.
    fn keep(&self, name: &Path) -> Result<u64, Failure> {
        let io = |path: &Path| Failure::io(path.display().to_string());
        self.file.sync_all().map_err(io(&self.path))?;
        let len = self.file.metadata().map_err(io(&self.path))?.len();
        fs::rename(&self.path, name).map_err(io(name))?;
        Ok(len)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already if it was kept.
        let _ = fs::remove_file(&self.path);
    }
}
