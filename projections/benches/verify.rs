//! What a verification costs, as a ratio to what it can't cost less than: BLAKE3 of the token and one hash-map look-up.
//!
//! `cargo bench -p keyledger-projections --bench verify [-- CREDENTIALS…]` (default 1000000 10000000). A million tokens in
//! random order are presented to both loops, a thousand at a time and in turns: so short a batch is seldom interrupted by
//! whatever else the machine does, and the medians of all batches are compared.

mod support;

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    time::Instant,
};

use keyledger_events::{
    CredentialId, Event, PersonId, TeamId, Timestamp,
    event::CredentialIssuedV1,
    presented::AddressClass,
    seal::Label,
    secret::{Kind, SECRET_LEN, Secret},
};
use keyledger_projections::{Active, Surface};
use support::{Random, median, nanoseconds, secret};

const TEAMS: u64 = 10_000;
const HOLDERS: u64 = 50_000;
const PRESENTED: usize = 1_000_000;
const BATCH: usize = 1_000;
const ROUNDS: usize = 5;
const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
/// BLAKE3's own way to derive a key; which context it has does not change what it costs.
const CONTEXT: &str = "keyledger bench";

fn main() {
    let sizes: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1_000_000, 10_000_000] } else { sizes };
    for credentials in sizes {
        run(credentials);
    }
}

fn run(credentials: u64) {
    let active = Active::default();
    let mut map: HashMap<[u8; 32], Value, BuildHasherDefault<First>> = HashMap::default();
    map.reserve(credentials as usize);
    let hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let hash = |token: &[u8; SECRET_LEN]| *hasher.clone().update(token).finalize().as_bytes();
    let mut presented: Vec<[u8; SECRET_LEN]> = Vec::with_capacity(PRESENTED);
    let mut random = Random(credentials);
    let began = Instant::now();
    for number in 0..credentials {
        let secret = secret(number);
        active.apply_event(team(number), &issued(number, &secret));
        let token = *secret.expose().as_bytes().first_chunk().expect("a secret has 55 bytes");
        map.insert(hash(&token), Value { _id: [number; 2], ends_at: u64::MAX - number, _rest: number });
        // Reservoir sampling: every credential is as likely to be presented.
        if presented.len() < PRESENTED {
            presented.push(token);
        } else if let Some(place) = presented.get_mut((random.next() % (number + 1)) as usize) {
            *place = token;
        }
    }
    for last in (1..presented.len()).rev() {
        presented.swap(last, (random.next() % (last as u64 + 1)) as usize);
    }
    let memory = active.memory_bytes();
    println!("{credentials} credentials, filled in {:.1} s", began.elapsed().as_secs_f64());
    println!(
        "  memory: {:.1} bytes of index a credential, and {:.1} of names",
        memory.index as f64 / credentials as f64,
        memory.names as f64 / credentials as f64
    );
    let reference = |tokens: &[_]| {
        nanoseconds(tokens, |token| map.get(&hash(token)).is_some_and(|value| value.ends_at > NOW.micros()))
    };
    let ours = |tokens: &[_]| {
        nanoseconds(tokens, |token| {
            active.verify(token, Some(Surface::Runtime), None, NOW).is_ok_and(|verdict| {
                active.touch(verdict.handle, NOW, None, || AddressClass::Loopback);
                true
            })
        })
    };
    let (mut reference_times, mut our_times) = (vec![], vec![]);
    for round in 0..ROUNDS {
        for (number, batch) in presented.chunks_exact(BATCH).enumerate() {
            // Whoever comes second finds the tokens in the cache.
            if (round + number) % 2 == 0 {
                reference_times.push(reference(batch));
                our_times.push(ours(batch));
            } else {
                our_times.push(ours(batch));
                reference_times.push(reference(batch));
            }
        }
    }
    let (reference, ours) = (median(reference_times), median(our_times));
    println!(
        "  BLAKE3 + hash map: {reference:.0} ns   verify + touch: {ours:.0} ns   ratio {:.2}",
        ours / reference
    );
}

/// As much as an index must know of a credential beside its hash.
struct Value {
    _id: [u64; 2],
    ends_at: u64,
    _rest: u64,
}

/// A hash needs no further hashing.
#[derive(Default)]
struct First(u64);

impl Hasher for First {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(self.0, |word| u64::from_le_bytes(*word));
    }
}

fn team(number: u64) -> TeamId {
    TeamId::from_bytes(u128::from(number % TEAMS + 1).to_be_bytes())
}

fn issued(number: u64, secret: &Secret) -> Event {
    let holder = number % HOLDERS;
    Event::CredentialIssued(CredentialIssuedV1 {
        credential: CredentialId::from_bytes((u128::from(number) << 64 | 0x7000_8000 << 32).to_be_bytes()),
        kind: Kind::Integration,
        hash: secret.hash(),
        prefix: secret.prefix(),
        name: Label::Clear(format!("nightly build {number}")),
        purpose: None,
        holder: PersonId::from_bytes(u128::from(holder).to_be_bytes()),
        expires_at: Some(NOW.plus_days((number % 365 + 1) as u16)),
        rotated_from: None,
        companion_of: None,
    })
}
