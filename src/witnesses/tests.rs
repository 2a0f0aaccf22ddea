//! Against witnesses that cosign, refuse, stall, lie, or know more than the ledger does.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use keyledger_events::{
    head::{HeadSigner, TreeHead},
    note::WitnessSigner,
    tree::{
        Frontier, leaf_hash, node_hash,
        proof::{self, Nodes, verify_consistency},
    },
};

use super::*;

const ORIGIN: &str = "ledger.example";

/// A growing ledger of which only the tree exists.
struct Tree {
    signer: HeadSigner,
    leaves: Mutex<Vec<NodeHash>>,
}

struct Leaves(Vec<NodeHash>);

impl Nodes for Leaves {
    type Error = Infallible;

    fn node(&self, level: u32, index: u64) -> Result<NodeHash, Infallible> {
        if level == 0 {
            return Ok(self.0[index as usize]);
        }
        Ok(node_hash(&self.node(level - 1, 2 * index)?, &self.node(level - 1, 2 * index + 1)?))
    }
}

impl Tree {
    fn new(size: u64) -> Arc<Self> {
        let tree = Self { signer: HeadSigner::new(ORIGIN, &[9; 32]).unwrap(), leaves: Mutex::default() };
        tree.grow(size);
        Arc::new(tree)
    }

    fn grow(&self, by: u64) {
        let mut leaves = self.leaves.lock().unwrap();
        for _ in 0..by {
            let leaf = leaf_hash(&(leaves.len() as u64).to_le_bytes());
            leaves.push(leaf);
        }
    }

    fn root(leaves: &[NodeHash]) -> NodeHash {
        let mut frontier = Frontier::new();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        frontier.root()
    }
}

impl Heads for Tree {
    fn newest(&self) -> Option<PublishedHead> {
        let leaves = self.leaves.lock().unwrap();
        let head = TreeHead { size: leaves.len() as u64, root: Self::root(&leaves) };
        Some(PublishedHead { head, note: self.signer.sign(&head) })
    }

    fn consistency(&self, old: u64, new: u64) -> Result<Vec<NodeHash>, String> {
        Ok(proof::consistency(&Leaves(self.leaves.lock().unwrap().clone()), old, new).unwrap())
    }
}

/// How a witness behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// As the document says, from this known size on.
    Good {
        known: u64,
    },
    /// It answers with another witness's signature.
    Lies,
    Status(u16),
    /// It takes the request and says nothing.
    Stalls,
}

/// A witness in a thread, by its own reading of the document; it ends with the test's process.
fn witness(number: u8, manner: Manner, tree: &Arc<Tree>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let tree = tree.clone();
    let signer = move |lies| WitnessSigner::new("witness.example/1", &[number + u8::from(lies); 32]).unwrap();
    let line = format!("witness w{number} {} {url}\n", signer(false).verifier());
    thread::spawn(move || {
        let mut known = match manner {
            Manner::Good { known } => (known, tree.leaves.lock().unwrap().get(..known as usize).map(Tree::root)),
            _ => (0, None),
        };
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = read(&mut stream);
            let (status, body) = match manner {
                Manner::Stalls => {
                    std::mem::forget(stream);
                    continue;
                }
                Manner::Status(status) => (status, String::new()),
                Manner::Lies | Manner::Good { .. } => {
                    judge(&request, &mut known, &tree, &signer(manner == Manner::Lies))
                }
            };
            let len = body.len();
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}");
        }
    });
    line
}

fn read(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut len = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(!line.starts_with("POST") || line.starts_with("POST /add-checkpoint "), "{line}");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

fn judge(request: &str, known: &mut (u64, Option<NodeHash>), tree: &Tree, signer: &WitnessSigner) -> (u16, String) {
    let (proof, note) = request.split_once("\n\n").unwrap();
    let mut lines = proof.lines();
    let old: u64 = lines.next().unwrap().strip_prefix("old ").unwrap().parse().unwrap();
    let proof: Vec<_> = lines.map(|line| NodeHash(BASE64.decode(line).unwrap().try_into().unwrap())).collect();
    let Ok(head) = tree.signer.verifier().verify(note) else { return (403, String::new()) };
    if old != known.0 {
        return (409, format!("{}\n", known.0));
    }
    let old_root = known.1.unwrap_or_else(|| Frontier::new().root());
    if !verify_consistency(old, &old_root, head.size, &head.root, &proof) {
        return (422, String::new());
    }
    *known = (head.size, Some(head.root));
    (200, signer.cosign(&Note::parse(note).unwrap(), 1_800_000_000))
}

fn start(tree: &Arc<Tree>, lines: &str, dir: &Path) -> Arc<Witnesses> {
    let witnesses = Arc::new(Witnesses::new(
        Policy::parse(lines).unwrap(),
        &tree.signer.verifier(),
        dir,
        Arc::new(Metrics::new()),
    ));
    let heads: Arc<dyn Heads> = tree.clone();
    witnesses.start(&heads).unwrap();
    witnesses
}

/// What is published once `until` likes it.
fn wait(witnesses: &Witnesses, tree: &Tree, until: impl Fn(&Note) -> bool) -> String {
    let began = Instant::now();
    loop {
        let note = witnesses.published(tree.newest().unwrap()).note;
        if until(&Note::parse(&note).unwrap()) {
            return note;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{note}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn of_size(size: u64) -> impl Fn(&Note) -> bool {
    move |note| note.text().lines().nth(1) == Some(&size.to_string())
}

#[test]
fn two_of_three_are_enough_and_the_third_holds_up_nobody() {
    for third in [Manner::Stalls, Manner::Status(403), Manner::Status(404), Manner::Status(500), Manner::Lies] {
        let (tree, dir) = (Tree::new(5), tempfile::tempdir().unwrap());
        let lines = witness(1, Manner::Good { known: 0 }, &tree)
            + &witness(3, Manner::Good { known: 3 }, &tree)
            + &witness(5, third, &tree)
            + "group q 2 w1 w3 w5\nquorum q\n";
        let witnesses = start(&tree, &lines, dir.path());
        let met = |note: &Note| witnesses.policy.is_met(note);
        for size in [5, 6, 300] {
            let newest = tree.newest().unwrap().head.size;
            tree.grow(size - newest);
            let note = wait(&witnesses, &tree, |note| met(note) && of_size(size)(note));
            assert_eq!(tree.signer.verifier().verify(&note).unwrap(), tree.newest().unwrap().head);
            let seen = witnesses.policy.cosigned(&Note::parse(&note).unwrap());
            assert_eq!(seen.iter().map(|seen| seen.witness.as_str()).collect::<Vec<_>>(), ["w1", "w3"], "{third:?}");
            let kept = || fs::read_to_string(dir.path().join(COSIGNED)).unwrap_or_default();
            wait(&witnesses, &tree, |_| kept() == note);
        }
        witnesses.stop();
        // The next process has it from the file, for as long as it is held back.
        let later = Witnesses::new(
            Policy::parse(&lines).unwrap(),
            &tree.signer.verifier(),
            dir.path(),
            Arc::new(Metrics::new()),
        );
        tree.grow(1);
        assert!(of_size(300)(&Note::parse(&later.published(tree.newest().unwrap()).note).unwrap()));
        wait(&later, &tree, of_size(301));
    }
}

#[test]
fn a_witness_that_knows_a_longer_or_another_history_is_not_talked_round() {
    let (tree, dir) = (Tree::new(5), tempfile::tempdir().unwrap());
    let (ahead, fork) = (Tree::new(9), Tree::new(0));
    fork.leaves.lock().unwrap().extend([leaf_hash(b"another"), leaf_hash(b"history")]);
    let lines = witness(1, Manner::Good { known: 9 }, &ahead)
        + &witness(3, Manner::Good { known: 2 }, &fork)
        + &witness(5, Manner::Good { known: 5 }, &tree)
        + "quorum w5\n";
    let witnesses = start(&tree, &lines, dir.path());
    let note = wait(&witnesses, &tree, |note| witnesses.policy.is_met(note));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(witnesses.policy.cosigned(&Note::parse(&note).unwrap()).len(), 1);
    for (number, why) in [
        (0, NotCosigned::Ahead { known: 9, signed: 5 }),
        (1, NotCosigned::Forked("no consistency with its 2 events".to_owned())),
    ] {
        let witness = &witnesses.policy.witnesses()[number];
        let agent = Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut asking = Asking { witness, agent, known: 0, cosigned: 0 };
        let PublishedHead { head, note } = tree.newest().unwrap();
        assert_eq!(asking.ask(head.size, &note, &*tree), Err(why));
    }
    witnesses.stop();
}
