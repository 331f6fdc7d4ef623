//! Totals by rule, made of counters that begin anew at times: of each source what has come since its last reading.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::allowances::{Allowance, AllowanceEntries, Allowances, Owner};
use super::amounts::Amounts;
use super::ports::PortEntries;
use super::waiting::Waiting;
use crate::proxy::counters::Counters;
use crate::rule::RuleName;

/// Where the kernel counts for a rule. Another boot, other pins or another slot begin at zero.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    pub boot: Arc<str>,
    /// The number of the counters' map, which no other map of this boot gets.
    pub map: u32,
    pub slot: u32,
}

/// What has become of counters that a rule has had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    /// Nobody has them now; this is the last that they have counted.
    At(Amounts),
    /// They count for another rule.
    Reused,
    /// They cannot be read now, as while relayd has no kernel plane. They may go on.
    Unseen,
}

/// The counters of one rule at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub kernel: Option<(Source, Amounts)>,
    pub user: Option<Arc<Counters>>,
}

/// What one name has carried.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub total: Amounts,
    /// The last reading, which is in the total.
    pub kernel: Option<(Source, Amounts)>,
    user: Option<Sessions>,
}

/// What sessions had carried when they were last looked at.
#[derive(Clone, Debug)]
struct Sessions {
    counters: Arc<Counters>,
    seen: Amounts,
    /// Programs count their packets too.
    are_counted: bool,
}

/// All accounts, and what the database does not know yet.
#[derive(Debug, Default)]
pub struct Books {
    accounts: HashMap<RuleName, Account>,
    dirty: HashSet<RuleName>,
    waiting: Waiting<RuleName>,
    /// What is used of quotas.
    pub allowances: Allowances,
}

/// Which rules' readings there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// All rules': who has none has gone.
    All,
    /// Some rules'; nothing is known of others.
    Some,
}

/// What is to be written in one transaction.
#[derive(Debug, Default)]
pub struct Entries {
    pub accounts: Vec<(RuleName, Account)>,
    pub minutes: Vec<(RuleName, u64, Amounts)>,
    pub interfaces: Vec<(String, Account)>,
    pub ports: PortEntries,
    pub quotas: AllowanceEntries,
}

impl Account {
    pub const fn restored(total: Amounts, kernel: Option<(Source, Amounts)>) -> Self {
        Self { total, kernel, user: None }
    }

    /// What has come since the last reading. Counters that have gone back have begun anew.
    fn since(&self, reading: &Reading) -> Amounts {
        let mut sum = Amounts::default();
        if let Some((source, now)) = &reading.kernel {
            let last = self.kernel.as_ref().filter(|(last, _)| last == source).map(|(_, amounts)| *amounts);
            sum += now.since(&last.unwrap_or_default()).unwrap_or(*now);
        }
        if let Some(counters) = &reading.user {
            let last = self.user.as_ref().filter(|last| Arc::ptr_eq(&last.counters, counters));
            let came = sessions_since(counters, last.map(|last| last.seen));
            sum += if reading.kernel.is_some() { flows_alone(came) } else { came };
        }
        sum
    }

    /// The total as of this reading, without keeping it.
    fn with(&self, reading: &Reading) -> Amounts {
        let mut total = self.total;
        total += self.since(reading);
        total
    }
}

impl Books {
    /// What a database says, in place of what there was. Who spends whose quota stays.
    pub fn restore(&mut self, accounts: HashMap<RuleName, Account>, allowances: BTreeMap<Owner, Allowance>) {
        self.accounts = accounts;
        self.allowances.restore(allowances);
    }

    pub fn total(&self, name: &RuleName, reading: &Reading) -> Amounts {
        self.accounts
            .get(name)
            .map_or_else(|| Account::default().with(reading), |account| account.with(reading))
    }

    /// Everybody who ever had an account.
    pub fn accounts(&self) -> impl Iterator<Item = (&RuleName, &Amounts)> {
        self.accounts.iter().map(|(name, account)| (name, &account.total))
    }

    /// Where the kernel was last seen to count for rules that it does not count for any more.
    pub fn left(&self, current: &HashMap<RuleName, Reading>, scope: Scope) -> Vec<(RuleName, Source)> {
        let left = |(name, account): (&RuleName, &Account)| {
            scope.has(name, current).then_some(())?;
            let (source, _) = account.kernel.as_ref()?;
            let now = current.get(name).and_then(|reading| reading.kernel.as_ref());
            (now.map(|(now, _)| now) != Some(source)).then(|| (name.clone(), source.clone()))
        };
        self.accounts.iter().filter_map(left).collect()
    }

    /// The last that a source has counted for a rule. One that has gone back has counted for somebody else.
    pub fn close(&mut self, name: &RuleName, left: Left, minute: u64) {
        let last = match left {
            Left::At(last) => Some(last),
            Left::Reused => None,
            Left::Unseen => return,
        };
        let Some(account) = self.accounts.get_mut(name) else { return };
        let Some((_, before)) = account.kernel.take() else { return };
        let came = last.and_then(|last| last.since(&before)).unwrap_or_default();
        self.credit(name, came, minute);
        self.dirty.insert(name.clone());
    }

    /// Takes in rules' readings.
    pub fn observe(&mut self, current: &HashMap<RuleName, Reading>, scope: Scope, minute: u64) {
        for (name, sessions) in self.replaced(current, scope) {
            let came = sessions_since(&sessions.counters, Some(sessions.seen));
            self.credit(&name, if sessions.are_counted { flows_alone(came) } else { came }, minute);
            if let Some(account) = self.accounts.get_mut(&name) {
                account.user = None;
            }
        }
        for (name, reading) in current {
            let account = self.accounts.entry(name.clone()).or_default();
            let came = account.since(reading);
            if reading.kernel.is_some() && account.kernel != reading.kernel {
                account.kernel.clone_from(&reading.kernel);
                self.dirty.insert(name.clone());
            }
            account.user = reading.user.as_ref().map(|counters| Sessions {
                counters: counters.clone(),
                seen: payload(counters),
                are_counted: reading.kernel.is_some(),
            });
            self.credit(name, came, minute);
        }
    }

    /// Sessions of rules that have gone or were made anew: they may have carried more since.
    fn replaced(&self, current: &HashMap<RuleName, Reading>, scope: Scope) -> Vec<(RuleName, Sessions)> {
        let replaced = |(name, account): (&RuleName, &Account)| {
            scope.has(name, current).then_some(())?;
            let sessions = account.user.as_ref()?;
            let now = current.get(name).and_then(|reading| reading.user.as_ref());
            let is_same = now.is_some_and(|now| Arc::ptr_eq(now, &sessions.counters));
            (!is_same).then(|| (name.clone(), sessions.clone()))
        };
        self.accounts.iter().filter_map(replaced).collect()
    }

    fn credit(&mut self, name: &RuleName, came: Amounts, minute: u64) {
        if came.is_zero() {
            return;
        }
        if let Some(account) = self.accounts.get_mut(name) {
            account.total += came;
        }
        self.dirty.insert(name.clone());
        self.allowances.spend(name, &came);
        self.waiting.add(name, minute, came);
    }

    /// What is to be written; empty if nothing has changed.
    pub fn entries(&self) -> Entries {
        let accounts = self.dirty.iter().filter_map(|name| self.accounts.get_key_value(name));
        Entries {
            accounts: accounts.map(|(name, account)| (name.clone(), account.clone())).collect(),
            minutes: self.waiting.entries(),
            interfaces: Vec::new(),
            ports: PortEntries::default(),
            quotas: self.allowances.entries(),
        }
    }

    /// What [`Self::entries`] gave is in the database.
    pub fn written(&mut self, entries: &Entries) {
        for (name, account) in &entries.accounts {
            if self
                .accounts
                .get(name)
                .is_some_and(|now| now.total == account.total && now.kernel == account.kernel)
            {
                self.dirty.remove(name);
            }
        }
        self.allowances.written(&entries.quotas);
        self.waiting.written(&entries.minutes);
    }

    /// A new database knows nothing yet.
    pub fn forgotten(&mut self) {
        self.dirty.extend(self.accounts.keys().cloned());
        self.allowances.forgotten();
    }
}

impl Scope {
    /// Whether a rule's absence among the readings says something.
    fn has(self, name: &RuleName, current: &HashMap<RuleName, Reading>) -> bool {
        self == Self::All || current.contains_key(name)
    }
}

impl Entries {
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
            && self.minutes.is_empty()
            && self.interfaces.is_empty()
            && self.ports.is_empty()
            && self.quotas.is_empty()
    }
}

fn sessions_since(counters: &Counters, seen: Option<Amounts>) -> Amounts {
    let now = payload(counters);
    now.since(&seen.unwrap_or_default()).unwrap_or(now)
}

/// Where programs count packets, the payload is in theirs.
fn flows_alone(amounts: Amounts) -> Amounts {
    Amounts { flows: amounts.flows, ..Amounts::default() }
}

fn payload(counters: &Counters) -> Amounts {
    let [ingress, egress] = counters.payload();
    Amounts {
        ingress_bytes: ingress.bytes(),
        ingress_packets: ingress.packets(),
        egress_bytes: egress.bytes(),
        egress_packets: egress.packets(),
        flows: counters.total(),
    }
}

#[cfg(test)]
mod tests {
    use relay_common::net::Protocol;

    use super::*;
    use crate::accounting::waiting::MOST_WAITING;
    use crate::proxy::roster::Live;

    fn name(text: &str) -> RuleName {
        RuleName::parse(text).expect(text)
    }

    fn at(boot: &str, slot: u32, bytes: u64) -> (Source, Amounts) {
        let source = Source { boot: boot.into(), map: 7, slot };
        (source, Amounts { ingress_bytes: bytes, ..Amounts::default() })
    }

    fn current(kernel: (Source, Amounts)) -> HashMap<RuleName, Reading> {
        HashMap::from([(name("a"), Reading { kernel: Some(kernel), user: None })])
    }

    fn bytes(books: &Books) -> u64 {
        books.total(&name("a"), &Reading::default()).ingress_bytes
    }

    #[test]
    fn a_total_outlasts_its_counters() {
        let mut books = Books::default();
        for (kernel, total) in [
            (at("one", 1, 100), 100),
            (at("one", 1, 150), 150),
            (at("two", 1, 30), 180),
            // another slot, the same again with more, then counters that have gone back
            (at("two", 2, 5), 185),
            (at("two", 2, 15), 195),
            (at("two", 2, 10), 205),
        ] {
            books.observe(&current(kernel), Scope::All, 1);
            assert_eq!(bytes(&books), total);
        }
        let waiting: u64 = books.entries().minutes.iter().map(|(_, _, amounts)| amounts.ingress_bytes).sum();
        assert_eq!(waiting, 205, "the history is the total");
    }

    #[test]
    fn the_next_relayd_goes_on_where_the_last_has_read() {
        let account =
            Account::restored(Amounts { ingress_bytes: 1000, ..Amounts::default() }, Some(at("one", 1, 400)));
        let restored = |kernel| {
            let mut books = Books::default();
            books.restore(HashMap::from([(name("a"), account.clone())]), BTreeMap::new());
            books.observe(&current(kernel), Scope::All, 1);
            bytes(&books)
        };
        assert_eq!(restored(at("one", 1, 450)), 1050);
        assert_eq!(restored(at("two", 1, 450)), 1450, "after a reboot");
        assert_eq!(restored(at("one", 1, 3)), 1003, "after the slot was given to it anew");
    }

    #[test]
    fn what_a_rule_has_carried_at_the_end_counts() {
        let mut books = Books::default();
        books.observe(&current(at("one", 1, 100)), Scope::All, 1);
        let none = HashMap::new();
        assert_eq!(books.left(&none, Scope::All), [(name("a"), at("one", 1, 0).0)]);
        books.close(&name("a"), Left::At(at("one", 1, 120).1), 1);
        assert_eq!((bytes(&books), books.left(&none, Scope::All).len()), (120, 0));
        // the same name again, in the same slot, goes on
        books.observe(&current(at("one", 1, 5)), Scope::All, 2);
        assert_eq!(bytes(&books), 125);
        books.close(&name("a"), Left::At(at("one", 1, 2).1), 2);
        assert_eq!(bytes(&books), 125, "the slot is somebody else's");
    }

    #[test]
    fn counters_that_were_out_of_sight_go_on() {
        let mut books = Books::default();
        books.observe(&current(at("one", 1, 100)), Scope::All, 1);
        // a relayd without the kernel plane, and then one with it
        let none = HashMap::from([(name("a"), Reading::default())]);
        for (name, _) in books.left(&none, Scope::All) {
            books.close(&name, Left::Unseen, 1);
        }
        books.observe(&none, Scope::All, 1);
        books.observe(&current(at("one", 1, 130)), Scope::All, 2);
        assert_eq!(bytes(&books), 130);
    }

    #[test]
    fn a_clock_that_jumps_neither_loses_nor_counts_twice() {
        let mut books = Books::default();
        let mut seen = HashMap::<u64, u64>::new();
        for (step, minute) in (1_u64..).zip([100, 101, 5_000_000, 102, 3, 3, 101, 0, 5_000_000]) {
            books.observe(&current(at("one", 1, step * step)), Scope::All, minute);
            let entries = books.entries();
            for (_, minute, amounts) in &entries.minutes {
                *seen.entry(*minute).or_default() += amounts.ingress_bytes;
            }
            books.written(&entries);
            assert_eq!((bytes(&books), seen.values().sum::<u64>()), (step * step, step * step));
        }
    }

    #[test]
    fn payload_counts_where_no_program_does() {
        let counters = Arc::new(Counters::default());
        let user = |kernel| HashMap::from([(name("a"), Reading { kernel, user: Some(counters.clone()) })]);
        let mut books = Books::default();
        counters.ingress.add_bytes(100);
        books.observe(&user(Some(at("one", 1, 140))), Scope::All, 1);
        assert_eq!(bytes(&books), 140);
        counters.ingress.add_bytes(10);
        books.observe(&user(None), Scope::All, 1);
        assert_eq!(bytes(&books), 150, "only what came since");
        drop(counters.begin(Live::new(Protocol::Tcp, ([198, 51, 100, 7], 1).into(), None)));
        counters.ingress.add_bytes(7);
        books.close(&name("a"), Left::Reused, 1);
        books.observe(&HashMap::new(), Scope::All, 1);
        let total = books.total(&name("a"), &Reading::default());
        assert_eq!((total.ingress_bytes, total.flows), (157, 1), "and what came last");
    }

    #[test]
    fn nothing_is_lost_while_the_database_cannot_be_written() {
        let mut books = Books::default();
        for minute in 0..200 {
            books.observe(&current(at("one", 1, minute + 1)), Scope::All, minute);
        }
        let entries = books.entries();
        assert_eq!(entries.minutes.len(), MOST_WAITING);
        assert_eq!(entries.minutes.iter().map(|(_, _, amounts)| amounts.ingress_bytes).sum::<u64>(), 200);
        // what comes while it is written is written next
        books.observe(&current(at("one", 1, 203)), Scope::All, 199);
        books.written(&entries);
        let rest = books.entries();
        assert_eq!(rest.minutes, [(name("a"), 199, Amounts { ingress_bytes: 3, ..Amounts::default() })]);
        assert_eq!(rest.accounts.len(), 1);
        books.written(&rest);
        assert!(books.entries().is_empty());
    }
}
