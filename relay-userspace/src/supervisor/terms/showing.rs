//! Quotas and ends as readers see them.

use std::collections::BTreeMap;

use crate::accounting::allowances::Owner;
use crate::accounting::calendar;
use crate::accounting::store::{Store, StoreError};
use crate::api::problem::{ApiProblem, Code};
use crate::api::view::{ExpiryView, LedgerView, QuotaView, TermsView};
use crate::config::quantity::format_rate;
use crate::rule::quota::Over;
use crate::rule::{Expiry, Group, GroupName, Quota, Rule};
use crate::supervisor::shared::{Shared, Snapshot};

/// Periods of the past that are shown.
const MOST_PAST: u32 = 100;

impl Shared {
    /// A quota, as it stood when counters were last read.
    pub fn quota_view(&self, owner: &Owner, quota: &Quota) -> QuotaView {
        let now = calendar::now();
        let standing = self.ledgers.with(|books| books.allowances.standing(owner, quota, now));
        let state = match quota.over {
            _ if !standing.is_used_up(quota) => "open",
            Over::Block => "blocked",
            Over::Throttle(_) => "throttled",
        };
        QuotaView {
            limit_bytes: quota.limit,
            used_bytes: standing.used,
            remaining_bytes: quota.limit.saturating_sub(standing.used),
            percent: standing.percent(quota),
            count: quota.count.as_str().into(),
            over: quota.over.to_string(),
            reset: quota.reset.to_string(),
            tz: quota.zone.name().map(ToOwned::to_owned),
            state: state.into(),
            since: Some(standing.period.start).filter(|start| *start != 0),
            until: standing.period.end,
            until_text: standing.period.end.map(|end| quota.zone.shown(end)),
        }
    }

    /// All rules and groups with quotas or ends, and groups with rates; counters are read before.
    pub fn all_terms(&self) -> Vec<TermsView> {
        let snapshot = self.snapshot();
        self.take_readings();
        let groups = snapshot.groups.iter().map(|(name, group)| self.terms_of_group(&snapshot, name, group));
        let rules = snapshot.rules.iter().map(|planned| &planned.rule);
        let rules = rules.filter(|rule| rule.quota.is_some() || rule.expires.is_some());
        groups.chain(rules.map(|rule| self.terms_of_rule(rule))).collect()
    }

    /// One of them, with what its periods have been.
    ///
    /// # Errors
    ///
    /// There is none, or its past cannot be read.
    pub fn terms_of(&self, owner: &Owner) -> Result<TermsView, ApiProblem> {
        let snapshot = self.snapshot();
        self.take_readings();
        let known = match owner {
            Owner::Group(name) => {
                snapshot.groups.get(name).map(|group| self.terms_of_group(&snapshot, name, group))
            }
            Owner::Rule(name) => {
                let planned = snapshot.by_name.get(name).and_then(|&index| snapshot.rules.get(index));
                planned.map(|planned| self.terms_of_rule(&planned.rule))
            }
        };
        let no_such = || {
            let code = if owner.kind() == "rule" { Code::RuleNotFound } else { Code::NotFound };
            ApiProblem::new(code, format!("there is no {} \"{}\"", owner.kind(), owner.name()))
        };
        let mut view = known.ok_or_else(no_such)?;
        view.ledger = self.past_periods(owner).map_err(|error| {
            ApiProblem::new(Code::NotPossible, format!("its past cannot be read: {error}"))
        })?;
        Ok(view)
    }

    /// What is not written yet comes first.
    fn past_periods(&self, owner: &Owner) -> Result<Vec<LedgerView>, StoreError> {
        let mut rows: Vec<LedgerView> = self.ledgers.with(|books| {
            let waiting = books.allowances.closings(owner).rev();
            let row = |closing: &crate::accounting::allowances::Closing| LedgerView {
                at: closing.at,
                since: closing.start,
                ingress_bytes: closing.spent.ingress,
                egress_bytes: closing.spent.egress,
                why: closing.why.as_str().into(),
            };
            waiting.map(row).collect()
        });
        let Some(folder) = self.ledgers.folder() else { return Ok(rows) };
        let written = Store::read(folder)?.ledger(owner, MOST_PAST)?;
        rows.extend(written.into_iter().map(|row| LedgerView {
            at: row.at,
            since: row.start,
            ingress_bytes: row.spent.ingress,
            egress_bytes: row.spent.egress,
            why: row.why,
        }));
        Ok(rows)
    }

    fn terms_of_rule(&self, rule: &Rule) -> TermsView {
        let owner = Owner::Rule(rule.name.clone());
        TermsView {
            kind: owner.kind().into(),
            name: rule.name.to_string(),
            quota: rule.quota.as_ref().map(|quota| self.quota_view(&owner, quota)),
            expires: rule.expires.as_deref().map(expiry_view),
            ..TermsView::default()
        }
    }

    fn terms_of_group(&self, snapshot: &Snapshot, name: &GroupName, group: &Group) -> TermsView {
        let owner = Owner::Group(name.clone());
        let members = snapshot.rules.iter().map(|planned| &planned.rule);
        let members = members.filter(|rule| rule.group.as_ref() == Some(name));
        let rate: BTreeMap<String, String> =
            group.rates.set().map(|(way, rate)| (way.to_owned(), format_rate(rate))).collect();
        TermsView {
            kind: owner.kind().into(),
            name: name.to_string(),
            rules: members.map(|rule| rule.name.to_string()).collect(),
            rate,
            quota: group.quota.as_ref().map(|quota| self.quota_view(&owner, quota)),
            expires: group.expires.as_deref().map(expiry_view),
            ledger: Vec::new(),
        }
    }
}

pub fn expiry_view(expiry: &Expiry) -> ExpiryView {
    ExpiryView { at: expiry.to_string(), time: expiry.at, is_over: expiry.is_over(calendar::now()) }
}
