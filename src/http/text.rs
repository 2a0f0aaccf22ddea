//! Text that people write and others will see: names and notes.
//!
//! Characters that could forge a log line, drive a terminal, or make two names look alike are refused, not replaced.

use garde::Validate;
use keyledger_events::secret::SecretHash;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::Problem;

/// The longest name, in characters.
pub const NAME_CHARS_MAX: usize = 100;
/// The longest note, in characters.
pub const NOTE_CHARS_MAX: usize = 500;

/// A name: 1–100 characters without control, bidirectional-formatting or invisible ones. Space around it is dropped.
///
/// Reading one never fails on its content; `#[garde(dive)]` on the field is what refuses, with a message that names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 100, example = "CI deploy")]
pub struct Name(String);

/// A reason or a purpose: at most 500 characters, of which none a name may not have; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(value_type = String, max_length = 500)]
pub struct Note(String);

macro_rules! text {
    ($name:ident, $check:ident) => {
        impl $name {
            /// Trims and checks.
            ///
            /// # Errors
            /// Which rule it breaks, in a sentence that does not repeat it.
            pub fn new(text: &str) -> Result<Self, garde::Error> {
                let text = text.trim();
                $check(text, &()).map(|()| Self(text.to_owned()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, owned.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(|text| Self(text.trim().to_owned()))
            }
        }

        impl Validate for $name {
            type Context = ();
            fn validate_into(&self, ctx: &(), parent: &mut dyn FnMut() -> garde::Path, report: &mut garde::Report) {
                if let Err(error) = $check(&self.0, ctx) {
                    report.append(parent(), error);
                }
            }
        }
    };
}

text!(Name, name);
text!(Note, note);

/// The hash of a secret, from 64 hexadecimal digits.
///
/// # Errors
/// 400; it repeats nothing of what was sent.
pub fn hex_hash(digits: &str) -> Result<SecretHash, Problem> {
    blake3::Hash::from_hex(digits)
        .map(|hash| SecretHash(*hash.as_bytes()))
        .map_err(|_| Problem::bad_request("invalid_field", "A hash has 64 hexadecimal digits."))
}

/// garde rule: a name, which may have space around it.
///
/// # Errors
/// Which rule it breaks.
pub fn name(text: &str, _: &()) -> garde::Result {
    let text = text.trim();
    match text.chars().count() {
        0 => Err(garde::Error::new("must not be empty")),
        1..=NAME_CHARS_MAX => visible(text),
        _ => Err(garde::Error::new(format!("must have at most {NAME_CHARS_MAX} characters"))),
    }
}

/// garde rule: a note, which may be empty.
///
/// # Errors
/// Which rule it breaks.
pub fn note(text: &str, _: &()) -> garde::Result {
    if text.chars().count() > NOTE_CHARS_MAX {
        return Err(garde::Error::new(format!("must have at most {NOTE_CHARS_MAX} characters")));
    }
    visible(text)
}

/// Looks for what one can't see, or what a secret looks like: people do paste a key where its name belongs.
fn visible(text: &str) -> garde::Result {
    if text.chars().any(is_unsafe) {
        return Err(garde::Error::new("must not hold control, bidirectional-formatting or invisible characters"));
    }
    if crate::scrub::holds_secret(text) {
        return Err(garde::Error::new("must not hold a secret"));
    }
    Ok(())
}

/// Control characters, bidirectional formatting (Unicode TR 36 §2.5.2), zero-width and other invisible ones, line and
/// paragraph separators, private use, tags, variation selectors' supplement.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "é".repeat(100);
        for good in
            ["CI", "  CI deploy  ", "Zoë's \"laptop\" <3", "钥匙 №1", "=cmd|' /C calc'!A0", &long, "sk-kl1AbC123"]
        {
            assert_eq!(Name::new(good).unwrap().as_str(), good.trim(), "{good}");
        }
        let too_long = "x".repeat(101);
        let secret = format!("my key sk-kl1{}", "a".repeat(49));
        for bad in [
            "",
            "   ",
            &too_long,
            &secret,
            "a\nb",
            "a\0b",
            "a\u{1b}[31mb",
            "a\u{7f}",
            "a\u{85}b",
            "a\u{202e}b",
            "a\u{200b}b",
            "a\u{2066}b",
            "\u{feff}a\u{feff}b",
            "a\u{2028}b",
            "a\u{e0041}b",
            "a\u{3164}",
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn notes_may_be_empty_and_longer() {
        assert_eq!(Note::new("").unwrap().as_str(), "");
        assert!(Note::new(&"x".repeat(500)).is_ok());
        assert!(Note::new(&"x".repeat(501)).is_err());
        assert!(Note::new("a\r\nb").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_accepted_is_trimmed_visible_and_short(text in "\\PC{0,120}|.{0,120}") {
            if let Ok(name) = Name::new(&text) {
                let name = name.as_str();
                proptest::prop_assert!(name == text.trim() && !name.is_empty() && name.chars().count() <= 100);
                proptest::prop_assert!(!name.chars().any(char::is_control));
            }
        }
    }
}
