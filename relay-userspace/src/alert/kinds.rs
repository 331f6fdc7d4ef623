//! Which events an alert can be about: many codes, few kinds.

use std::collections::BTreeSet;

/// What an event is about, as `on` has it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum EventKind {
    Backend,
    Rule,
    Daemon,
    Quota,
    Expiry,
    Reload,
}

impl EventKind {
    pub const ALL: [Self; 6] =
        [Self::Backend, Self::Rule, Self::Daemon, Self::Quota, Self::Expiry, Self::Reload];
    /// For error texts.
    pub const WORDS: [&str; 6] = ["backend", "rule", "daemon", "quota", "expiry", "reload"];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Rule => "rule",
            Self::Daemon => "daemon",
            Self::Quota => "quota",
            Self::Expiry => "expiry",
            Self::Reload => "reload",
        }
    }

    /// By the event's code. `None`: nobody is alerted of these, such as of what somebody has typed.
    pub fn of(code: &str) -> Option<Self> {
        Some(match code {
            "backend.up" | "backend.down" | "backend.unknown" | "backend.order" | "rule.tier"
            | "rule.backends" => Self::Backend,
            "rule.state" | "rule.reset" | "rule.yields" => Self::Rule,
            "daemon.started" | "daemon.restarted" | "table.full" | "down" => Self::Daemon,
            "quota.warning" | "quota.exceeded" | "quota.reset" => Self::Quota,
            "expiry.soon" | "expiry.over" => Self::Expiry,
            "reload" | "apply" => Self::Reload,
            _ => return None,
        })
    }
}

/// Some of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventKinds(BTreeSet<EventKind>);

impl EventKinds {
    pub fn of(kinds: impl IntoIterator<Item = EventKind>) -> Self {
        Self(kinds.into_iter().collect())
    }

    pub fn all() -> Self {
        Self::of(EventKind::ALL)
    }

    pub fn has(&self, kind: EventKind) -> bool {
        self.0.contains(&kind)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of [`EventKind::ALL`].
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|kind| kind.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_are_told() {
        assert_eq!(EventKind::ALL.map(EventKind::as_str), EventKind::WORDS);
        assert_eq!(EventKinds::all().names().collect::<Vec<_>>(), EventKind::WORDS);
    }

    #[test]
    fn codes_of_quotas_and_ends_have_kinds() {
        for (code, kind) in [
            ("quota.warning", "quota"),
            ("quota.exceeded", "quota"),
            ("quota.reset", "quota"),
            ("expiry.soon", "expiry"),
            ("expiry.over", "expiry"),
        ] {
            assert_eq!(EventKind::of(code).map(EventKind::as_str), Some(kind), "{code}");
        }
        assert_eq!(EventKind::of("rule.added"), None);
    }
}
