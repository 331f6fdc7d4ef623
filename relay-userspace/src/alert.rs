//! Alerts: what happens, gathered and sent to a chat, a phone, a mailbox or any URL.
//!
//! Events come from the stream that everybody may subscribe to; of the supervisor nothing else is known here. Each channel is
//! a task with a queue of its own, so one that hangs holds up no other.

pub mod answer;
pub mod channel;
pub mod courier;
pub mod desk;
pub mod digest;
pub mod escape;
mod http;
pub mod kinds;
mod mail;
pub mod message;
pub mod outbox;
pub mod render;
pub mod retry;
pub mod secret;
mod sign;
pub mod template;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;

use self::channel::Channel;
use self::digest::Daily;
use self::kinds::EventKinds;
use self::message::Event;
use crate::rule::RuleName;

/// One `[[alert]]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alert {
    pub name: AlertName,
    pub channel: Channel,
    pub events: EventKinds,
    /// Events of other rules are left out; those of no rule are not. `None`: all rules.
    pub rules: Option<BTreeSet<RuleName>>,
    pub digest: Option<Daily>,
    /// Where times are read and shown.
    pub zone: TimeZone,
    /// What comes within this time of the first event goes along.
    pub gather: Duration,
    /// From the beginning of one message to the next.
    pub min_interval: Duration,
}

impl Alert {
    pub const GATHER: Duration = Duration::from_secs(2);
    pub const MIN_INTERVAL: Duration = Duration::from_secs(10);

    /// Whether somebody wants to hear of this event here.
    pub fn wants(&self, event: &Event) -> bool {
        let is_its_rule = |rules: &BTreeSet<RuleName>| {
            event.rule.as_deref().is_none_or(|rule| rules.iter().any(|name| name.as_str() == rule))
        };
        self.events.has(event.kind) && self.rules.as_ref().is_none_or(is_its_rule)
    }
}

/// What an alert is called; unique among alerts. It looks like a rule's name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AlertName(RuleName);

impl AlertName {
    pub const FORM: &str = RuleName::FORM;

    /// `None` for anything that is not a name.
    pub fn parse(text: &str) -> Option<Self> {
        RuleName::parse(text).map(Self)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for AlertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::kinds::EventKind;
    use super::*;

    #[test]
    fn events_are_chosen_by_kind_and_rule() {
        let alert = Alert {
            events: EventKinds::of([EventKind::Backend, EventKind::Daemon]),
            rules: Some(BTreeSet::from(["web"].map(|name| RuleName::parse(name).expect("name")))),
            ..channel::tests::alert(channel::tests::webhook("http://192.0.2.1/"))
        };
        let event =
            |code: &str, rule: Option<&str>| Event::new(0, code, rule, "it").map(|event| alert.wants(&event));
        assert_eq!(event("backend.down", Some("web")), Some(true));
        assert_eq!(event("backend.down", Some("dns")), Some(false));
        assert_eq!(event("daemon.started", None), Some(true));
        assert_eq!(event("reload", None), Some(false));
        assert_eq!(event("interface", None), None, "nobody is alerted of these");
    }
}
