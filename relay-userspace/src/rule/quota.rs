//! How much a rule or group may carry in a period, and when the next one begins.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::rate::Rates;

/// A quota as configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quota {
    /// Bytes of a period.
    pub limit: u64,
    pub count: Counted,
    pub reset: Reset,
    pub zone: Zone,
    pub over: Over,
    /// Per cent of the limit that are told of, rising.
    pub warn: Box<[u8]>,
}

/// Which bytes count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Counted {
    In,
    Out,
    #[default]
    Both,
    /// The larger of the two.
    Max,
}

/// What happens when it is used up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Over {
    #[default]
    Block,
    /// So many bits per second each way.
    Throttle(u64),
}

/// When a period ends and the next begins: at midnight.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reset {
    #[default]
    Never,
    /// On a day of each month, or the last one of a shorter month.
    Monthly(u8),
    /// On a month's day of each year.
    Yearly(u8, u8),
    /// Every so many days or months from a date on.
    Every(u16, Unit, Date),
    /// On a date, and never again.
    Once(Date),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    Days,
    Months,
}

/// A time zone of the IANA database; without a name it is the host's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Zone(Option<(Box<str>, TimeZone)>);

/// From when to when, in seconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Period {
    /// 0: since ever.
    pub start: u64,
    /// `None`: for ever.
    pub end: Option<u64>,
}

impl Quota {
    /// Per cent that are told of if nobody says.
    pub const USUAL_WARN: [u8; 3] = [80, 90, 100];
    /// More than hosts carry in their life.
    pub const MOST: u64 = 1 << 60;

    /// The bytes that count of what has come in and gone out.
    pub fn counted(&self, ingress: u64, egress: u64) -> u64 {
        match self.count {
            Counted::In => ingress,
            Counted::Out => egress,
            Counted::Both => ingress.saturating_add(egress),
            Counted::Max => ingress.max(egress),
        }
    }

    /// The period that a moment lies in.
    pub fn period(&self, now: u64) -> Period {
        self.reset.period(now, &self.zone)
    }
}

impl Counted {
    pub const ALL: [Self; 4] = [Self::In, Self::Out, Self::Both, Self::Max];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
            Self::Max => "max",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|counted| counted.as_str() == text)
    }
}

impl Over {
    /// What it may look like, for error texts.
    pub const FORMS: &str = r#"it is "block", or "throttle:" and a rate such as "throttle:1Mbps""#;

    pub fn parse(text: &str) -> Option<Self> {
        if text == "block" {
            return Some(Self::Block);
        }
        let rate = crate::config::quantity::parse_rate(text.strip_prefix("throttle:")?)?;
        (Rates::LEAST..=Rates::MOST).contains(&rate).then_some(Self::Throttle(rate))
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block => f.write_str("block"),
            Self::Throttle(rate) => write!(f, "throttle:{}", crate::config::quantity::format_rate(*rate)),
        }
    }
}

impl Zone {
    /// A zone by its name, such as `Asia/Shanghai`.
    pub fn parse(name: &str) -> Option<Self> {
        let zone = TimeZone::get(name).ok()?;
        Some(Self(Some((name.into(), zone))))
    }

    pub fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|(name, _)| &**name)
    }

    fn zone(&self) -> TimeZone {
        self.0.as_ref().map_or_else(TimeZone::system, |(_, zone)| zone.clone())
    }

    /// A moment as people there write it.
    pub fn shown(&self, seconds: u64) -> String {
        let time = moment(seconds).to_zoned_datetime(self.zone());
        time.strftime("%Y-%m-%d %H:%M %Z").to_string()
    }

    fn midnight(&self, date: Date) -> u64 {
        let start = date.to_zoned_datetime(self.zone()).map(|midnight| midnight.timestamp().as_second());
        start.map_or(0, |seconds| u64::try_from(seconds).unwrap_or(0))
    }
}

fn moment(seconds: u64) -> Timestamp {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_default()
}

impl Reset {
    /// What it may look like, for error texts.
    pub const FORMS: &str = r#"it is "never", "monthly:15", "yearly:03-31", "every:30d:2026-11-01", "every:3mo:2026-11-01" or "once:2026-12-01""#;

    pub fn parse(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(':').map_or((text, None), |(word, rest)| (word, Some(rest)));
        match (word, rest) {
            ("never", None) => Some(Self::Never),
            ("monthly", None) => Some(Self::Monthly(1)),
            ("monthly", Some(day)) => {
                number(day, 31).and_then(|day| u8::try_from(day).ok()).map(Self::Monthly)
            }
            ("yearly", Some(day)) => {
                // a year that has every day
                let date: Date = format!("2024-{day}").parse().ok()?;
                Some(Self::Yearly(date.month().cast_unsigned(), date.day().cast_unsigned()))
            }
            ("once", Some(date)) => date.parse().ok().map(Self::Once),
            ("every", Some(rest)) => {
                let (often, from) = rest.split_once(':')?;
                let (count, unit) = match (often.strip_suffix("mo"), often.strip_suffix('d')) {
                    (Some(months), _) => (number(months, 120)?, Unit::Months),
                    (None, Some(days)) => (number(days, 3660)?, Unit::Days),
                    (None, None) => return None,
                };
                Some(Self::Every(count, unit, from.parse().ok()?))
            }
            _ => None,
        }
    }

    fn period(self, now: u64, zone: &Zone) -> Period {
        let today = moment(now).to_zoned_datetime(zone.zone()).date();
        let (start, end) = self.dates(today);
        let at = |date| zone.midnight(date);
        Period { start: start.map_or(0, at), end: end.map(at) }
    }

    /// The days that a period begins on, and the next one. Dates that no calendar has end nothing.
    fn dates(self, today: Date) -> (Option<Date>, Option<Date>) {
        let between = |first: Date, at: &dyn Fn(i64) -> Option<Date>, guess: i64| {
            if today < first {
                return (None, Some(first));
            }
            // the guess is at most one off, on either side
            let start = (guess - 1..=guess + 1).rev().find(|&n| at(n).is_some_and(|date| date <= today));
            start.map_or((None, None), |n| (at(n), at(n + 1)))
        };
        match self {
            Self::Never => (None, None),
            Self::Once(date) if today < date => (None, Some(date)),
            Self::Once(date) => (Some(date), None),
            Self::Monthly(day) => {
                let at = |n: i64| nth_month(i64::from(today.year()) * 12 + n, day);
                between(Date::MIN, &at, i64::from(today.month()) - 1)
            }
            Self::Yearly(month, day) => {
                let at = |n: i64| nth_month(n * 12 + i64::from(month) - 1, day);
                between(Date::MIN, &at, today.year().into())
            }
            Self::Every(count, Unit::Days, from) => {
                let at = |n: i64| from.checked_add((n * i64::from(count)).days()).ok();
                let days = from.until(today).map_or(0, |span| i64::from(span.get_days()));
                between(from, &at, days / i64::from(count))
            }
            Self::Every(count, Unit::Months, from) => {
                let first = i64::from(from.year()) * 12 + i64::from(from.month()) - 1;
                let at = |n: i64| nth_month(first + n * i64::from(count), from.day().cast_unsigned());
                let now = i64::from(today.year()) * 12 + i64::from(today.month()) - 1;
                between(from, &at, (now - first) / i64::from(count))
            }
        }
    }
}

/// A day of a month that is counted from the year 0 on, or that month's last.
fn nth_month(month: i64, day: u8) -> Option<Date> {
    let year = i16::try_from(month.div_euclid(12)).ok()?;
    let month = i8::try_from(month.rem_euclid(12)).ok()? + 1;
    let first = Date::new(year, month, 1).ok()?;
    Date::new(year, month, first.days_in_month().min(day.cast_signed())).ok()
}

/// A number from 1 on.
fn number(text: &str, most: u16) -> Option<u16> {
    let number = text.parse().ok()?;
    (1..=most).contains(&number).then_some(number)
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Monthly(day) => write!(f, "monthly:{day}"),
            Self::Yearly(month, day) => write!(f, "yearly:{month:02}-{day:02}"),
            Self::Every(count, Unit::Days, from) => write!(f, "every:{count}d:{from}"),
            Self::Every(count, Unit::Months, from) => write!(f, "every:{count}mo:{from}"),
            Self::Once(date) => write!(f, "once:{date}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, zone: &str) -> u64 {
        let time: jiff::ZonedDateTime = format!("{text}[{zone}]").parse().expect(text);
        u64::try_from(time.timestamp().as_second()).expect("since 1970")
    }

    fn dates(reset: &str, now: &str, zone: &str) -> (String, String) {
        let parsed = Reset::parse(reset).expect(reset);
        assert_eq!(Reset::parse(&parsed.to_string()), Some(parsed));
        let zone_of = Zone::parse(zone).expect(zone);
        let period = parsed.period(at(now, zone), &zone_of);
        let shown = |seconds| zone_of.shown(seconds)[..16].to_owned();
        (
            if period.start == 0 { "-".into() } else { shown(period.start) },
            period.end.map_or("-".into(), shown),
        )
    }

    #[test]
    fn periods_begin_at_midnight_of_their_zone() {
        for (reset, now, start, end) in [
            ("never", "2026-11-22T12:00", "-", "-"),
            ("monthly:1", "2026-11-22T12:00", "2026-11-01 00:00", "2026-12-01 00:00"),
            ("monthly:22", "2026-11-22T00:00", "2026-11-22 00:00", "2026-12-22 00:00"),
            ("monthly:23", "2026-11-22T23:59", "2026-10-23 00:00", "2026-11-23 00:00"),
            ("monthly:15", "2026-01-03T00:00", "2025-12-15 00:00", "2026-01-15 00:00"),
            // short months
            ("monthly:31", "2026-02-28T00:00", "2026-02-28 00:00", "2026-03-31 00:00"),
            ("monthly:31", "2026-02-27T23:59", "2026-01-31 00:00", "2026-02-28 00:00"),
            ("monthly:30", "2028-02-29T01:00", "2028-02-29 00:00", "2028-03-30 00:00"),
            ("yearly:02-29", "2027-03-01T00:00", "2027-02-28 00:00", "2028-02-29 00:00"),
            ("yearly:12-31", "2026-06-01T00:00", "2025-12-31 00:00", "2026-12-31 00:00"),
            ("every:30d:2026-11-01", "2026-10-31T23:00", "-", "2026-11-01 00:00"),
            ("every:30d:2026-11-01", "2026-12-01T00:00", "2026-12-01 00:00", "2026-12-31 00:00"),
            ("every:30d:2026-11-01", "2026-11-30T23:59", "2026-11-01 00:00", "2026-12-01 00:00"),
            ("every:1mo:2026-01-31", "2026-03-01T00:00", "2026-02-28 00:00", "2026-03-31 00:00"),
            ("every:3mo:2025-11-30", "2026-02-27T00:00", "2025-11-30 00:00", "2026-02-28 00:00"),
            ("every:120mo:2000-01-01", "2026-02-27T00:00", "2020-01-01 00:00", "2030-01-01 00:00"),
            ("once:2026-12-01", "2026-11-22T00:00", "-", "2026-12-01 00:00"),
            ("once:2026-12-01", "2026-12-01T00:00", "2026-12-01 00:00", "-"),
        ] {
            for zone in ["Asia/Shanghai", "America/Los_Angeles", "UTC"] {
                assert_eq!(dates(reset, now, zone), (start.into(), end.into()), "{reset} at {now} {zone}");
            }
        }
    }

    #[test]
    fn a_midnight_that_the_clock_jumps_over_is_when_it_has_jumped() {
        // Havana puts its clock forward at midnight
        let (start, _) = dates("monthly:8", "2026-03-20T12:00", "America/Havana");
        assert_eq!(start, "2026-03-08 01:00");
        // a day of 25 hours is one day
        assert_eq!(
            dates("every:1d:2026-01-01", "2026-11-01T23:30", "America/New_York").0,
            "2026-11-01 00:00"
        );
    }

    #[test]
    fn every_moment_lies_in_its_period_and_each_ends_where_the_next_begins() {
        let zone = Zone::parse("America/Havana").expect("a zone");
        for text in [
            "monthly:31",
            "yearly:02-29",
            "every:1mo:2024-01-31",
            "every:7d:2024-01-01",
            "every:5mo:2020-08-31",
        ] {
            let reset = Reset::parse(text).expect(text);
            let mut now = at("2026-01-01T00:00", "UTC");
            for _ in 0..400 {
                let period = reset.period(now, &zone);
                let end = period.end.expect("an end");
                assert!(period.start <= now && now < end, "{text} {now} {period:?}");
                let next = reset.period(end, &zone);
                assert_eq!((next.start, reset.period(end - 1, &zone)), (end, period), "{text}");
                now += 86_400 + 3607;
            }
        }
    }

    #[test]
    fn nothing_else_is_a_reset() {
        for text in [
            "",
            "monthly:0",
            "monthly:32",
            "monthly:x",
            "yearly",
            "yearly:13-01",
            "yearly:02-30",
            "every:30d",
            "every:0d:2026-01-01",
            "every:30:2026-01-01",
            "every:30d:2026-02-30",
            "once",
            "once:tomorrow",
            "never:1",
            "weekly",
        ] {
            assert_eq!(Reset::parse(text), None, "{text}");
        }
        assert_eq!(Reset::parse("monthly"), Some(Reset::Monthly(1)));
    }

    #[test]
    fn what_happens_then_reads_and_prints() {
        for text in ["block", "throttle:1Mbps"] {
            assert_eq!(Over::parse(text).map(|over| over.to_string()).as_deref(), Some(text));
        }
        for text in ["", "throttle", "throttle:", "throttle:1", "throttle:1bps", "drop"] {
            assert_eq!(Over::parse(text), None, "{text}");
        }
    }
}
