//! Quotas and ends: what rules and groups have left of them, kept every second. Programs count and block by themselves; this
//! tells them what is left by the books, ends what is over, and begins what is new.

mod showing;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use relay_common::meter::Closed;

pub use self::showing::expiry_view;
use super::shared::Shared;
use super::state::{Rules, State};
use crate::accounting::allowances::{Owner, Spent, Standing};
use crate::accounting::calendar;
use crate::api::problem::{ApiProblem, Code};
use crate::config::quantity::format_size;
use crate::kernel::meters::{DesiredTerms, MeterPlace};
use crate::plan::PlannedRule;
use crate::rule::quota::{Counted, Over};
use crate::rule::{Expiry, Group, GroupName, Groups, Quota, Rule, RuleName};

/// By how many bytes programs and books may differ: they are read one after the other, while packets pass.
const APART: u64 = 256 * 1024;
/// More than any quota: what is left of a direction that does not count.
const PLENTY: i64 = 1 << 62;

/// Who has a quota or an end, and what that is.
#[derive(Clone, Debug)]
struct Metered {
    quota: Option<Quota>,
    expires: Option<Expiry>,
    /// The rules that spend it.
    spenders: Vec<RuleName>,
}

/// All of these.
#[derive(Debug, Default)]
pub struct Metering(BTreeMap<Owner, Metered>);

/// Why rules are closed, of those that are.
pub type ClosedRules = HashMap<RuleName, Closed>;

impl Metering {
    fn of<'a>(rules: impl Iterator<Item = &'a Rule>, groups: &Groups) -> Self {
        let mut known = BTreeMap::new();
        let metered = |quota: Option<&Quota>, expires: Option<&Expiry>| Metered {
            quota: quota.cloned(),
            expires: expires.cloned(),
            spenders: Vec::new(),
        };
        for (name, group) in &**groups {
            if group.quota.is_some() || group.expires.is_some() {
                let metered = metered(group.quota.as_deref(), group.expires.as_deref());
                known.insert(Owner::Group(name.clone()), metered);
            }
        }
        for rule in rules {
            if rule.quota.is_some() || rule.expires.is_some() {
                let mut metered = metered(rule.quota.as_deref(), rule.expires.as_deref());
                metered.spenders.push(rule.name.clone());
                known.insert(Owner::Rule(rule.name.clone()), metered);
            }
            let group = rule.group.clone().map(Owner::Group);
            if let Some(metered) = group.and_then(|group| known.get_mut(&group)) {
                metered.spenders.push(rule.name.clone());
            }
        }
        Self(known)
    }

    /// Whose quotas rules spend.
    fn spenders(&self) -> HashMap<RuleName, Vec<Owner>> {
        let mut spenders = HashMap::<RuleName, Vec<Owner>>::new();
        for (owner, metered) in self.0.iter().filter(|(_, metered)| metered.quota.is_some()) {
            for name in &metered.spenders {
                spenders.entry(name.clone()).or_default().push(owner.clone());
            }
        }
        spenders
    }
}

/// Whether a quota or end closes who has it.
fn closes(
    shared: &Shared,
    owner: &Owner,
    quota: Option<&Quota>,
    expires: Option<&Expiry>,
    now: u64,
) -> Option<Closed> {
    if expires.is_some_and(|expiry| expiry.is_over(now)) {
        return Some(Closed::Expired);
    }
    let quota = quota.filter(|quota| quota.over == Over::Block)?;
    let standing = shared.ledgers.with(|books| books.allowances.standing(owner, quota, now));
    standing.blocks(quota).then_some(Closed::Quota)
}

/// Why a group is closed, if it is.
fn group_closes(shared: &Shared, name: &GroupName, group: &Group, now: u64) -> Option<Closed> {
    let owner = Owner::Group(name.clone());
    closes(shared, &owner, group.quota.as_deref(), group.expires.as_deref(), now)
}

/// Why rules are closed by their own terms or by their group's.
pub fn closed_rules(shared: &Shared, rules: &Rules, groups: &Groups) -> ClosedRules {
    let now = calendar::now();
    let by_group: HashMap<&GroupName, Closed> = groups
        .iter()
        .filter_map(|(name, group)| Some((name, group_closes(shared, name, group, now)?)))
        .collect();
    let closed = |rule: &Rule| {
        let own = if rule.quota.is_some() || rule.expires.is_some() {
            let owner = Owner::Rule(rule.name.clone());
            closes(shared, &owner, rule.quota.as_deref(), rule.expires.as_deref(), now)
        } else {
            None
        };
        own.or_else(|| by_group.get(rule.group.as_ref()?).copied())
    };
    rules.iter().filter_map(|(rule, _)| Some((rule.name.clone(), closed(rule)?))).collect()
}

/// What the programs are to ask of groups' packets.
pub fn group_terms(shared: &Shared, groups: &Groups) -> BTreeMap<GroupName, DesiredTerms> {
    let now = calendar::now();
    let terms = |(name, group): (&GroupName, &Group)| {
        let closed = group_closes(shared, name, group, now);
        (name.clone(), DesiredTerms::new(group.rates, group.quota.as_deref(), closed))
    };
    groups.iter().map(terms).collect()
}

/// What is left of a quota as meters have it.
fn remaining(quota: &Quota, spent: Spent) -> [i64; 2] {
    let left = |bytes: u64| {
        let signed = |number: u64| i64::try_from(number).unwrap_or(PLENTY).min(PLENTY);
        signed(quota.limit) - signed(bytes)
    };
    match quota.count {
        Counted::Max => [left(spent.ingress), left(spent.egress)],
        Counted::In | Counted::Out | Counted::Both => {
            [left(quota.counted(spent.ingress, spent.egress)), PLENTY]
        }
    }
}

/// Brings what a meter says is left to what the books say. `said`: what it said before they were written; what has passed since may be
/// in them or not, so anything between then and now is right.
fn settle(meter: &MeterPlace, quota: &Quota, spent: Spent, said: [i64; 2]) {
    let Some(meter) = meter.meter() else { return };
    let (wanted, says) = (remaining(quota, spent), meter.remaining());
    let mut by = [0; 2];
    for (index, by) in by.iter_mut().enumerate() {
        *by = correction(wanted[index], said[index], says[index]);
    }
    if by != [0; 2] {
        meter.adjust(by);
    }
}

/// What a meter that said this before, and says that now, is to be changed by. Small differences are what passes in a moment, unless
/// they decide.
fn correction(wanted: i64, before: i64, now: i64) -> i64 {
    let nearest = wanted.clamp(now.min(before), before.max(now));
    let by = wanted.saturating_sub(nearest);
    let decides = (wanted <= 0) != (nearest <= 0);
    if by.unsigned_abs() > APART || decides { by } else { 0 }
}

impl State {
    /// Follows rules and groups that are in place now.
    pub(super) fn follow_terms(&mut self, planned: &[Arc<PlannedRule>]) {
        self.metering = Metering::of(planned.iter().map(|planned| &*planned.rule), &self.groups);
        let spenders = self.metering.spenders();
        self.shared.ledgers.with(|books| books.allowances.follow(spenders));
        self.settle_quotas();
    }

    /// Reads what quotas have been spent, begins periods, tells the programs what is left.
    fn settle_quotas(&self) {
        if self.metering.0.is_empty() || self.shared.ledgers.folder().is_none() {
            return;
        }
        let now = calendar::now();
        let quotas = self.metering.0.iter().filter_map(|(owner, metered)| {
            let quota = metered.quota.as_ref()?;
            let meter = self.meter_of(owner);
            let said = meter.as_ref().and_then(MeterPlace::meter).map(relay_common::meter::Meter::remaining);
            Some((owner, quota, meter, said))
        });
        // what is left is read first: what passes after that is in the books at most
        let quotas: Vec<_> = quotas.collect();
        self.shared.take_some_readings(self.metering.0.values().flat_map(|metered| &metered.spenders));
        for (owner, quota, meter, said) in quotas {
            let (has_ended, spent) = self.shared.ledgers.with(|books| {
                let has_ended = books.allowances.roll(owner, quota, now);
                (has_ended, books.allowances.get(owner).spent)
            });
            if let (Some(meter), Some(said)) = (meter, said) {
                settle(&meter, quota, spent, said);
            }
            if has_ended {
                self.tell_of(owner, "quota.reset", "a new period of its quota has begun".into());
            }
        }
    }

    fn meter_of(&self, owner: &Owner) -> Option<MeterPlace> {
        let kernel = self.kernel.as_ref().ok()?;
        match owner {
            Owner::Rule(name) => kernel.meter_of_rule(name),
            Owner::Group(name) => kernel.meter_of_group(name),
        }
    }

    /// Every second: what is used up or over ends, what has begun anew is carried again, and who wants to know is told.
    pub fn keep_terms(&mut self) {
        if self.metering.0.is_empty() || self.down {
            return;
        }
        self.settle_quotas();
        self.tell_steps();
        let closed = closed_rules(&self.shared, &self.rules, &self.groups);
        if self.planned.iter().any(|planned| planned.closed != closed.get(&planned.rule.name).copied()) {
            self.replan_closed();
        }
    }

    /// Plans rules that have closed or opened, and no others.
    fn replan_closed(&mut self) {
        let planned = self.plan(&self.rules, &self.draining, false);
        let opened: Vec<_> = (self.planned.iter().zip(&planned))
            .filter(|(before, after)| before.closed != after.closed)
            .map(|(_, after)| after.clone())
            .collect();
        match self.apply(&planned) {
            Ok(desired) => {
                self.planned = planned;
                self.desired = desired;
            }
            Err(error) => return tracing::error!("quotas and ends are not kept: {error}"),
        }
        for planned in opened {
            let (name, state) = (&planned.rule.name, planned.state().as_str());
            let text = match planned.closed {
                Some(closed) => {
                    format!("rule {name} is {state} now: {}", self.why_closed(&planned.rule, closed))
                }
                None => format!("rule {name} is {state} again"),
            };
            tracing::info!(RULE = name.as_str(), "{text}");
            self.shared.tell("rule.state", Some(name), text);
        }
        self.publish();
    }

    fn why_closed(&self, rule: &Rule, closed: Closed) -> String {
        let group = rule.group.as_ref().and_then(|name| Some((name, self.groups.get(name)?)));
        let now = calendar::now();
        let by_group = group.filter(|(name, group)| group_closes(&self.shared, name, group, now).is_some());
        let whose = by_group.map_or_else(|| "its".to_owned(), |(name, _)| format!("group {name}'s"));
        match closed {
            Closed::Quota => format!("{whose} quota is used up"),
            Closed::Expired => format!("{whose} time is over"),
        }
    }

    /// Steps of quotas that have been reached, and ends that are near.
    fn tell_steps(&self) {
        if self.shared.ledgers.folder().is_none() {
            return;
        }
        let now = calendar::now();
        for (owner, metered) in &self.metering.0 {
            if let Some(quota) = &metered.quota {
                let (step, standing) = self.shared.ledgers.with(|books| {
                    let standing = books.allowances.standing(owner, quota, now);
                    (books.allowances.step(owner, quota, &standing), standing)
                });
                if let Some(step) = step {
                    self.tell_step(owner, quota, step, &standing);
                }
            }
            if let Some(expiry) = &metered.expires {
                self.tell_end(owner, expiry, now);
            }
        }
    }

    fn tell_step(&self, owner: &Owner, quota: &Quota, step: u8, standing: &Standing) {
        let limit = format_size(quota.limit);
        let next =
            standing.period.end.map(|end| format!("; the next period begins {}", quota.zone.shown(end)));
        let next = next.unwrap_or_default();
        if step < 100 {
            let text = format!("{step} % of its quota of {limit} are used ({} bytes){next}", standing.used);
            return self.tell_of(owner, "quota.warning", text);
        }
        let what = match quota.over {
            Over::Block => "it is blocked".into(),
            Over::Throttle(_) => quota.over.to_string().replace("throttle:", "it is throttled to "),
        };
        self.tell_of(owner, "quota.exceeded", format!("its quota of {limit} is used up, {what}{next}"));
    }

    fn tell_end(&self, owner: &Owner, expiry: &Expiry, now: u64) {
        let warns = |days| self.shared.ledgers.with(|books| books.allowances.warns(owner, expiry.at, days));
        if expiry.is_over(now) {
            if warns(0) {
                self.tell_of(owner, "expiry.over", format!("it has ended ({expiry})"));
            }
        } else if let Some(days) = expiry.warning(now)
            && warns(days)
        {
            let plural = if days == 1 { "day" } else { "days" };
            self.tell_of(owner, "expiry.soon", format!("it ends within {days} {plural} ({expiry})"));
        }
    }

    fn tell_of(&self, owner: &Owner, kind: &str, text: String) {
        let text = format!("{owner}: {text}");
        tracing::info!("{text}");
        let rule = match owner {
            Owner::Rule(name) => Some(name),
            Owner::Group(_) => None,
        };
        self.shared.tell(kind, rule, text);
    }

    /// Somebody wants a quota to begin anew.
    pub fn reset_quota(&mut self, owner: &Owner, dry_run: bool) -> Result<(), ApiProblem> {
        let has_quota = self.metering.0.get(owner).is_some_and(|metered| metered.quota.is_some());
        if !has_quota {
            let known = match owner {
                Owner::Rule(name) => self.rules.iter().any(|(rule, _)| rule.name == *name),
                Owner::Group(name) => self.groups.contains_key(name),
            };
            let (code, text) = if known {
                (Code::NotPossible, format!("{owner} has no quota"))
            } else {
                (Code::NotFound, format!("there is no {owner}"))
            };
            return Err(ApiProblem::new(code, text));
        }
        if self.shared.ledgers.folder().is_none() {
            let text =
                "what has been carried is not known, since the database cannot be read; the log says why";
            return Err(ApiProblem::new(Code::NotPossible, text));
        }
        if dry_run {
            return Ok(());
        }
        self.settle_quotas();
        self.shared.ledgers.with(|books| books.allowances.reset(owner, calendar::now()));
        self.tell_of(owner, "quota.reset", "its quota begins anew, as somebody has ordered".into());
        self.keep_terms();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::quota::{Reset, Zone};

    #[test]
    fn what_passes_while_the_books_are_written_is_not_taken_off_twice() {
        let apart = APART.cast_signed();
        // quiet: the books are right
        assert_eq!(correction(500 + 2 * apart, 500, 500), 2 * apart);
        assert_eq!(correction(500, 500 + 2 * apart, 500 + 2 * apart), -2 * apart);
        assert_eq!(correction(500, 501, 501), 0);
        assert_eq!([correction(0, 1, 1), correction(1, 0, 0)], [-1, 1], "it decides");
        // 90 MB have passed meanwhile, and the books have seen 40 of them
        let (before, now) = (100_000_000, 10_000_000);
        assert_eq!(correction(60_000_000, before, now), 0);
        // they know of less than the meter had before, or of more than it has now
        assert_eq!(correction(before + 2 * apart, before, now), 2 * apart);
        assert_eq!(correction(now - 2 * apart, before, now), -2 * apart);
    }

    #[test]
    fn what_is_left_is_what_counts() {
        let quota = |count| Quota {
            limit: 1000,
            count,
            reset: Reset::Never,
            zone: Zone::default(),
            over: Over::Block,
            warn: Box::default(),
        };
        let left = |count| remaining(&quota(count), Spent { ingress: 300, egress: 1100 });
        assert_eq!(left(Counted::In), [700, PLENTY]);
        assert_eq!(left(Counted::Out), [-100, PLENTY]);
        assert_eq!(left(Counted::Both), [-400, PLENTY]);
        assert_eq!(left(Counted::Max), [700, -100]);
    }
}
