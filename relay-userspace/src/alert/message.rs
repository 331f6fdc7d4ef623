//! What one message says: of events, a digest, or that it is a test.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::kinds::EventKind;
use super::template::Field;

/// Something that happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Seconds since 1970.
    pub time: u64,
    pub kind: EventKind,
    /// `backend.down`
    pub code: Box<str>,
    pub rule: Option<Box<str>>,
    pub text: Box<str>,
}

impl Event {
    /// `None`: nobody is alerted of events with this code.
    pub fn new(time: u64, code: &str, rule: Option<&str>, text: &str) -> Option<Self> {
        let kind = EventKind::of(code)?;
        Some(Self { time, kind, code: code.into(), rule: rule.map(Into::into), text: text.into() })
    }
}

/// What a channel is to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub host: String,
    /// Of whom and of how many events, in one line.
    pub title: String,
    pub lines: Vec<String>,
    /// Seconds since 1970: of the first event, or of the message itself.
    pub time: u64,
    pub events: Vec<Event>,
}

impl Message {
    /// Of at least one event. Times are told in a zone, with their date unless that is today's. `missed`: of events that came too
    /// fast there was no room for so many.
    pub fn of_events(host: &str, events: Vec<Event>, zone: &TimeZone, now: u64) -> Self {
        let title = match events.len() {
            1 => format!("Relay {host}"),
            count => format!("Relay {host}: {count} events"),
        };
        let lines =
            events.iter().map(|event| format!("{} {}", shown(event.time, zone, now), event.text)).collect();
        let time = events.first().map_or(now, |event| event.time);
        Self { host: host.into(), title, lines, time, events }
    }

    pub fn digest(host: &str, text: &str, now: u64) -> Self {
        let lines = text.lines().map(ToOwned::to_owned).collect();
        Self {
            host: host.into(),
            title: format!("Relay {host}: digest"),
            lines,
            time: now,
            events: Vec::new(),
        }
    }

    pub fn test(host: &str, name: &str, now: u64) -> Self {
        let lines = vec![format!("This is a test of the alert \"{name}\". It works.")];
        Self { host: host.into(), title: format!("Relay {host}: test"), lines, time: now, events: Vec::new() }
    }

    /// The title and the lines below it.
    pub fn whole(&self) -> Vec<String> {
        std::iter::once(&self.title).chain(&self.lines).cloned().collect()
    }

    /// One line that says as much as possible.
    pub fn subject(&self) -> String {
        match &self.events[..] {
            [event] => format!("{}: {}", self.title, event.text),
            _ => self.title.clone(),
        }
    }

    /// What a template's placeholder stands for.
    pub fn value(&self, field: Field) -> String {
        match field {
            Field::Title => self.title.clone(),
            Field::Text => self.lines.join("\n"),
            Field::Host => self.host.clone(),
            Field::Count => self.events.len().to_string(),
            Field::Time => timestamp(self.time).to_string(),
            Field::Kind => {
                let kinds: BTreeSet<EventKind> = self.events.iter().map(|event| event.kind).collect();
                kinds.into_iter().map(EventKind::as_str).collect::<Vec<_>>().join(",")
            }
            Field::Rule => {
                let rules: BTreeSet<&str> =
                    self.events.iter().filter_map(|event| event.rule.as_deref()).collect();
                rules.into_iter().collect::<Vec<_>>().join(",")
            }
        }
    }

    /// Everything, for programs.
    pub fn to_json(&self) -> Value {
        let event = |event: &Event| {
            json!({
                "time": timestamp(event.time).to_string(),
                "kind": event.kind.as_str(),
                "code": event.code,
                "rule": event.rule,
                "text": event.text,
            })
        };
        json!({
            "host": self.host,
            "title": self.title,
            "text": self.lines.join("\n"),
            "time": timestamp(self.time).to_string(),
            "events": self.events.iter().map(event).collect::<Vec<_>>(),
        })
    }
}

/// What is beyond the calendar is its end.
pub fn timestamp(seconds: u64) -> Timestamp {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}

/// `08:00:00`, of another day than today's `2026-11-22 08:00:00`.
fn shown(time: u64, zone: &TimeZone, now: u64) -> String {
    let [time, now] = [time, now].map(|seconds| timestamp(seconds).to_zoned_datetime(zone.clone()));
    let format = if time.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    time.strftime(format).to_string()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// 2026-11-23 08:00:00 UTC.
    pub const EIGHT: u64 = 1_795_420_800;

    /// Of so many events, a second between them.
    pub fn message(texts: &[&str]) -> Message {
        let event =
            |(index, text): (u64, &&str)| Event::new(EIGHT + index, "backend.down", Some("web"), text);
        let events = (0..).zip(texts).filter_map(event).collect();
        Message::of_events("vps1", events, &TimeZone::UTC, EIGHT)
    }

    #[test]
    fn a_burst_is_one_message_with_a_line_for_each() {
        let message = message(&["web is down", "dns is down"]);
        let whole = ["Relay vps1: 2 events", "08:00:00 web is down", "08:00:01 dns is down"];
        assert_eq!(message.whole(), whole);
        assert_eq!((message.subject().as_str(), message.value(Field::Count).as_str()), (whole[0], "2"));
        assert_eq!(
            (message.value(Field::Kind).as_str(), message.value(Field::Rule).as_str()),
            ("backend", "web")
        );
        assert_eq!(message.value(Field::Time), "2026-11-23T08:00:00Z");
        assert_eq!(message.to_json()["events"][1]["time"], "2026-11-23T08:00:01Z");
    }

    #[test]
    fn times_are_those_of_the_zone_and_old_ones_have_their_day() {
        let zone = TimeZone::get("Asia/Shanghai").expect("zone");
        assert_eq!(shown(EIGHT, &zone, EIGHT + 60), "16:00:00");
        assert_eq!(shown(EIGHT, &zone, EIGHT + 8 * 3600), "2026-11-23 16:00:00");
        assert_eq!(shown(u64::MAX, &TimeZone::UTC, EIGHT).len(), 19);
    }

    #[test]
    fn one_event_is_a_subject_by_itself() {
        assert_eq!(message(&["web is down"]).subject(), "Relay vps1: web is down");
        assert_eq!(Message::test("vps1", "phone", EIGHT).subject(), "Relay vps1: test");
    }
}
