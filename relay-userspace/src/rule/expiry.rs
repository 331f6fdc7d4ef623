//! When a rule or group ends.

use std::fmt;

use jiff::{Timestamp, ZonedDateTime};

/// A moment, as it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expiry {
    /// Seconds since 1970.
    pub at: u64,
    text: Box<str>,
}

const DAY: u64 = 86_400;

impl Expiry {
    /// What it may look like, for error texts.
    pub const FORMS: &str = r#"write a moment with its offset or zone: "2027-01-03T00:00:00+08:00" or "2027-01-03T00:00[Asia/Shanghai]""#;
    /// Days before the end that are told of, falling.
    pub const WARNINGS: [u64; 3] = [7, 3, 1];

    /// RFC 3339 with an offset, or RFC 9557 with a zone of the IANA database.
    pub fn parse(text: &str) -> Option<Self> {
        let at: Timestamp = match text.parse::<ZonedDateTime>() {
            Ok(zoned) => zoned.timestamp(),
            Err(_) => text.parse().ok()?,
        };
        Some(Self { at: u64::try_from(at.as_second()).ok()?, text: text.into() })
    }

    pub const fn is_over(&self, now: u64) -> bool {
        now >= self.at
    }

    /// The last of the warnings that is due, in days before the end; `None`: it is far off, or over.
    pub fn warning(&self, now: u64) -> Option<u64> {
        let left = self.at.checked_sub(now).filter(|left| *left > 0)?;
        Self::WARNINGS.into_iter().rev().find(|days| left <= days * DAY)
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_an_offset_or_a_zone() {
        for (text, at) in [
            ("2027-01-03T00:00:00+08:00", 1_798_905_600),
            ("2027-01-03T00:00[Asia/Shanghai]", 1_798_905_600),
            ("2027-01-02T16:00:00Z", 1_798_905_600),
        ] {
            let expiry = Expiry::parse(text).expect(text);
            assert_eq!((expiry.at, expiry.to_string().as_str()), (at, text));
        }
        for text in [
            "",
            "2027-01-03",
            "2027-01-03T00:00:00",
            "tomorrow",
            "1960-01-01T00:00:00Z",
            "2027-01-03T00:00[Mars]",
        ] {
            assert_eq!(Expiry::parse(text), None, "{text}");
        }
    }

    #[test]
    fn warnings_come_nearer() {
        let expiry = Expiry::parse("2027-01-03T00:00:00Z").expect("a moment");
        let before = |seconds| expiry.warning(expiry.at - seconds);
        assert_eq!(
            [before(8 * DAY), before(7 * DAY), before(4 * DAY), before(3 * DAY)],
            [None, Some(7), Some(7), Some(3)]
        );
        assert_eq!([before(DAY), before(1), before(0)], [Some(1), Some(1), None]);
        assert!(expiry.is_over(expiry.at) && !expiry.is_over(expiry.at - 1));
    }
}
