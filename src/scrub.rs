//! Finds secrets in text that is about to be logged, and in URLs, where they must never be.
//!
//! Everything secret that the service hands out has one shape: two lower-case letters, a dash, then base62. Credentials are
//! `sk- ak- dk- sv-` and have a mark, `kl1`; links' and device codes' tokens have tags of their own and at least 40
//! characters behind them. Signed access tokens (`eyJ….….…`) are the other shape. The rule is wider than the exact pattern on purpose: a secret
//! with a typo, cut off, or glued to other text is still a secret.

use std::borrow::Cow;

use keyledger_events::secret::PREFIX_LEN;

/// What stands in a secret's place after the characters that may be shown.
const REDACTED: &str = "…[redacted]";
/// Letters and dash: `sk-`, `lk-`.
const TAG_LEN: usize = 3;
/// The same with a credential's mark: `sk-kl1`.
const MARK_LEN: usize = 6;
/// So much base62 behind any tag is a token, with or without a credential's mark.
const TOKEN_LEN_MIN: usize = 40;
/// The one page whose address may hold a one-time link's token, which is what its query is for.
const LINK_PATH: &str = "/sign-in";
const LINK_TAG: &[u8] = b"lk-";
/// A signed token's parts are at least this long; ordinary words that begin with `eyJ` are not.
const JWT_PART_LEN_MIN: usize = 8;

/// Whether the text holds more of a secret than its public prefix.
pub fn holds_secret(text: &str) -> bool {
    next_secret(text.as_bytes(), 0).is_some()
}

/// Whether a URL's path and query hold a secret, or the path even a secret's prefix, also behind percent-encoding.
///
/// A prefix in the query is a search and is fine; a prefix in the path is somebody about to paste the rest.
pub fn url_holds_secret(path: &str, query: Option<&str>) -> bool {
    let path = percent_decoded(path.as_bytes());
    if next_secret(&path, 0).is_some() || (0..path.len()).any(|at| is_mark(&path, at)) {
        return true;
    }
    let Some(query) = query else { return false };
    let (query, mut from) = (percent_decoded(query.as_bytes()), 0);
    while let Some(found) = next_secret(&query, from) {
        if *path != *LINK_PATH.as_bytes() || !query[found.start..].starts_with(LINK_TAG) {
            return true;
        }
        from = found.end;
    }
    false
}

/// The text with every secret cut to its public prefix. Text without one is handed back as it is.
pub fn scrub(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let Some(mut found) = next_secret(bytes, 0) else { return Cow::Borrowed(text) };
    let mut clean = String::with_capacity(text.len());
    let mut done = 0;
    loop {
        // A secret is ASCII, so both of its ends lie between characters.
        clean.push_str(&text[done..found.shown_end]);
        clean.push_str(REDACTED);
        done = found.end;
        match next_secret(bytes, done) {
            Some(next) => found = next,
            None => break,
        }
    }
    clean.push_str(&text[done..]);
    Cow::Owned(clean)
}

/// The same for an address: a secret behind percent-encoding is decoded first.
pub fn scrub_url(url: &str) -> Cow<'_, str> {
    let clean = scrub(url);
    let decoded = percent_decoded(clean.as_bytes());
    if next_secret(&decoded, 0).is_none() {
        return clean;
    }
    Cow::Owned(scrub(&String::from_utf8_lossy(&decoded)).into_owned())
}

struct Found {
    /// Where the secret begins.
    start: usize,
    /// Where what may be shown ends.
    shown_end: usize,
    /// Where the secret ends.
    end: usize,
}

fn next_secret(bytes: &[u8], from: usize) -> Option<Found> {
    // Every secret has a '-' or begins with "ey": one pass, and nothing is looked at twice unless it may be one.
    (from..bytes.len()).find_map(|at| match bytes[at] {
        b'e' => jwt_at(bytes, at),
        b'a'..=b'z' => marked_at(bytes, at),
        _ => None,
    })
}

fn is_mark(bytes: &[u8], at: usize) -> bool {
    bytes.get(at..at + MARK_LEN).is_some_and(|mark| {
        mark[0].is_ascii_lowercase() && mark[1].is_ascii_lowercase() && mark[2..].eq_ignore_ascii_case(b"-kl1")
    })
}

fn marked_at(bytes: &[u8], at: usize) -> Option<Found> {
    let tag = bytes.get(at..at + TAG_LEN)?;
    if !(tag[0].is_ascii_lowercase() && tag[1].is_ascii_lowercase() && tag[2] == b'-') {
        return None;
    }
    let start = at + TAG_LEN;
    let len = bytes[start..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let shown_len = if is_mark(bytes, at) { PREFIX_LEN - TAG_LEN } else { 0 };
    let is_secret = if shown_len > 0 { len > shown_len } else { len >= TOKEN_LEN_MIN };
    is_secret.then_some(Found { start: at, shown_end: start + shown_len, end: start + len })
}

fn jwt_at(bytes: &[u8], at: usize) -> Option<Found> {
    if !bytes[at..].starts_with(b"eyJ") {
        return marked_at(bytes, at);
    }
    let part = |from: usize| {
        bytes[from..].iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=')).count()
    };
    let head = part(at);
    let dot = at + head;
    if head < JWT_PART_LEN_MIN || bytes.get(dot) != Some(&b'.') || part(dot + 1) < JWT_PART_LEN_MIN {
        return None;
    }
    let mut end = dot;
    while bytes.get(end) == Some(&b'.') {
        end += 1 + part(end + 1);
    }
    Some(Found { start: at, shown_end: at + 3, end })
}

/// Percent-decodes until nothing changes, at most a few times: a proxy before us may have encoded again.
fn percent_decoded(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut text = Cow::Borrowed(bytes);
    for _ in 0..4 {
        if !text.contains(&b'%') {
            break;
        }
        let decoded = decode_once(&text);
        if decoded == *text {
            break;
        }
        text = Cow::Owned(decoded);
    }
    text
}

fn decode_once(bytes: &[u8]) -> Vec<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// A log writer that scrubs every line on its way out, whichever field a secret sits in.
///
/// `tracing-subscriber` hands over one whole event a call, so nothing can hide across two calls.
#[derive(Clone, Debug)]
pub struct ScrubbingWriter<W>(pub W);

impl<W: std::io::Write> std::io::Write for ScrubbingWriter<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(scrub(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use keyledger_events::secret::{Kind, RANDOM_LEN, Secret};
    use proptest::prelude::*;

    use super::*;

    const JWT: &str = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlLWJ5dGVzLWhlcmU";

    fn secret(kind: Kind) -> Secret {
        Secret::new(kind, &std::array::from_fn(|i| (i * 11 % 62) as u8))
    }

    #[test]
    fn every_kind_everywhere_in_a_line() {
        for kind in Kind::ALL {
            let secret = secret(kind);
            let prefix = secret.prefix();
            for (line, clean) in [
                (secret.expose().to_owned(), format!("{prefix}…[redacted]")),
                (format!("key={} and é", secret.expose()), format!("key={prefix}…[redacted] and é")),
                (format!("{{\"k\":\"{}\"}}\n", secret.expose()), format!("{{\"k\":\"{prefix}…[redacted]\"}}\n")),
                (format!("{0},{0}", secret.expose()), format!("{prefix}…[redacted],{prefix}…[redacted]")),
                (format!("é{}trailing", secret.expose()), format!("é{prefix}…[redacted]")),
            ] {
                assert_eq!(scrub(&line), clean);
                assert!(holds_secret(&line));
            }
        }
    }

    #[test]
    fn tokens_and_links() {
        assert_eq!(scrub(&format!("bearer {JWT}, next")), "bearer eyJ…[redacted], next");
        let link = format!("http://127.0.0.1:7470/sign-in#lt-kl1{}", "Z9".repeat(20));
        assert_eq!(scrub(&link), "http://127.0.0.1:7470/sign-in#lt-kl1Z9Z9Z9…[redacted]");
        let token = format!("lk-{}", "Z9".repeat(22));
        assert_eq!(scrub(&format!("token={token}&x")), "token=lk-…[redacted]&x");
    }

    #[test]
    fn ordinary_text_stays() {
        for text in
            ["", "sk-kl1AbCdEf is a prefix", "task-klaus", "eyJ", "eyJhbGciOi.", "after=eyJwb3NpdGlvbiI6NDJ9", "a-kl1"]
        {
            assert!(matches!(scrub(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn urls() {
        let secret = secret(Kind::Integration);
        let text = secret.expose();
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let twice = text.replace('-', "%252D");
        let prefix = secret.prefix();
        let link = format!("lk-{}", "Z9".repeat(22));
        for (path, query, refused) in [
            (format!("/api/v1/credentials/{text}"), None, true),
            (format!("/api/v1/credentials/{encoded}"), None, true),
            (format!("/api/v1/credentials/{twice}"), None, true),
            (format!("/api/v1/credentials/{prefix}"), None, true),
            ("/api/v1/credentials".to_owned(), Some(format!("q={prefix}")), false),
            ("/api/v1/credentials".to_owned(), Some(format!("q={text}")), true),
            ("/x".to_owned(), Some(format!("a=b&token={encoded}")), true),
            ("/x".to_owned(), Some(format!("t={JWT}")), true),
            ("/x".to_owned(), Some(format!("token={link}")), true),
            ("/sign-in".to_owned(), Some(format!("token={link}")), false),
            ("/sign-in".to_owned(), Some(format!("token={link}&k={text}")), true),
            (
                "/api/v1/credentials/0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a".to_owned(),
                Some("q=%zz%".to_owned()),
                false,
            ),
        ] {
            assert_eq!(url_holds_secret(&path, query.as_deref()), refused, "{path} {query:?}");
        }
    }

    #[test]
    fn the_writer_scrubs_and_reports_what_it_was_given() {
        let mut writer = ScrubbingWriter(Vec::new());
        let line = format!("presented={}\n", secret(Kind::Agent).expose());
        assert_eq!(writer.write(line.as_bytes()).unwrap(), line.len());
        assert_eq!(
            String::from_utf8(writer.0).unwrap(),
            format!("presented={}…[redacted]\n", secret(Kind::Agent).prefix())
        );
    }

    proptest! {
        #[test]
        fn no_secret_survives_any_surroundings(
            before in "\\PC{0,40}", after in "\\PC{0,40}", numbers in proptest::collection::vec(0u8..62, RANDOM_LEN), kind in 0usize..4,
        ) {
            let mut random = [0; RANDOM_LEN];
            random.copy_from_slice(&numbers);
            let secret = Secret::new(Kind::ALL[kind], &random);
            let line = format!("{before}{}{after}", secret.expose());
            prop_assert!(!scrub(&line).contains(&secret.expose()[13..]));
            prop_assert!(holds_secret(&line));
        }

        #[test]
        fn scrubbing_never_panics_and_is_stable(text in "\\PC{0,200}|[a-z]{2}-kl1[0-9a-zA-Z.é-]{0,60}|[a-z]{2}-[0-9a-zA-Z.é-]{0,60}|eyJ[a-zA-Z0-9._é-]{0,60}") {
            let once = scrub(&text).into_owned();
            prop_assert_eq!(scrub(&once), once.as_str());
            url_holds_secret(&text, Some(&text));
        }
    }
}
