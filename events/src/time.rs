//! Instants: whole microseconds UTC. There is no clock in this crate.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, Datelike, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// Microseconds in a day.
pub const DAY_US: u64 = 86_400_000_000;

/// 9999-12-31T23:59:59.999999Z: the last instant RFC 3339 can write.
const MAX_US: u64 = 253_402_300_799_999_999;

impl Timestamp {
    /// The latest instant there is.
    pub const MAX: Self = Self(MAX_US);

    /// From microseconds since the Unix epoch; beyond the year 9999 it stays there.
    pub const fn from_micros(micros: u64) -> Self {
        Self(if micros > MAX_US { MAX_US } else { micros })
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// This instant and so much later, at most [`Timestamp::MAX`].
    #[must_use]
    pub const fn plus(self, duration: Duration) -> Self {
        let micros = duration.as_micros();
        if micros > MAX_US as u128 { Self::MAX } else { Self::from_micros(self.0.saturating_add(micros as u64)) }
    }

    /// This instant and so many days later.
    #[must_use]
    pub const fn plus_days(self, days: u16) -> Self {
        Self::from_micros(self.0.saturating_add(days as u64 * DAY_US))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The same instant as a chrono type.
    pub fn datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0 as i64).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// RFC 3339 with six digits of a second and `Z`, in `text`. Every answer has a few of them.
    pub fn encode(self, text: &mut [u8; 27]) -> &str {
        *text = *b"0000-00-00T00:00:00.000000Z";
        let at = self.datetime();
        let fields = [
            (0..4, at.year().unsigned_abs()),
            (5..7, at.month()),
            (8..10, at.day()),
            (11..13, at.hour()),
            (14..16, at.minute()),
            (17..19, at.second()),
            (20..26, (self.0 % 1_000_000) as u32),
        ];
        for (place, mut number) in fields {
            for digit in text[place].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        str::from_utf8(text).unwrap_or_default()
    }
}

impl From<DateTime<Utc>> for Timestamp {
    /// Instants before 1970 become 1970.
    fn from(instant: DateTime<Utc>) -> Self {
        Self::from_micros(u64::try_from(instant.timestamp_micros()).unwrap_or(0))
    }
}

/// RFC 3339 with six digits of a second and `Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; 27]))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Any RFC 3339 instant from 1970 to 9999.
impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let instant = DateTime::parse_from_rfc3339(text).map_err(|_| TimestampError)?;
        u64::try_from(instant.timestamp_micros()).ok().filter(|us| *us <= MAX_US).map(Self).ok_or(TimestampError)
    }
}

/// The text is not an RFC 3339 instant between 1970 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 instant between the years 1970 and 9999, such as 2026-03-03T12:00:00Z")]
pub struct TimestampError;

/// RFC 3339 text in JSON, a varint of microseconds in postcard.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(self.encode(&mut [0; 27]))
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            let micros = u64::deserialize(deserializer)?;
            if micros > MAX_US { Err(de::Error::custom(TimestampError)) } else { Ok(Self(micros)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::SecondsFormat;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_instants_text_is_chronos_and_reads_back(micros in 0..=MAX_US) {
            let at = Timestamp(micros);
            prop_assert_eq!(at.to_string(), at.datetime().to_rfc3339_opts(SecondsFormat::Micros, true));
            prop_assert_eq!(at.to_string().parse(), Ok(at));
        }
    }

    #[test]
    fn text_and_instant_agree_to_the_microsecond() {
        let at: Timestamp = "2026-03-03T12:00:00.000001Z".parse().unwrap();
        assert_eq!(at.to_string(), "2026-03-03T12:00:00.000001Z");
        assert_eq!("2026-03-03T13:00:00.000001+01:00".parse::<Timestamp>().unwrap(), at);
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp::MAX.plus_days(365), Timestamp::MAX);
    }
}
