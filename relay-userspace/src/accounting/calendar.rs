//! Buckets of time and dates, all in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::quantity::parse_duration;

const DAY: u64 = 86_400;

/// What a row of history covers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    Minute,
    Hour,
    #[default]
    Day,
    Month,
}

impl Step {
    /// What is shown if nobody says since when, in seconds.
    pub const fn usual_span(self) -> u64 {
        match self {
            Self::Minute => 3 * 3600,
            Self::Hour => 2 * DAY,
            Self::Day => 31 * DAY,
            Self::Month => 400 * DAY,
        }
    }

    /// The start of the bucket that a time lies in, in seconds since 1970.
    pub fn start(self, seconds: u64) -> u64 {
        match self {
            Self::Minute => seconds - seconds % 60,
            Self::Hour => seconds - seconds % 3600,
            Self::Day => seconds - seconds % DAY,
            Self::Month => {
                let (_, _, day) = date(seconds / DAY);
                (seconds / DAY - (day - 1)) * DAY
            }
        }
    }

    /// The bucket's name: `2026-11-22 13:05`, `2026-11-22`, `2026-11`.
    pub fn label(self, start: u64) -> String {
        let (year, month, day) = date(start / DAY);
        let (hour, minute) = (start % DAY / 3600, start % 3600 / 60);
        match self {
            Self::Minute | Self::Hour => format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}"),
            Self::Day => format!("{year:04}-{month:02}-{day:02}"),
            Self::Month => format!("{year:04}-{month:02}"),
        }
    }
}

/// Seconds since 1970. A clock before that is at its beginning.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time of day of a moment in milliseconds since 1970: `14:05:09.123`.
pub fn time_of_day(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000 % DAY;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{:03}", milliseconds % 1000)
}

/// What times may look like, for error texts.
pub const TIME_FORMS: &str =
    r#"write a date such as "2026-11-01" (UTC), or how long ago, such as "90m" or "7d""#;

/// A time in seconds since 1970: a date, or how long before now.
pub fn parse_time(text: &str, now: u64) -> Option<u64> {
    if let Some(ago) = parse_duration(text) {
        return Some(now.saturating_sub(ago.as_secs()));
    }
    let mut parts = text.split('-').map(str::parse::<u64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    if parts.next().is_some() || !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let days = days(year, month, day);
    // a day that the month has not would be one of the next month
    (date(days) == (year, month, day)).then_some(days * DAY)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, in years of 365 or 366 days that begin in March.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

/// Year, month and day of a number of days since 1970-01-01.
const fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let part = (5 * of_year + 2) / 153;
    let month = if part < 10 { part + 3 } else { part - 9 };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, of_year - (153 * part + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_written() {
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400),
            ("2026-11-01", 1_793_491_200),
            ("2100-03-01", 4_107_542_400),
        ] {
            assert_eq!(parse_time(text, 0), Some(seconds), "{text}");
            assert_eq!(Step::Day.label(seconds), text);
        }
        assert_eq!(parse_time("7d", 1_000_000), Some(1_000_000 - 7 * DAY));
        for text in
            ["2026-02-29", "2026-13-01", "2026-00-10", "2026-01-00", "2026-01", "yesterday", "1969-12-31", ""]
        {
            assert_eq!(parse_time(text, 0), None, "{text}");
        }
        for day in 0..200_000 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }

    #[test]
    fn times_of_day_have_milliseconds() {
        let at = (1_793_491_200 + 13 * 3600 + 5 * 60 + 9) * 1000;
        assert_eq!([time_of_day(at + 7), time_of_day(0)], ["13:05:09.007", "00:00:00.000"]);
    }

    #[test]
    fn buckets_begin_where_they_should() {
        let at = 1_793_491_200 + 21 * DAY + 13 * 3600 + 5 * 60 + 59;
        let starts =
            [Step::Minute, Step::Hour, Step::Day, Step::Month].map(|step| step.label(step.start(at)));
        assert_eq!(starts, ["2026-11-22 13:05", "2026-11-22 13:00", "2026-11-22", "2026-11"]);
        assert_eq!(Step::Month.start(1_793_491_200), 1_793_491_200);
        assert_eq!(Step::Month.label(Step::Month.start(1_793_491_199)), "2026-10");
    }
}
