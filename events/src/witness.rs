//! Witnesses: who has to have seen a tree head before it is believed. A policy is a file in the C2SP
//! [tlog-policy](https://c2sp.org/tlog-policy) form; the same file tells a ledger whom to ask and an auditor what to
//! demand.

use std::collections::{HashMap, HashSet};

use crate::{
    head::HeadVerifier,
    note::{Algorithm, Note, NoteVerifier},
};

/// The longest policy that is read, in bytes.
const POLICY_LEN_MAX: usize = 64 * 1024;
/// How many witnesses, logs and groups a policy may name, each.
const NAMES_MAX: usize = 256;

/// Who has to have cosigned a tree head.
#[derive(Clone, Debug)]
pub struct Policy {
    logs: Vec<HeadVerifier>,
    witnesses: Vec<Witness>,
    /// By their places; a member is either.
    groups: Vec<Group>,
    quorum: Option<Member>,
}

/// A witness, as the policy names it.
#[derive(Clone, Debug)]
pub struct Witness {
    /// Its name in the policy.
    pub name: String,
    /// Its key, with the name that its signatures carry.
    pub key: NoteVerifier,
    /// Where it takes tree heads: the submission prefix of [tlog-witness](https://c2sp.org/tlog-witness).
    pub url: Option<String>,
}

#[derive(Clone, Debug)]
struct Group {
    threshold: usize,
    members: Vec<Member>,
}

#[derive(Clone, Copy, Debug)]
enum Member {
    Witness(usize),
    Group(usize),
}

/// A cosignature that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// The witness's name in the policy.
    pub witness: String,
    /// When it saw the head, in seconds since 1970, by its own clock.
    pub seconds: u64,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyError`], with the line.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_LEN_MAX {
            return Err(PolicyError { line: 0, what: "a policy has at most 65,536 bytes" });
        }
        let mut reader = Reader::default();
        for (at, line) in text.split('\n').enumerate() {
            let words: Vec<_> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            reader.line(line, &words).map_err(|what| PolicyError { line: at + 1, what })?;
        }
        let quorum = reader.quorum.ok_or(PolicyError { line: 0, what: "there is no quorum line" })?;
        let Reader { logs, witnesses, groups, .. } = reader;
        Ok(Self { logs, witnesses, groups, quorum })
    }

    /// The logs it is about; none: any.
    pub fn logs(&self) -> &[HeadVerifier] {
        &self.logs
    }

    /// All witnesses.
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// The cosignatures on a note that hold, in the policy's order.
    pub fn cosigned(&self, note: &Note) -> Vec<Cosigned> {
        let of = |witness: &Witness| {
            let seconds = witness.key.cosigned_at(note)?;
            Some(Cosigned { witness: witness.name.clone(), seconds })
        };
        self.witnesses.iter().filter_map(of).collect()
    }

    /// Whether enough witnesses have cosigned a note. Who signed it as the log is not looked at.
    pub fn is_met(&self, note: &Note) -> bool {
        let seen: Vec<bool> = self.witnesses.iter().map(|witness| witness.key.cosigned_at(note).is_some()).collect();
        self.quorum.is_none_or(|quorum| self.counts(quorum, &seen))
    }

    fn counts(&self, member: Member, seen: &[bool]) -> bool {
        match member {
            Member::Witness(at) => seen[at],
            // Groups name only what stands before them, so this ends.
            Member::Group(at) => {
                let Group { threshold, members } = &self.groups[at];
                members.iter().filter(|member| self.counts(**member, seen)).count() >= *threshold
            }
        }
    }
}

#[derive(Default)]
struct Reader {
    logs: Vec<HeadVerifier>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    names: HashMap<String, Member>,
    grouped: HashSet<String>,
    quorum: Option<Option<Member>>,
}

impl Reader {
    fn line(&mut self, line: &str, words: &[&str]) -> Result<(), &'static str> {
        if words.first().is_none_or(|word| word.starts_with('#')) {
            return Ok(());
        }
        if line.contains(|c: char| c.is_ascii_control() && c != '\t') {
            return Err("a control character");
        }
        match *words {
            ["log", key] | ["log", key, _] => self.log(key),
            ["witness", name, key] => self.witness(name, key, None),
            ["witness", name, key, url] => self.witness(name, key, Some(url.to_owned())),
            ["group", name, threshold, ref members @ ..] => self.group(name, threshold, members),
            ["quorum", name] => self.quorum(name),
            _ => Err("not a log, witness, group or quorum line"),
        }
    }

    fn log(&mut self, key: &str) -> Result<(), &'static str> {
        let key: HeadVerifier = key.parse().map_err(|_| "not a log's verifier key")?;
        if self.logs.contains(&key) || self.logs.len() == NAMES_MAX {
            return Err("the same log twice, or too many");
        }
        self.logs.push(key);
        Ok(())
    }

    fn witness(&mut self, name: &str, key: &str, url: Option<String>) -> Result<(), &'static str> {
        let key: NoteVerifier = key.parse().map_err(|_| "not a verifier key, or of a type that is not known here")?;
        if key.algorithm() != Algorithm::Cosignature {
            return Err("not a witness's key: its type must be 4 (Ed25519 cosignature)");
        }
        if self.witnesses.iter().any(|known| known.key.has_key_of(&key)) || self.witnesses.len() == NAMES_MAX {
            return Err("the same witness key twice, or too many");
        }
        self.define(name, Member::Witness(self.witnesses.len()))?;
        self.witnesses.push(Witness { name: name.to_owned(), key, url });
        Ok(())
    }

    fn group(&mut self, name: &str, threshold: &str, members: &[&str]) -> Result<(), &'static str> {
        let threshold = match threshold {
            "any" => 1,
            "all" => members.len(),
            // Digits only: no sign, no leading zero.
            number => number.parse().ok().filter(|n: &usize| n.to_string() == number).unwrap_or(0),
        };
        if threshold == 0 || threshold > members.len() || self.groups.len() == NAMES_MAX {
            return Err("a group needs any, all, or a number between 1 and that of its members");
        }
        let mut places = Vec::with_capacity(members.len());
        for member in members {
            places.push(*self.names.get(*member).ok_or("a member that no line before this one defines")?);
            if !self.grouped.insert((*member).to_owned()) {
                return Err("a member that is in a group already");
            }
        }
        self.define(name, Member::Group(self.groups.len()))?;
        self.groups.push(Group { threshold, members: places });
        Ok(())
    }

    fn quorum(&mut self, name: &str) -> Result<(), &'static str> {
        if self.quorum.is_some() {
            return Err("a second quorum line");
        }
        self.quorum = Some(match name {
            "none" => None,
            name => Some(*self.names.get(name).ok_or("a quorum that no line before this one defines")?),
        });
        Ok(())
    }

    fn define(&mut self, name: &str, member: Member) -> Result<(), &'static str> {
        if name == "none" || self.names.contains_key(name) {
            return Err("a name that is taken");
        }
        self.names.insert(name.to_owned(), member);
        Ok(())
    }
}

/// Not a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the witness policy, line {line}: {what}")]
pub struct PolicyError {
    /// In which line, from 1; 0: in none of them.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::note::{NoteSigner, WitnessSigner};

    fn witness(number: u8) -> WitnessSigner {
        WitnessSigner::new(&format!("witness.example/{number}"), &[number; 32]).unwrap()
    }

    /// A head that these witnesses have cosigned.
    fn note(cosigners: &[u8]) -> Note {
        let mut note = NoteSigner::new("ledger.example", &[9; 32]).unwrap().sign("ledger.example\n7\nAAAA\n");
        for number in cosigners {
            let line = witness(*number).cosign(&Note::parse(&note).unwrap(), 1_800_000_000 + u64::from(*number));
            note.push_str(&line);
        }
        Note::parse(&note).unwrap()
    }

    fn lines(count: u8) -> String {
        (1..=count).map(|n| format!("witness w{n} {} https://w{n}.example\n", witness(n).verifier())).collect()
    }

    #[test]
    fn a_quorum_is_met_by_those_it_names() {
        let nested = "group x 2 w1 w2 w3\ngroup y any w4 w5\ngroup both all x y\nquorum both\n";
        for (groups, cosigners, met) in [
            ("quorum none\n", &[][..], true),
            ("quorum w1\n", &[1], true),
            ("quorum w1\n", &[2, 3], false),
            ("group q 2 w1 w2 w3\nquorum q\n", &[1, 3], true),
            ("group q 2 w1 w2 w3\nquorum q\n", &[1, 1], false),
            ("group q 2 w1 w2 w3\nquorum q\n", &[1, 4], false),
            ("# two of three, and one of two\n\t group q all w1 w2\n\n quorum\tq", &[2, 1], true),
            (nested, &[1, 2, 5], true),
            (nested, &[1, 2, 3], false),
            (nested, &[1, 4, 5], false),
        ] {
            let policy = Policy::parse(&format!("{}{groups}", lines(5))).unwrap();
            assert_eq!(policy.is_met(&note(cosigners)), met, "{groups} by {cosigners:?}");
            let mut seen: Vec<_> = policy.cosigned(&note(cosigners)).into_iter().map(|c| c.seconds).collect();
            seen.dedup();
            assert!(seen.iter().all(|seconds| cosigners.contains(&((seconds - 1_800_000_000) as u8))));
        }
    }

    #[test]
    fn what_is_no_policy_is_refused_with_its_line() {
        let (one, log) = (lines(1), NoteSigner::new("ledger.example", &[9; 32]).unwrap().verifier());
        for (text, line) in [
            (String::new(), 0),
            (one.clone(), 0),
            ("quorum w1\n".into(), 1),
            (format!("{one}{one}quorum none\n"), 2),
            (format!("{one}quorum w1\nquorum w1\n"), 3),
            (format!("{one}group g 0 w1\nquorum g\n"), 2),
            (format!("{one}group g 2 w1\nquorum g\n"), 2),
            (format!("{one}group g 01 w1\nquorum g\n"), 2),
            (format!("{one}group g any\nquorum g\n"), 2),
            (format!("{one}group g any w2\nquorum g\n"), 2),
            (format!("{one}group g any w1 w1\nquorum g\n"), 2),
            (format!("{one}group w1 any w1\nquorum w1\n"), 2),
            (format!("{one}group none any w1\nquorum none\n"), 2),
            (format!("witness w1 {log}\nquorum w1\n"), 1),
            (format!("log {}\nquorum none\n", witness(1).verifier()), 1),
            (format!("log {log}\nlog {log}\nquorum none\n"), 2),
            ("quorum none \u{7}\n".into(), 1),
            ("quorum\n".into(), 1),
        ] {
            assert_eq!(Policy::parse(&text).unwrap_err().line, line, "{text}");
        }
        assert_eq!(Policy::parse(&format!("log {log} https://x\nquorum none\n")).unwrap().logs().len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(\\PC{0,20}|log|witness|group|quorum|none|any|all|[ \t\n0-9a-c]){0,30}") {
            if let Ok(policy) = Policy::parse(&text) {
                let _ = policy.is_met(&note(&[1]));
            }
        }
    }
}
