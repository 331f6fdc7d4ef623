//! What single ports have carried, of rules that count them: totals and minutes, as rules have them.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::amounts::Amounts;
use super::books::{Account, Source};
use super::waiting::Waiting;
use crate::rule::RuleName;

/// A port of a rule.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortName {
    pub rule: RuleName,
    pub port: u16,
}

impl PortName {
    /// As the database has it, which no rule's name can be.
    pub fn parse(text: &str) -> Option<Self> {
        let (rule, port) = text.rsplit_once(':')?;
        Some(Self { rule: RuleName::parse(rule)?, port: port.parse().ok()? })
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.rule, self.port)
    }
}

/// What the kernel has counted, by the rule's slot and the port.
pub type PortReadings = HashMap<(u32, u16), Amounts>;

/// All ports' accounts, and what the database does not know yet.
#[derive(Debug, Default)]
pub struct Ports {
    accounts: HashMap<PortName, Account>,
    dirty: HashSet<PortName>,
    waiting: Waiting<PortName>,
}

/// What has come for a port since its last reading, and the new one.
struct Credit {
    name: PortName,
    kernel: Option<(Source, Amounts)>,
    more: Amounts,
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct PortEntries {
    pub accounts: Vec<(PortName, Account)>,
    pub minutes: Vec<(PortName, u64, Amounts)>,
}

impl Ports {
    /// What a database says, in place of what there was.
    pub fn restore(&mut self, accounts: HashMap<PortName, Account>) {
        self.accounts = accounts;
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// A rule's ports that have ever carried anything, in order.
    pub fn of_rule(&self, rule: &RuleName) -> Vec<(u16, Amounts)> {
        let mut ports: Vec<(u16, Amounts)> = self
            .accounts
            .iter()
            .filter(|(name, _)| name.rule == *rule)
            .map(|(name, account)| (name.port, account.total))
            .collect();
        ports.sort_unstable_by_key(|(port, _)| *port);
        ports
    }

    /// Takes in all counters. `owners`: which rules have which slots; `source`: where a slot's counters are.
    pub fn observe(
        &mut self,
        readings: &PortReadings,
        owners: &HashMap<u32, RuleName>,
        source: impl Fn(u32) -> Source,
        minute: u64,
    ) {
        let mut came: Vec<Credit> = Vec::new();
        // what rules that are gone have counted at the end, until their slots are others'
        for (name, account) in &self.accounts {
            let Some((known, before)) = &account.kernel else { continue };
            if *known != source(known.slot) || owners.get(&known.slot) == Some(&name.rule) {
                continue;
            }
            let now = readings.get(&(known.slot, name.port)).filter(|_| !owners.contains_key(&known.slot));
            let more = now.and_then(|now| now.since(before)).unwrap_or_default();
            let kernel = now.map(|now| (known.clone(), *now));
            came.push(Credit { name: name.clone(), kernel, more });
        }
        for (&(slot, port), now) in readings {
            let Some(rule) = owners.get(&slot) else { continue };
            let name = PortName { rule: rule.clone(), port };
            let source = source(slot);
            let last = self.accounts.get(&name).and_then(|account| account.kernel.as_ref());
            let last = last.filter(|(known, _)| *known == source).map(|(_, amounts)| *amounts);
            let more = now.since(&last.unwrap_or_default()).unwrap_or(*now);
            came.push(Credit { name, kernel: Some((source, *now)), more });
        }
        for credit in came {
            self.credit(credit, minute);
        }
    }

    fn credit(&mut self, Credit { name, kernel, more: came }: Credit, minute: u64) {
        let account = self.accounts.entry(name.clone()).or_default();
        if account.kernel == kernel {
            return;
        }
        account.kernel = kernel;
        account.total += came;
        self.dirty.insert(name.clone());
        if came.is_zero() {
            return;
        }
        self.waiting.add(&name, minute, came);
    }

    /// What is to be written; empty if nothing has changed.
    pub fn entries(&self) -> PortEntries {
        let accounts = self.dirty.iter().filter_map(|name| self.accounts.get_key_value(name));
        PortEntries {
            accounts: accounts.map(|(name, account)| (name.clone(), account.clone())).collect(),
            minutes: self.waiting.entries(),
        }
    }

    /// What [`Self::entries`] gave is in the database.
    pub fn written(&mut self, entries: &PortEntries) {
        for (name, account) in &entries.accounts {
            if self.accounts.get(name).is_some_and(|now| now.kernel == account.kernel) {
                self.dirty.remove(name);
            }
        }
        self.waiting.written(&entries.minutes);
    }

    /// A new database knows nothing yet.
    pub fn forgotten(&mut self) {
        self.dirty.extend(self.accounts.keys().cloned());
    }
}

impl PortEntries {
    pub const fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.minutes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RuleName {
        RuleName::parse(text).expect(text)
    }

    fn amounts(bytes: u64) -> Amounts {
        Amounts { ingress_bytes: bytes, ..Amounts::default() }
    }

    fn source(slot: u32) -> Source {
        Source { boot: "one".into(), map: 7, slot }
    }

    #[test]
    fn names_are_no_rules_names() {
        let port = PortName { rule: name("a.b-c"), port: 8388 };
        assert_eq!(PortName::parse(&port.to_string()), Some(port.clone()));
        assert!(RuleName::parse(&port.to_string()).is_none());
        assert!(["a", "a:", "a:65536", ":80", "a b:80"].iter().all(|text| PortName::parse(text).is_none()));
    }

    #[test]
    fn totals_outlast_slots_and_relayds() {
        let mut ports = Ports::default();
        let owners = |list: &[(u32, &str)]| list.iter().map(|(slot, rule)| (*slot, name(rule))).collect();
        let readings = |list: &[(u32, u16, u64)]| -> PortReadings {
            list.iter().map(|&(slot, port, bytes)| ((slot, port), amounts(bytes))).collect()
        };
        let total = |ports: &Ports, rule: &str| -> Vec<(u16, u64)> {
            ports.of_rule(&name(rule)).into_iter().map(|(port, total)| (port, total.ingress_bytes)).collect()
        };
        ports.observe(&readings(&[(1, 80, 100), (1, 81, 5)]), &owners(&[(1, "a")]), source, 1);
        ports.observe(&readings(&[(1, 80, 130), (1, 81, 5)]), &owners(&[(1, "a")]), source, 2);
        assert_eq!(total(&ports, "a"), [(80, 130), (81, 5)]);
        let entries = ports.entries();
        assert_eq!(entries.minutes.iter().map(|(.., amounts)| amounts.ingress_bytes).sum::<u64>(), 135);
        ports.written(&entries);
        assert!(ports.entries().is_empty());
        // what another relayd reads from the database goes on
        let mut next = Ports::default();
        next.restore(entries.accounts.into_iter().collect());
        // the rule has gone, and its slot rests
        next.observe(&readings(&[(1, 80, 150)]), &owners(&[]), source, 3);
        assert_eq!(total(&next, "a"), [(80, 150), (81, 5)]);
        // then it is another's
        next.observe(&readings(&[(1, 80, 7)]), &owners(&[(1, "b")]), source, 4);
        next.observe(&readings(&[(1, 80, 9), (2, 80, 1)]), &owners(&[(1, "b"), (2, "a")]), source, 5);
        assert_eq!((total(&next, "a"), total(&next, "b")), (vec![(80, 151), (81, 5)], vec![(80, 9)]));
    }
}
