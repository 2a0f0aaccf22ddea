//! What a verification costs at an edge, beside the index's own cost in the same run; and how long a snapshot takes.
//!
//! `cargo bench -p keyledger-projections --features edge --bench edge [-- KEYS [SNAPSHOT_KEYS]]` (1000000 5000000 if not
//! given; 0 leaves a part out). The edge is a real one: it has fetched its snapshot over a loopback socket and follows a
//! feed there. The two are asked in turns, a thousand keys at a time, and the medians of all batches are compared; then two
//! threads ask the edge alone.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

mod support;

use std::{
    fs::File,
    hint::black_box,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use keyledger_events::{
    CredentialId, PersonId, Position, TeamId, Timestamp,
    head::{HeadSigner, TreeHead},
    secret::{Kind, RANDOM_LEN, SECRET_LEN, Secret},
    tree::{Frontier, leaf_hash},
};
use keyledger_projections::{
    Active, Surface,
    edge::Edge,
    feed::{Change, HeadMessage, snapshot},
};
use support::{Random, median, nanoseconds, secret};

const BATCH: usize = 1_000;
const ROUNDS: usize = 5;
const SECONDS: u64 = 3;
const PRESENTED: usize = 1_000_000;

fn main() {
    let mut sizes = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let (keys, snapshot_keys) = (sizes.next().unwrap_or(1_000_000), sizes.next().unwrap_or(5_000_000));
    if keys > 0 {
        verify(keys);
    }
    if snapshot_keys > 0 {
        snapshots(snapshot_keys);
    }
}

fn verify(keys: u64) {
    let index = Arc::new(filled(keys));
    let presented = presented(keys);
    let url = serve(index.clone());
    let began = Instant::now();
    let token = Secret::new(Kind::Service, &[0; RANDOM_LEN]);
    let edge = Edge::builder(&url, token.expose()).reports(false).connect().unwrap();
    assert!(edge.wait_until_ready(Duration::from_secs(600)), "{:?}", edge.state());
    println!("{keys} keys, in the edge after {:.2} s", began.elapsed().as_secs_f64());
    let now = now();
    let of_index =
        |tokens: &[_]| nanoseconds(tokens, |token| index.verify(token, Some(Surface::Runtime), None, now).is_ok());
    let of_edge = |tokens: &[_]| nanoseconds(tokens, |token| edge.verify(token, Some(Surface::Runtime), now).is_ok());
    let (mut index_times, mut edge_times) = (vec![], vec![]);
    for round in 0..ROUNDS {
        for (number, batch) in presented.chunks_exact(BATCH).enumerate() {
            // Whoever comes second finds the tokens in the cache.
            if (round + number) % 2 == 0 {
                index_times.push(of_index(batch));
                edge_times.push(of_edge(batch));
            } else {
                edge_times.push(of_edge(batch));
                index_times.push(of_index(batch));
            }
        }
        // The clock of the questions must not fall behind the policy.
        assert!(edge.is_ready());
    }
    let (index_ns, edge_ns) = (median(index_times), median(edge_times));
    println!(
        "  Active::verify: {index_ns:.0} ns   Edge::verify: {edge_ns:.0} ns   ratio {:.2}",
        edge_ns / index_ns
    );
    for (what, rate) in [
        (
            "Active::verify",
            rate(&presented, |token, now| index.verify(token, Some(Surface::Runtime), None, now).is_ok()),
        ),
        (
            "Edge::verify",
            rate(&presented, |token, now| edge.verify(token, Some(Surface::Runtime), now).is_ok()),
        ),
    ] {
        println!("  two threads, {what}: {:.2} M/s", rate / 1e6);
    }
}

/// Verifications a second by two threads.
fn rate(presented: &[[u8; SECRET_LEN]], accepts: impl Fn(&[u8; SECRET_LEN], Timestamp) -> bool + Sync) -> f64 {
    let began = Instant::now();
    let counts: u64 = std::thread::scope(|scope| {
        let halves = presented.chunks(presented.len().div_ceil(2));
        let threads: Vec<_> = halves
            .map(|half| {
                let accepts = &accepts;
                scope.spawn(move || {
                    let mut count = 0;
                    for batch in half.chunks(BATCH).cycle() {
                        let now = now();
                        let accepted = batch.iter().filter(|token| accepts(black_box(token), now)).count();
                        assert_eq!(accepted, batch.len());
                        count += batch.len() as u64;
                        if began.elapsed() >= Duration::from_secs(SECONDS) {
                            return count;
                        }
                    }
                    count
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    counts as f64 / began.elapsed().as_secs_f64()
}

fn snapshots(keys: u64) {
    let index = filled(keys);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot");
    let began = Instant::now();
    let header = header(&index);
    let summed = began.elapsed();
    let mut out =
        zstd::stream::write::Encoder::new(BufWriter::with_capacity(1 << 20, File::create(&file).unwrap()), 1).unwrap();
    let mut plain = 0;
    for piece in snapshot::write(&index.freeze(), &header) {
        plain += piece.len();
        out.write_all(&piece).unwrap();
    }
    out.finish().unwrap().into_inner().unwrap().sync_all().unwrap();
    let written = began.elapsed();
    let packed = file.metadata().unwrap().len();
    let began = Instant::now();
    let from = BufReader::with_capacity(1 << 20, File::open(&file).unwrap());
    let (_, read) = snapshot::read(zstd::stream::read::Decoder::with_buffer(from).unwrap()).unwrap();
    let loaded = began.elapsed();
    assert_eq!(read.len() as u64, keys);
    println!(
        "snapshot of {keys} keys: digest in {:.2} s, written in {:.2} s ({:.0} MB, {:.0} MB as zstd), loaded and checked in {:.2} s",
        summed.as_secs_f64(),
        (written - summed).as_secs_f64(),
        plain as f64 / 1e6,
        packed as f64 / 1e6,
        loaded.as_secs_f64()
    );
}

fn header(index: &Active) -> snapshot::Header {
    snapshot::Header {
        position: Some(Position(index.len() as u64 - 1)),
        credentials: index.len() as u64,
        digest: index.nameless_digest(None),
        teams: None,
        at: now(),
    }
}

/// A ledger as an edge sees one: a tree head, a snapshot, and a feed on which nothing happens but heads.
fn serve(index: Arc<Active>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let header = header(&index);
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    snapshot::write(&index.freeze(), &header).for_each(|piece| packed.write_all(&piece).unwrap());
    let packed = Arc::new(packed.finish().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (header, packed) = (header.clone(), packed.clone());
            std::thread::spawn(move || answer(client, &header, &packed));
        }
    });
    url
}

fn answer(mut client: TcpStream, header: &snapshot::Header, packed: &[u8]) -> Option<()> {
    let mut lines = BufReader::new(client.try_clone().ok()?).lines().map_while(Result::ok);
    let asked = lines.next()?;
    lines.find(|line| line.is_empty())?;
    let whole = |kind: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    if asked.contains(" /checkpoint") {
        let mut frontier = Frontier::new();
        frontier.push(leaf_hash(b"one"));
        let signer = HeadSigner::new("bench.example/1", &[1; 32]).ok()?;
        let note = signer.sign(&TreeHead { size: 1, root: frontier.root() });
        return client.write_all(&whole("text/plain", note.as_bytes())).ok();
    }
    if asked.contains("/api/v1/snapshot") {
        return client.write_all(&whole("application/octet-stream", packed)).ok();
    }
    client.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n").ok()?;
    loop {
        let head = HeadMessage { after: header.position, position: header.position, digest: header.digest, at: now() };
        write!(client, "event: head\ndata: {}\n\n", serde_json::to_string(&head).ok()?).ok()?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn filled(keys: u64) -> Active {
    let index = Active::with_capacity(keys as usize);
    for number in 0..keys {
        let secret = secret(number);
        index.apply_change(
            TeamId::from_bytes(u128::from(number % 10_000 + 1).to_be_bytes()),
            &Change::CredentialIssued {
                credential: CredentialId::from_bytes((u128::from(number) << 64 | 0x7000_8000 << 32).to_be_bytes()),
                kind: Kind::Integration,
                hash: secret.hash(),
                holder: PersonId::from_bytes(u128::from(number % 50_000).to_be_bytes()),
                expires_at: Some(now().plus_days((number % 365 + 1) as u16)),
                companion_of: None,
            },
        );
    }
    index
}

fn presented(keys: u64) -> Vec<[u8; SECRET_LEN]> {
    let mut random = Random(keys);
    let token = |number| *secret(number).expose().as_bytes().first_chunk().unwrap();
    (0..PRESENTED).map(|_| token(random.next() % keys)).collect()
}

fn now() -> Timestamp {
    Timestamp::from_micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64)
}
