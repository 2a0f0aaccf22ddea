//! Whether enough witnesses have seen a tree head.

use std::path::{Path, PathBuf};

use keyledger_events::{Position, Timestamp, note::Note, rotation::KeyChain, witness::Policy};

use super::{Broken, Witnessed, evidence};

/// Where a server keeps the newest tree head that met its witness policy, in a data directory.
pub const COSIGNED: &str = "ledger.cosigned";

/// The cosigned head beside the log, if there is one, and its file.
pub(super) fn cosigned_note(dir: &Path) -> Result<Option<(PathBuf, String)>, Broken> {
    let file = dir.join(COSIGNED);
    let Some(bytes) = evidence::read(&file)? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(note) => Ok(Some((file, note))),
        Err(_) => Err(Broken::beside(&file, "not a signed tree head")),
    }
}

/// The largest of the heads that meets the policy. That each is the ledger's own and the log's is checked elsewhere.
pub(crate) fn witnessed(policy: &Policy, notes: &[(PathBuf, String)], keys: &KeyChain) -> Result<Witnessed, Broken> {
    let broken = |what: &str| Broken { file: None, offset: None, position: Position(0), what: what.to_owned() };
    if !policy.logs().is_empty() && !keys.keys().any(|key| policy.logs().contains(key)) {
        return Err(broken("the witness policy is about other ledgers"));
    }
    let met = notes.iter().filter_map(|(_, note)| {
        let (head, note) = (keys.verify(note).ok()?, Note::parse(note).ok()?);
        policy.is_met(&note).then_some((head.size, note))
    });
    let (size, note) = met
        .max_by_key(|(size, _)| *size)
        .ok_or_else(|| broken("no tree head here is cosigned by as many witnesses as the policy demands"))?;
    let by = policy.cosigned(&note).into_iter();
    let by = by.map(|seen| (seen.witness, Timestamp::from_micros(seen.seconds.saturating_mul(1_000_000)))).collect();
    Ok(Witnessed { size, by })
}
