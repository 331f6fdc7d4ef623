//! A message at fixed times: what rules have carried since the last one, and what is down.

pub mod kept;
pub mod report;

use std::fmt;

use jiff::ToSpan as _;
use jiff::civil::Time;
use jiff::tz::TimeZone;

use super::message::timestamp;

/// Once a day, at a time of the alert's zone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Daily(Time);

impl Daily {
    /// What a digest's time may look like, for error texts.
    pub const FORMS: &str = r#"write "daily:08:00", in hours from 00 to 23 and minutes"#;

    /// `daily:08:00`
    pub fn parse(text: &str) -> Option<Self> {
        let (hour, minute) = text.strip_prefix("daily:")?.split_once(':')?;
        let number = |text: &str| {
            let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<i8>().ok().filter(|_| is_number)
        };
        Some(Self(Time::new(number(hour)?, number(minute)?, 0, 0).ok()?))
    }

    /// The first time of this after another one, in seconds since 1970. Where the clock leaps over it, as much later as it leaps.
    /// `None`: not before the calendar ends.
    pub fn next(self, after: u64, zone: &TimeZone) -> Option<u64> {
        let day = timestamp(after).to_zoned_datetime(zone.clone()).date();
        let of = |day: jiff::civil::Date| {
            let time = day.to_datetime(self.0).to_zoned_datetime(zone.clone()).ok()?.timestamp().as_second();
            u64::try_from(time).ok().filter(|time| *time > after)
        };
        of(day).or_else(|| of(day.checked_add(1.day()).ok()?))
    }
}

impl fmt::Display for Daily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "daily:{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::EIGHT;
    use super::*;

    fn next(text: &str, after: &str, zone: &str) -> String {
        let after: jiff::Timestamp = after.parse().expect("time");
        let after = u64::try_from(after.as_second()).expect("after 1970");
        let zone = TimeZone::get(zone).expect("zone");
        timestamp(Daily::parse(text).expect("digest").next(after, &zone).expect("next")).to_string()
    }

    #[test]
    fn digests_come_at_the_zones_time_also_when_clocks_change() {
        assert_eq!(next("daily:08:00", "2026-11-23T07:59:59Z", "UTC"), "2026-11-23T08:00:00Z");
        assert_eq!(next("daily:08:00", "2026-11-23T08:00:00Z", "UTC"), "2026-11-24T08:00:00Z");
        assert_eq!(next("daily:08:00", "2026-11-23T08:00:00Z", "Asia/Shanghai"), "2026-11-24T00:00:00Z");
        // summer time ends, and begins at two o'clock, when there is no half past
        assert_eq!(next("daily:08:00", "2026-10-24T12:00:00Z", "Europe/Berlin"), "2026-10-25T07:00:00Z");
        assert_eq!(next("daily:02:30", "2026-03-28T12:00:00Z", "Europe/Berlin"), "2026-03-29T01:30:00Z");
        assert_eq!(next("daily:02:30", "2026-03-29T01:30:00Z", "Europe/Berlin"), "2026-03-30T00:30:00Z");
    }

    #[test]
    fn times_read_and_print() {
        for text in ["daily:00:00", "daily:08:05", "daily:23:59"] {
            assert_eq!(Daily::parse(text).expect(text).to_string(), text);
        }
        for text in [
            "",
            "08:00",
            "daily:8:00",
            "daily:24:00",
            "daily:08:60",
            "daily:08",
            "daily:+8:00",
            "weekly:08:00",
        ] {
            assert_eq!(Daily::parse(text), None, "{text}");
        }
        assert_eq!(Daily::parse("daily:08:00").expect("digest").next(u64::MAX, &TimeZone::UTC), None);
        assert_eq!(Daily::parse("daily:08:00").expect("digest").next(EIGHT - 1, &TimeZone::UTC), Some(EIGHT));
    }
}
