//! `keyledger scan`: looks for the ledger's secrets in files and streams, tells which of them live, and ends those.
//!
//! Exit codes: 0 nothing found, 1 found, 2 wrong use or something could not be read. Nothing leaves this machine but
//! hashes and, with `--revoke`, places.

mod find;

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use ignore::{DirEntry, WalkBuilder, WalkState};
use keyledger_events::secret::SecretHash;
use serde_json::{Value, json};

use self::find::{Find, search};
use super::{
    Failure, Global,
    bar::Bar,
    client::Client,
    output::{Output, plain, rows, text},
    say,
};
use crate::scrub::scrub;

/// How many hashes one request may hold.
const ASKED_LEN: usize = 1_000;
/// How often the progress is shown anew.
const SHOWN_EVERY: Duration = Duration::from_millis(100);
/// What standard input is called.
const STDIN: &str = "-";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files and folders, hidden and ignored ones too; `-` is standard input (`git log -p | keyledger scan -`).
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// End what lives, as leaked, and record where it was found.
    #[arg(long, conflicts_with = "offline")]
    revoke: bool,
    /// Ask no server: look at form and checksum only.
    #[arg(long)]
    offline: bool,
    /// Leave out what .gitignore and .ignore leave out.
    #[arg(long)]
    respect_ignore: bool,
}

/// A find with its file.
struct Placed {
    path: String,
    find: Find,
}

impl Placed {
    fn place(&self) -> String {
        format!("{}:{}", self.path, self.find.line)
    }
}

/// What the searchers report.
enum News {
    Found(Placed),
    Unread(String),
}

pub fn run(global: &Global, output: Output, args: &Args) -> Result<(), Failure> {
    if let Some(missing) = args.paths.iter().find(|path| **path != *STDIN && !path.exists()) {
        return Err(Failure::Usage(format!("{}: there is no such file or folder", missing.display())));
    }
    let (mut finds, unread) = search_all(args);
    for why in &unread {
        eprintln!("keyledger: {}", scrub(&plain(why)));
    }
    finds.sort_by(|one, other| {
        (&one.path, one.find.line, one.find.column).cmp(&(&other.path, other.find.line, other.find.column))
    });
    let mut worth = HashMap::new();
    if !args.offline
        && !finds.is_empty()
        && let Err(failure) = ask(global, args, &finds, &mut worth)
    {
        // What was found is told all the same.
        say(&failure);
    }
    let told: Vec<Value> = finds.iter().map(|placed| told(placed, worth.get(&placed.find.hash))).collect();
    output.print(&json!({ "finds": told, "unread": unread.len() }), |answer| match rows(answer, "finds") {
        [] => "Nothing found.".to_owned(),
        some => some.iter().map(line).collect::<Vec<_>>().join("\n"),
    });
    match (finds.is_empty(), unread.is_empty()) {
        (true, true) => Ok(()),
        (true, false) => Err(Failure::Said(2)),
        (false, _) => Err(Failure::Said(1)),
    }
}

fn told(placed: &Placed, worth: Option<&Worth>) -> Value {
    let Find { line, column, kind, prefix, .. } = &placed.find;
    let (status, credential) =
        worth.map_or(("not asked", None), |worth| (worth.status.as_str(), worth.credential.as_deref()));
    json!({
        "path": placed.path, "line": line, "column": column, "kind": kind, "key_prefix": prefix,
        "status": status, "credential_id": credential,
    })
}

fn line(find: &Value) -> String {
    let place = format!("{}:{}:{}", text(find, "path"), text(find, "line"), text(find, "column"));
    let key = format!("{} {}…", text(find, "kind"), text(find, "key_prefix"));
    let id = match text(find, "credential_id") {
        id if id.is_empty() => id,
        id => format!(" {id}"),
    };
    plain(&format!("{place}: {key} {}{id}", text(find, "status")))
}

/// Searches everything; finds, and what could not be read.
fn search_all(args: &Args) -> (Vec<Placed>, Vec<String>) {
    let (news, told) = mpsc::channel();
    let read = AtomicU64::new(0);
    let bar = Bar::of_unknown_bytes();
    let (mut finds, mut unread) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| walk(args, &read, news));
        loop {
            match told.recv_timeout(SHOWN_EVERY) {
                Ok(News::Found(placed)) => finds.push(placed),
                Ok(News::Unread(why)) => unread.push(why),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            bar.at(read.load(Relaxed), 0);
        }
    });
    bar.clear();
    (finds, unread)
}

fn walk(args: &Args, read: &AtomicU64, news: Sender<News>) {
    let (streams, paths): (Vec<_>, Vec<_>) = args.paths.iter().partition(|path| ***path == *STDIN);
    if !streams.is_empty() {
        look_into(std::io::stdin().lock(), STDIN, &mut Vec::new(), read, &news);
    }
    // A file that is named is read, also behind a link.
    let (files, folders): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_file());
    files.iter().for_each(|file| look_into_file(file, &mut Vec::new(), read, &news));
    let Some((first, rest)) = folders.split_first() else { return };
    let mut walk = WalkBuilder::new(first);
    for path in rest {
        walk.add(path);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    walk.standard_filters(args.respect_ignore).hidden(false).require_git(false).threads(threads);
    walk.filter_entry(|entry| !is_object_store(entry));
    walk.build_parallel().run(|| {
        let (news, mut buffer) = (news.clone(), Vec::new());
        Box::new(move |entry| {
            match entry {
                Ok(entry) if entry.file_type().is_some_and(|kind| kind.is_file()) => {
                    look_into_file(entry.path(), &mut buffer, read, &news);
                }
                Ok(_) => {}
                Err(error) => tell(&news, News::Unread(error.to_string())),
            }
            WalkState::Continue
        })
    });
}

/// Git's objects are compressed: nothing is found in them. `git log -p` tells what they hold.
fn is_object_store(entry: &DirEntry) -> bool {
    let named = |path: Option<&Path>, name: &str| path.and_then(Path::file_name).is_some_and(|found| found == name);
    named(Some(entry.path()), "objects") && named(entry.path().parent(), ".git")
}

fn look_into_file(path: &Path, buffer: &mut Vec<u8>, read: &AtomicU64, news: &Sender<News>) {
    let name = path.to_string_lossy();
    match File::open(path) {
        Ok(file) => look_into(file, &name, buffer, read, news),
        Err(error) => tell(news, News::Unread(format!("{name}: {error}"))),
    }
}

fn look_into(source: impl std::io::Read, name: &str, buffer: &mut Vec<u8>, read: &AtomicU64, news: &Sender<News>) {
    // A name may hold a secret, too, and is about to be printed.
    let path = scrub(name).into_owned();
    let mut found = |find| tell(news, News::Found(Placed { path: path.clone(), find }));
    let count = |came| {
        read.fetch_add(came, Relaxed);
    };
    if let Err(error) = search(source, buffer, &count, &mut found) {
        tell(news, News::Unread(format!("{name}: {error}")));
    }
}

fn tell(news: &Sender<News>, what: News) {
    // Who listens stays until all have spoken.
    let _ = news.send(what);
}

/// What a hash is worth to the server.
struct Worth {
    status: String,
    credential: Option<String>,
}

/// Asks the server about all finds, and ends what lives if that is wished. Without a sign-in nobody is asked.
fn ask(global: &Global, args: &Args, finds: &[Placed], worth: &mut HashMap<SecretHash, Worth>) -> Result<(), Failure> {
    let client = Client::new(global)?;
    if client.token.is_none() {
        if args.revoke {
            return Err(Failure::Refused("sign in first (keyledger login): only a person ends keys".to_owned()));
        }
        eprintln!("keyledger: not signed in, so nobody was asked which of these live");
        return Ok(());
    }
    let mut hashes: Vec<SecretHash> = finds.iter().map(|placed| placed.find.hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    for some in hashes.chunks(ASKED_LEN) {
        let digits: Vec<String> = some.iter().map(hex).collect();
        let answer = client.write("POST", "/leaks/check", &json!({ "hashes": digits }))?;
        for (hash, row) in some.iter().zip(rows(&answer, "results")) {
            let credential = &row["credential"];
            let (status, id) = match credential["key_status"].as_str() {
                Some("active") => ("live", credential["id"].as_str()),
                Some(ended) => (ended, credential["id"].as_str()),
                None => ("unknown", None),
            };
            worth.insert(*hash, Worth { status: status.to_owned(), credential: id.map(str::to_owned) });
        }
    }
    if args.revoke {
        revoke(&client, finds, worth)?;
    }
    Ok(())
}

/// Ends what lives, and records every place of it.
fn revoke(client: &Client, finds: &[Placed], worth: &mut HashMap<SecretHash, Worth>) -> Result<(), Failure> {
    let lives = |placed: &&Placed| worth.get(&placed.find.hash).is_some_and(|worth| worth.status == "live");
    let live: Vec<&Placed> = finds.iter().filter(lives).collect();
    for some in live.chunks(ASKED_LEN) {
        let body: Vec<Value> = some
            .iter()
            .map(|placed| json!({ "hash": hex(&placed.find.hash), "place": plain(&placed.place()) }))
            .collect();
        let answer = client.write("POST", "/leaks/revoke", &json!({ "finds": body, "source": "keyledger scan" }))?;
        for (placed, row) in some.iter().zip(rows(&answer, "results")) {
            if let Some(worth) = worth.get_mut(&placed.find.hash) {
                match row["outcome"].as_str() {
                    Some("revoked") => worth.status = "revoked now".to_owned(),
                    Some("forbidden") => worth.status = "live, and not yours to end".to_owned(),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

fn hex(hash: &SecretHash) -> String {
    blake3::Hash::from_bytes(hash.0).to_hex().to_string()
}
