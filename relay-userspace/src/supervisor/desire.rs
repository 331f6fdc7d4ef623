//! From a plan to what the kernel plane should be doing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::facts::FactBook;
use crate::config::settings::{Hook, Settings};
use crate::host::ClaimRange;
use crate::host::HostView;
use crate::kernel::attach::{Attachments, Target};
use crate::kernel::meters::DesiredTerms;
use crate::kernel::{Carried, Desired, DesiredRule};
use crate::plan::PlannedRule;
use crate::rule::GroupName;

/// Everything that goes into the maps.
pub fn desired(
    planned: &[Arc<PlannedRule>],
    facts: &FactBook,
    claims: ClaimRange,
    devices: &BTreeMap<u32, u16>,
    groups: BTreeMap<GroupName, DesiredTerms>,
    before: &Before<'_>,
) -> Desired {
    let known = before.still_true(planned, facts);
    let rules =
        known.iter().cloned().chain(planned[known.len()..].iter().map(|planned| rule(planned, facts)));
    Desired {
        revision: facts.revision,
        rules: rules.collect(),
        routes: facts.client_routes.clone(),
        addresses: facts.host.own_v4(),
        addresses_v6: facts.host.own_v6(),
        claims,
        devices: devices.clone(),
        paced: facts.host.paced(),
        groups: Arc::new(groups),
    }
}

fn rule(planned: &PlannedRule, facts: &FactBook) -> Arc<DesiredRule> {
    Arc::new(DesiredRule {
        name: planned.rule.name.clone(),
        enabled: planned.is_on(),
        draining: planned.draining,
        allow: planned.rule.accept.allow.clone(),
        limits: planned.rule.limits,
        terms: DesiredTerms {
            counts_ports: planned.rule.count_ports,
            ..DesiredTerms::new(*planned.rule.rates, planned.rule.quota.as_deref(), planned.closed)
        }
        .into(),
        group: planned.rule.group.clone(),
        carried: planned.kernel.as_ref().map(|kernel| Carried {
            paths: kernel.ends.iter().map(|end| facts.paths.get(&end.as_ref()?.way).cloned()).collect(),
            yields: !planned.rule.force && !facts.holder.holds(&planned.rule),
            kernel: kernel.clone(),
        }),
        weights: planned.weights.clone(),
        user: planned.user.clone().or_else(|| planned.watched.clone()),
        shares: facts.holder.shares(&planned.rule.name),
        backends: planned.backends.clone(),
        wraps_udp: planned.rule.udp_needs_relayd().is_some(),
    })
}

/// What was desired before, and the plan that it came from.
pub struct Before<'a> {
    pub planned: &'a [Arc<PlannedRule>],
    pub desired: &'a Desired,
}

impl Before<'_> {
    /// The rules at the start of the list for which nothing has changed.
    fn still_true(&self, planned: &[Arc<PlannedRule>], facts: &FactBook) -> &[Arc<DesiredRule>] {
        if self.desired.revision != facts.revision || self.desired.rules.len() != self.planned.len() {
            return &[];
        }
        let same = self.planned.iter().zip(planned).take_while(|(old, new)| Arc::ptr_eq(old, new)).count();
        &self.desired.rules[..same]
    }
}

/// Where the programs belong.
pub fn targets(host: &HostView, settings: &Settings, attached: &Attachments) -> Vec<Target> {
    host.interfaces(settings.interfaces.as_deref(), |index| attached.contains_key(&index))
        .into_iter()
        .map(|link| Target {
            index: link.index,
            name: link.name.clone(),
            kind: link.kind,
            xdp: settings.hook == Hook::Xdp,
        })
        .collect()
}
