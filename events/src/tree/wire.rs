//! Proofs as text, in the forms that existing verifiers and witnesses read.

use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::NodeHash;

/// A C2SP [tlog-proof](https://c2sp.org/tlog-proof): that the leaf at `index` is in the tree of the signed note.
pub fn inclusion_file(index: u64, proof: &[NodeHash], note: &str) -> String {
    file(&format!("c2sp.org/tlog-proof@v1\nindex {index}\n"), proof, note)
}

/// That the tree of the signed note begins with its first `old` leaves, as a C2SP
/// [tlog-witness](https://c2sp.org/tlog-witness) takes it in `add-checkpoint`.
pub fn consistency_file(old: u64, proof: &[NodeHash], note: &str) -> String {
    file(&format!("old {old}\n"), proof, note)
}

/// What [`consistency_file`] writes, taken apart: size of the older tree, hashes, signed note. `None` if it is not that.
pub fn parse_consistency_file(text: &str) -> Option<(u64, Vec<NodeHash>, &str)> {
    // No tree of 2^64 leaves needs more.
    const HASHES_MAX: usize = 2 * u64::BITS as usize;
    let (head, note) = text.split_once("\n\n")?;
    let mut lines = head.split('\n');
    let old = lines.next()?.strip_prefix("old ")?.parse().ok()?;
    let hash = |line| BASE64.decode(line).ok()?.try_into().ok().map(NodeHash);
    let proof: Vec<_> = lines.map(hash).collect::<Option<_>>()?;
    (proof.len() <= HASHES_MAX).then_some((old, proof, note))
}

/// Header lines, a base64 hash a line, an empty line, the note.
fn file(header: &str, proof: &[NodeHash], note: &str) -> String {
    let mut text = header.to_owned();
    for hash in proof {
        let _ = writeln!(text, "{}", BASE64.encode(hash.0));
    }
    text + "\n" + note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_those_of_the_documents() {
        let (proof, note) =
            ([NodeHash([0; 32]), NodeHash([255; 32])], "example.com/log\n7\nAAAA\n\n— example.com/log x\n");
        let hashes = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n//////////////////////////////////////////8=\n";
        let file = inclusion_file(0, &proof, note);
        assert_eq!(file, format!("c2sp.org/tlog-proof@v1\nindex 0\n{hashes}\n{note}"));
        assert_eq!(inclusion_file(6, &[], note), format!("c2sp.org/tlog-proof@v1\nindex 6\n\n{note}"));
        assert_eq!(consistency_file(5, &proof, note), format!("old 5\n{hashes}\n{note}"));
        assert_eq!(parse_consistency_file(&consistency_file(5, &proof, note)), Some((5, proof.to_vec(), note)));
        assert_eq!(parse_consistency_file(&consistency_file(0, &[], note)), Some((0, vec![], note)));
        assert_eq!(parse_consistency_file(&inclusion_file(5, &proof, note)), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(old [0-9]{1,21}\n)?([A-Za-z0-9+/]{0,44}=?\n){0,3}\n?\\PC{0,40}") {
            let _ = parse_consistency_file(&text);
        }
    }
}
