//! Team statements: what the ledger signs about one team, for whoever audits that team.
//!
//! A statement names the team's last event and the tree that holds it. Two of them that contradict each other prove
//! that the ledger lied to somebody. Its first line is a name of its kind, which no ledger may have: a signature under
//! it can't be taken for a tree head's, nor the other way round.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::{
    Position, RecordHash, Revision, TeamId, Timestamp,
    head::{HeadSigner, HeadVerifier, TreeHead},
    note::Note,
    record::StreamHead,
    tree::NodeHash,
};

/// A statement's first line.
pub const STATEMENT_NAME: &str = "keyledger-team-statement/v1";

/// What the ledger says of one team. Its text is one `name value` a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamStatement {
    /// The ledger's name.
    pub origin: String,
    /// The team.
    pub team: TeamId,
    /// Its last event.
    pub head: StreamHead,
    /// The position of that event; below the tree's size.
    pub position: Position,
    /// The tree that holds it.
    pub tree: TreeHead,
    /// When this was said.
    pub time: Timestamp,
}

impl TeamStatement {
    /// The statement as a signed note. The signer's name is the ledger's, whatever `origin` says.
    pub fn sign(&self, signer: &HeadSigner) -> String {
        signer.sign_text(&self.to_string())
    }

    /// Reads and checks a signed note. Other signatures than the ledger's may stand in it.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn verify(note: &str, key: &HeadVerifier) -> Result<Self, StatementError> {
        let note = Note::parse(note).map_err(|_| StatementError::Shape)?;
        if !key.has_signed(&note) {
            return Err(StatementError::Signature);
        }
        let statement = Self::parse(note.text())?;
        if statement.origin == key.origin() { Ok(statement) } else { Err(StatementError::Origin) }
    }

    /// Reads what [`fmt::Display`] writes, and nothing else.
    ///
    /// # Errors
    /// [`StatementError::Shape`].
    pub fn parse(text: &str) -> Result<Self, StatementError> {
        fn fields(text: &str) -> Option<TeamStatement> {
            let mut lines = text.lines();
            if lines.next()? != STATEMENT_NAME {
                return None;
            }
            let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
            Some(TeamStatement {
                origin: value("origin")?.to_owned(),
                team: value("team")?.parse().ok()?,
                head: StreamHead { revision: Revision(value("revision")?.parse().ok()?), hash: hash(value("head")?)? },
                position: Position(value("position")?.parse().ok()?),
                tree: TreeHead {
                    size: value("tree-size")?.parse().ok()?,
                    root: NodeHash(BASE64.decode(value("tree-root")?).ok()?.try_into().ok()?),
                },
                time: value("time")?.parse().ok()?,
            })
        }
        let statement = fields(text).ok_or(StatementError::Shape)?;
        if statement.to_string() == text && statement.position.0 < statement.tree.size {
            Ok(statement)
        } else {
            Err(StatementError::Shape)
        }
    }
}

fn hash(digits: &str) -> Option<RecordHash> {
    let mut hash = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(RecordHash(hash))
}

impl fmt::Display for TeamStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, team, head, position, tree, time } = self;
        writeln!(f, "{STATEMENT_NAME}\norigin {origin}\nteam {team}\nrevision {}\nhead {}", head.revision, head.hash)?;
        let root = BASE64.encode(tree.root.0);
        writeln!(f, "position {position}\ntree-size {}\ntree-root {root}\ntime {time}", tree.size)
    }
}

/// Why a text is not this ledger's statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Not of the shape.
    #[error("not a team statement")]
    Shape,
    /// Of another ledger.
    #[error("the team statement is of another ledger")]
    Origin,
    /// No valid signature by the ledger's key.
    #[error("the team statement's signature does not hold")]
    Signature,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer() -> HeadSigner {
        HeadSigner::new("ledger.example/1", &[3; 32]).unwrap()
    }

    fn statement() -> TeamStatement {
        TeamStatement {
            origin: "ledger.example/1".into(),
            team: TeamId::from_bytes([0x51; 16]),
            head: StreamHead { revision: Revision(41), hash: RecordHash([0xab; 32]) },
            position: Position(1233),
            tree: TreeHead { size: 1234, root: NodeHash([9; 32]) },
            time: "2026-03-03T12:00:00.000001Z".parse().unwrap(),
        }
    }

    #[test]
    fn the_text_is_the_formats() {
        let text = "keyledger-team-statement/v1\norigin ledger.example/1\nteam 51515151-5151-5151-5151-515151515151\n\
                    revision 41\nhead abababababababababababababababababababababababababababababababab\nposition 1233\n\
                    tree-size 1234\ntree-root CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\ntime 2026-03-03T12:00:00.000001Z\n";
        assert_eq!((statement().to_string().as_str(), TeamStatement::parse(text)), (text, Ok(statement())));
        assert_eq!(TeamStatement::verify(&statement().sign(&signer()), &signer().verifier()), Ok(statement()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let note = statement().sign(&signer());
        for bit in 0..note.len() * 8 {
            let mut bytes = note.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(TeamStatement::verify(&text, &signer().verifier()).is_err(), "bit {bit}: {text}");
            }
        }
    }

    #[test]
    fn no_signature_serves_two_purposes() {
        assert!(signer().verifier().verify(&statement().sign(&signer())).is_err());
        let head = signer().sign(&TreeHead { size: 1, root: NodeHash([0; 32]) });
        assert_eq!(TeamStatement::verify(&head, &signer().verifier()), Err(StatementError::Shape));
        assert!(HeadSigner::new(STATEMENT_NAME, &[3; 32]).is_err(), "a ledger of that name could say both");
        let other = HeadSigner::new("other.example/1", &[3; 32]).unwrap();
        assert_eq!(TeamStatement::verify(&statement().sign(&other), &other.verifier()), Err(StatementError::Origin));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}|keyledger-team-statement/v1\n((origin|team|revision|head|position|tree-size|tree-root|time) [0-9a-zé:-]{0,64}\n){0,9}") {
            let _ = TeamStatement::verify(&text, &signer().verifier());
            if let Ok(statement) = TeamStatement::parse(&text) {
                prop_assert_eq!(statement.to_string(), text);
            }
        }
    }
}
