//! What rules and groups have carried of their quotas: since when, how much, and what was told of it. Pure; time is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::amounts::Amounts;
use crate::rule::quota::{Over, Period};
use crate::rule::{GroupName, Quota, RuleName};

/// Whose quota or end it is.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Owner {
    Rule(RuleName),
    Group(GroupName),
}

impl Owner {
    /// As it is called in tables and in the API.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Rule(_) => "rule",
            Self::Group(_) => "group",
        }
    }

    pub const fn name(&self) -> &RuleName {
        match self {
            Self::Rule(name) | Self::Group(name) => name,
        }
    }

    pub fn new(kind: &str, name: RuleName) -> Option<Self> {
        match kind {
            "rule" => Some(Self::Rule(name)),
            "group" => Some(Self::Group(name)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// Bytes of both directions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Spent {
    pub ingress: u64,
    pub egress: u64,
}

impl Spent {
    const fn plus(self, other: Self) -> Self {
        Self {
            ingress: self.ingress.saturating_add(other.ingress),
            egress: self.egress.saturating_add(other.egress),
        }
    }
}

/// One owner's use of the period under way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Allowance {
    /// When the period began, in seconds since 1970.
    pub start: u64,
    pub spent: Spent,
    /// The period before, with its start: a clock that was wrong for a while finds it again.
    pub before: Option<(u64, Spent)>,
    /// The highest step of the quota that was told of in this period, in per cent.
    pub told: u8,
    /// The end that was last warned of, and how many days before.
    pub expiry_told: Option<(u64, u64)>,
}

/// A period that has ended, for ever.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Closing {
    pub owner: Owner,
    /// When, in seconds since 1970.
    pub at: u64,
    pub start: u64,
    pub spent: Spent,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// The next period has begun.
    Period,
    /// Somebody has ordered it.
    Manual,
}

impl Why {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Period => "period",
            Self::Manual => "manual",
        }
    }
}

/// How far a quota is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    pub used: u64,
    pub period: Period,
}

impl Standing {
    pub const fn is_used_up(&self, quota: &Quota) -> bool {
        self.used >= quota.limit
    }

    /// Whether nothing may pass until the next period.
    pub fn blocks(&self, quota: &Quota) -> bool {
        self.is_used_up(quota) && quota.over == Over::Block
    }

    /// Whole per cent of the limit.
    pub fn percent(&self, quota: &Quota) -> u64 {
        u64::try_from(u128::from(self.used) * 100 / u128::from(quota.limit.max(1))).unwrap_or(u64::MAX)
    }
}

/// All of them, and what the database does not know yet.
#[derive(Debug, Default)]
pub struct Allowances {
    known: BTreeMap<Owner, Allowance>,
    dirty: BTreeSet<Owner>,
    closings: Vec<Closing>,
    /// Whose quotas a rule spends.
    spenders: HashMap<RuleName, Vec<Owner>>,
}

/// What is to be written of them.
#[derive(Debug, Default, PartialEq)]
pub struct AllowanceEntries {
    pub allowances: Vec<(Owner, Allowance)>,
    pub closings: Vec<Closing>,
}

impl Allowances {
    pub fn restored(known: BTreeMap<Owner, Allowance>) -> Self {
        Self { known, ..Self::default() }
    }

    /// The same, for the rules that there were.
    pub fn restore(&mut self, known: BTreeMap<Owner, Allowance>) {
        self.known = known;
    }

    /// What rules carry from now on is spent of these.
    pub fn follow(&mut self, spenders: HashMap<RuleName, Vec<Owner>>) {
        self.spenders = spenders;
    }

    /// A rule has carried something.
    pub(super) fn spend(&mut self, rule: &RuleName, came: &Amounts) {
        let spent = Spent { ingress: came.ingress_bytes, egress: came.egress_bytes };
        if spent == Spent::default() {
            return;
        }
        for owner in self.spenders.get(rule).into_iter().flatten() {
            let allowance = self.known.entry(owner.clone()).or_default();
            allowance.spent = allowance.spent.plus(spent);
            self.dirty.insert(owner.clone());
        }
    }

    pub fn get(&self, owner: &Owner) -> Allowance {
        self.known.get(owner).copied().unwrap_or_default()
    }

    /// How far a quota is used, as it was last read.
    pub fn standing(&self, owner: &Owner, quota: &Quota, now: u64) -> Standing {
        let Spent { ingress, egress } = self.get(owner).spent;
        Standing { used: quota.counted(ingress, egress), period: quota.period(now) }
    }

    /// Begins the period that it is now. Returns whether one has ended.
    pub fn roll(&mut self, owner: &Owner, quota: &Quota, now: u64) -> bool {
        let period = quota.period(now);
        let mut allowance = self.get(owner);
        if allowance.start == period.start && self.known.contains_key(owner) {
            return false;
        }
        // one that is new, or whose periods began otherwise before
        let mut has_ended = false;
        match allowance.before {
            Some((start, spent)) if start == period.start => {
                allowance.spent = allowance.spent.plus(spent);
                allowance.before = None;
            }
            _ if period.start > allowance.start && allowance.start != 0 => {
                has_ended = true;
                self.closings.push(Closing {
                    owner: owner.clone(),
                    at: now,
                    start: allowance.start,
                    spent: allowance.spent,
                    why: Why::Period,
                });
                allowance.before = Some((allowance.start, allowance.spent));
                (allowance.spent, allowance.told) = (Spent::default(), 0);
            }
            _ => {}
        }
        allowance.start = period.start;
        self.put(owner, allowance);
        has_ended
    }

    /// Begins with nothing spent, in the same period.
    pub fn reset(&mut self, owner: &Owner, now: u64) {
        let allowance = self.get(owner);
        self.closings.push(Closing {
            owner: owner.clone(),
            at: now,
            start: allowance.start,
            spent: allowance.spent,
            why: Why::Manual,
        });
        self.put(owner, Allowance { spent: Spent::default(), told: 0, ..allowance });
    }

    /// The step of a quota that is to be told of now; `None`: all that is reached has been told.
    pub fn step(&mut self, owner: &Owner, quota: &Quota, standing: &Standing) -> Option<u8> {
        let percent = u8::try_from(standing.percent(quota).min(100)).unwrap_or(100);
        let reached =
            quota.warn.iter().chain(&[100]).filter(|step| **step <= percent).max().copied().unwrap_or(0);
        let allowance = self.get(owner);
        if reached == allowance.told {
            return None;
        }
        // it falls with a larger limit, which is nothing to tell
        self.put(owner, Allowance { told: reached, ..allowance });
        (reached > allowance.told).then_some(reached)
    }

    /// Whether a warning of an end is to be told: it has not been, or another end was.
    pub fn warns(&mut self, owner: &Owner, end: u64, days: u64) -> bool {
        let allowance = self.get(owner);
        let was_told = allowance.expiry_told.is_some_and(|(told, before)| told == end && before <= days);
        if !was_told {
            self.put(owner, Allowance { expiry_told: Some((end, days)), ..allowance });
        }
        !was_told
    }

    fn put(&mut self, owner: &Owner, allowance: Allowance) {
        self.known.insert(owner.clone(), allowance);
        self.dirty.insert(owner.clone());
    }

    /// Periods of an owner's that have ended and are not written yet, the latest last.
    pub fn closings<'a>(&'a self, owner: &'a Owner) -> impl DoubleEndedIterator<Item = &'a Closing> {
        self.closings.iter().filter(move |closing| closing.owner == *owner)
    }

    pub(super) fn entries(&self) -> AllowanceEntries {
        let allowances = self.dirty.iter().map(|owner| (owner.clone(), self.get(owner)));
        AllowanceEntries { allowances: allowances.collect(), closings: self.closings.clone() }
    }

    pub(super) fn written(&mut self, entries: &AllowanceEntries) {
        for (owner, allowance) in &entries.allowances {
            if self.get(owner) == *allowance {
                self.dirty.remove(owner);
            }
        }
        self.closings.drain(..entries.closings.len().min(self.closings.len()));
    }

    /// A new database knows nothing yet.
    pub(super) fn forgotten(&mut self) {
        self.dirty.extend(self.known.keys().cloned());
    }
}

impl AllowanceEntries {
    pub const fn is_empty(&self) -> bool {
        self.allowances.is_empty() && self.closings.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::quota::{Counted, Reset, Zone};

    const DAY: u64 = 86_400;
    /// 2026-11-01, and 2026-12-01.
    const NOVEMBER: u64 = 1_793_491_200;
    const DECEMBER: u64 = NOVEMBER + 30 * DAY;

    fn owner() -> Owner {
        Owner::Rule(RuleName::parse("a").expect("a name"))
    }

    fn monthly(limit: u64) -> Quota {
        Quota {
            limit,
            count: Counted::Both,
            reset: Reset::Monthly(1),
            zone: Zone::parse("UTC").expect("a zone"),
            over: Over::Block,
            warn: Quota::USUAL_WARN.into(),
        }
    }

    fn spending() -> Allowances {
        let mut allowances = Allowances::default();
        let Owner::Rule(name) = owner() else { unreachable!("a rule's") };
        allowances.follow(HashMap::from([(name, vec![owner()])]));
        allowances
    }

    fn spend(allowances: &mut Allowances, bytes: u64) {
        let came = Amounts { ingress_bytes: bytes, egress_bytes: 1, ..Amounts::default() };
        allowances.spend(owner().name(), &came);
    }

    fn used(allowances: &Allowances, quota: &Quota, now: u64) -> u64 {
        allowances.standing(&owner(), quota, now).used
    }

    #[test]
    fn a_period_ends_and_is_remembered() {
        let (mut allowances, quota) = (spending(), monthly(1000));
        assert!(!allowances.roll(&owner(), &quota, NOVEMBER + DAY), "it begins");
        spend(&mut allowances, 99);
        assert!(!allowances.roll(&owner(), &quota, DECEMBER - 1));
        assert_eq!(used(&allowances, &quota, DECEMBER - 1), 100);
        assert!(allowances.roll(&owner(), &quota, DECEMBER));
        assert_eq!(used(&allowances, &quota, DECEMBER), 0);
        let closing = Closing {
            owner: owner(),
            at: DECEMBER,
            start: NOVEMBER,
            spent: Spent { ingress: 99, egress: 1 },
            why: Why::Period,
        };
        assert_eq!(allowances.entries().closings, [closing]);
    }

    #[test]
    fn a_clock_that_was_wrong_takes_and_gives_nothing() {
        let (mut allowances, quota) = (spending(), monthly(1000));
        allowances.roll(&owner(), &quota, NOVEMBER);
        spend(&mut allowances, 99);
        assert!(allowances.roll(&owner(), &quota, DECEMBER + 90 * DAY), "far ahead");
        spend(&mut allowances, 9);
        assert!(!allowances.roll(&owner(), &quota, NOVEMBER + DAY), "and back");
        assert_eq!(used(&allowances, &quota, NOVEMBER + DAY), 110);
        assert!(!allowances.roll(&owner(), &quota, NOVEMBER - 60 * DAY), "far back");
        assert_eq!(used(&allowances, &quota, NOVEMBER), 110);
    }

    #[test]
    fn steps_are_told_once_each() {
        let (mut allowances, quota) = (spending(), monthly(1000));
        allowances.roll(&owner(), &quota, NOVEMBER);
        let step = |allowances: &mut Allowances, bytes, quota: &Quota| {
            spend(allowances, bytes);
            let standing = allowances.standing(&owner(), quota, NOVEMBER);
            allowances.step(&owner(), quota, &standing)
        };
        assert_eq!(step(&mut allowances, 700, &quota), None);
        assert_eq!(step(&mut allowances, 250, &quota), Some(90), "the highest alone");
        assert_eq!(step(&mut allowances, 0, &quota), None);
        assert_eq!(step(&mut allowances, 100, &quota), Some(100));
        assert_eq!(step(&mut allowances, 5000, &quota), None);
        assert_eq!(step(&mut allowances, 0, &monthly(100_000)), None, "there is more");
        assert_eq!(step(&mut allowances, 80_000, &monthly(100_000)), Some(80));
        allowances.reset(&owner(), NOVEMBER);
        assert_eq!(step(&mut allowances, 95_000, &monthly(100_000)), Some(90));
    }

    #[test]
    fn ends_are_warned_of_once_for_each_step() {
        let mut allowances = spending();
        assert!(allowances.warns(&owner(), DECEMBER, 7));
        assert!(!allowances.warns(&owner(), DECEMBER, 7));
        assert!(allowances.warns(&owner(), DECEMBER, 3));
        assert!(!allowances.warns(&owner(), DECEMBER, 7), "a clock that went back");
        assert!(allowances.warns(&owner(), DECEMBER + DAY, 3), "another end");
    }

    #[test]
    fn what_is_written_is_not_written_again() {
        let (mut allowances, quota) = (spending(), monthly(1000));
        allowances.roll(&owner(), &quota, NOVEMBER);
        allowances.reset(&owner(), NOVEMBER);
        let entries = allowances.entries();
        spend(&mut allowances, 1);
        allowances.written(&entries);
        let rest = allowances.entries();
        assert_eq!((rest.allowances.len(), rest.closings.len()), (1, 0), "what came meanwhile");
        allowances.written(&rest);
        assert!(allowances.entries().is_empty());
        allowances.forgotten();
        assert_eq!(allowances.entries().allowances.len(), 1);
    }
}
