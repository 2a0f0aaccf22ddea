//! How long a start takes, with a current checkpoint and without any, and a page of the list or the audit query.
//!
//! `cargo bench -p keyledger-projections --bench open`, in a log of `KEYLEDGER_BENCH_EVENTS` events (default 100000;
//! 5000000 for the published figures) of `KEYLEDGER_BENCH_TEAMS` teams (default a 500th). `KEYLEDGER_BENCH_DIR` names a
//! folder that keeps the log for the next run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use keyledger_events::{
    CredentialId, Event, PersonId, Position, TeamId, Timestamp,
    event::{
        CredentialHandedOverV1, CredentialIssuedV1, CredentialRevokedV1, MemberJoinedV1, RevokeReason, Role,
        TeamCreatedV1,
    },
    head::HeadSigner,
    record::Actor,
    seal::Label,
    secret::{KeyPrefix, Kind, RANDOM_LEN, Secret},
    store::{
        ReadLog, Store,
        contract::Author,
        file::{FileStore, Options},
    },
};
use keyledger_projections::{
    Projections, TeamView,
    team_view::{
        audit::Query,
        directory::{Filter, Lookups, Status},
    },
};

/// How many commits may be under way while the log is filled.
const UNDER_WAY: usize = 4_096;
const PAGES: usize = 200;
/// No page is asked for longer than this: one team of all events is folded and scanned for a long time.
const PATIENCE: Duration = Duration::from_secs(3);

fn main() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let events = number("KEYLEDGER_BENCH_EVENTS").unwrap_or(100_000);
    let teams = number("KEYLEDGER_BENCH_TEAMS").unwrap_or(events.div_ceil(500));
    let fresh = tempfile::tempdir().expect("a temporary folder");
    let dir = env::var_os("KEYLEDGER_BENCH_DIR").map_or_else(|| fresh.path().to_owned(), PathBuf::from);
    let open = || {
        let signer = HeadSigner::new("bench.example/ledger", &[7; 32]).expect("a signer");
        FileStore::open(&dir, signer, &Options::default()).expect("the log opens").0
    };
    let store = open();
    fill(&store, events, teams);
    drop(store);
    let (store, took) = timed(open);
    println!("the log, from its own checkpoint: {:.2} s", took.as_secs_f64());
    let projections = dir.join("projections");
    let _ = fs::remove_dir_all(&projections);
    println!("{} events of {teams} teams", store.head().position);
    start(&store, &projections);
    start(&store, &projections);
    pages(&store, &projections, teams);
}

/// A start, and a checkpoint for the next one.
fn start(store: &FileStore, dir: &Path) {
    let (projections, opened) = Projections::open(store, dir).expect("the projections open");
    let how = if opened.checkpoint.is_some() { "from a checkpoint" } else { "from the log alone" };
    println!("start {how}: {:.2} s for {} credentials", opened.took.as_secs_f64(), projections.active().len());
    let (digests, took) = timed(|| projections.digests());
    println!("  digests in {:.2} s: active {:.16}…", took.as_secs_f64(), digests.active.to_string());
    let (written, took) = timed(|| projections.checkpoint().expect("a checkpoint is written"));
    if let Some(written) = written {
        println!("  checkpoint of {} MB written in {:.2} s", written.bytes / 1_000_000, took.as_secs_f64());
    }
}

/// Pages of every kind of filter, each of a team that is not in memory, and of one that is.
fn pages(store: &FileStore, dir: &Path, teams: u64) {
    let (projections, _) = Projections::open(store, dir).expect("the projections open");
    let (now, active) = (Timestamp::from_micros(1_800_000_000_000_000), projections.active());
    let last_used = |credential| active.last_used(credential);
    let lookups = Lookups { last_used: &last_used, open: &|_| None };
    let filters: Vec<(&str, Filter<'_>)> = vec![
        ("list", Filter::default()),
        ("list ended", Filter { status: Some(Status::Revoked), ..Filter::default() }),
        ("list by name", Filter { q: Some("build 7"), ..Filter::default() }),
        ("list unused", Filter { unused_days: Some(30), ..Filter::default() }),
        ("list of agents", Filter { kind: Some(Kind::Agent), ..Filter::default() }),
    ];
    let queries: Vec<(&str, Query)> = vec![
        ("audit", Query { limit: 100, ..Query::default() }),
        ("audit of a type", Query { kind: Some(7), limit: 100, ..Query::default() }),
        ("audit newest first", Query { limit: 100, newest_first: true, ..Query::default() }),
        ("audit since", Query { from: Some(now), limit: 100, ..Query::default() }),
    ];
    let mut turn = 0;
    let mut measure = |name: &str, page: &dyn Fn(&TeamView, Option<Actor>) -> usize| {
        let (mut cold, mut warm) = (vec![], vec![]);
        let began = Instant::now();
        for _ in 0..PAGES {
            if began.elapsed() > PATIENCE {
                break;
            }
            turn = (turn + 1) % teams;
            let team = Author::new(turn).team;
            let actor = first_actor(store, &projections, team);
            let ask = || {
                let view = projections.team_view(store, team).expect("the log can be read").expect("the team exists");
                let view = view.read();
                page(&view, actor)
            };
            cold.push(timed(ask).1);
            warm.push(timed(ask).1);
        }
        println!("  {name}: cold {}, warm {}", spread(cold), spread(warm));
    };
    for (name, filter) in &filters {
        measure(name, &|view, _| view.directory.page(filter, now, &lookups, 1, 100).rows.len());
    }
    // The page shows the events themselves, which only the log has.
    let read = |positions: Vec<Position>| {
        positions.into_iter().filter_map(|position| store.commit(store.locate(position).ok()??).ok()?).count()
    };
    for (name, query) in &queries {
        measure(name, &|view, _| read(view.audit(query).positions));
        let name = format!("{name}, of an actor");
        measure(&name, &|view, actor| read(view.audit(&Query { actor, ..*query }).positions));
    }
}

fn first_actor(store: &FileStore, projections: &Projections, team: TeamId) -> Option<Actor> {
    let commit = store.commit(*projections.team_commits(team).first()?).ok()??;
    Some(commit.records().next()?.ok()?.record.meta.actor)
}

/// Median and slowest.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    format!("{:.2} ms (slowest {:.2})", median.as_secs_f64() * 1e3, slowest.as_secs_f64() * 1e3)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let outcome = work();
    (outcome, began.elapsed())
}

/// Makes the log that long: of every five events three issue a key, one revokes one, one hands one over.
fn fill(store: &FileStore, events: u64, teams: u64) {
    if store.head().position.0 >= events {
        return;
    }
    assert_eq!(store.head().position.0, 0, "the folder keeps a shorter log");
    let mut authors: Vec<_> = (0..teams).map(Author::new).collect();
    let mut tickets = std::collections::VecDeque::new();
    for number in 0..events.saturating_sub(teams) {
        let (round, of) = (number / teams, number % teams);
        let author = &mut authors[of as usize];
        let proposal = match round {
            0 => author.propose(vec![created(of), joined(author.team)]),
            round => author.propose(vec![event(author.team, round - 1)]),
        };
        tickets.push_back(store.submit(proposal));
        if tickets.len() > UNDER_WAY
            && let Some(ticket) = tickets.pop_front()
        {
            ticket.wait().expect("the log takes it");
        }
    }
    for ticket in tickets {
        ticket.wait().expect("the log takes it");
    }
}

fn created(team: u64) -> Event {
    Event::TeamCreated(TeamCreatedV1 { name: format!("team {team}") })
}

fn owner(team: TeamId) -> PersonId {
    PersonId::from_bytes(*team.as_bytes())
}

fn joined(team: TeamId) -> Event {
    let name = Label::Clear("Ada".to_owned());
    Event::MemberJoined(MemberJoinedV1 { member: owner(team), role: Role::Owner, name, invited_by: None })
}

fn event(team: TeamId, number: u64) -> Event {
    let credential = |number: u64| {
        let mut id = *team.as_bytes();
        id[..8].copy_from_slice(&number.to_be_bytes());
        CredentialId::from_bytes(id)
    };
    // Of each group of five: 0 to 2 issue, 3 revokes the group's second key, 4 hands its third over.
    let group = number - number % 5;
    match number % 5 {
        3 => Event::CredentialRevoked(CredentialRevokedV1 {
            credential: credential(group + 1),
            reason: RevokeReason::Requested,
            note: None,
        }),
        4 => Event::CredentialHandedOver(CredentialHandedOverV1 {
            credential: credential(group + 2),
            from: owner(team),
            to: owner(team),
        }),
        _ => {
            let (hash, prefix) = key(team, number);
            Event::CredentialIssued(CredentialIssuedV1 {
                credential: credential(number),
                kind: if number.is_multiple_of(2) { Kind::Integration } else { Kind::Agent },
                hash,
                prefix,
                name: Label::Clear(format!("nightly build {number}")),
                purpose: None,
                holder: owner(team),
                expires_at: Some(Timestamp::from_micros(1_830_000_000_000_000 + number * 3_600_000_000)),
                rotated_from: None,
                companion_of: None,
            })
        }
    }
}

fn key(team: TeamId, number: u64) -> (keyledger_events::secret::SecretHash, KeyPrefix) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(team.as_bytes()).update(&number.to_le_bytes());
    let mut random = [0; RANDOM_LEN];
    hasher.finalize_xof().fill(&mut random);
    random.iter_mut().for_each(|digit| *digit %= 62);
    let secret = Secret::new(Kind::Integration, &random);
    (secret.hash(), secret.prefix())
}
