//! What a rule's backends get of new flows, and which of them flows may go on going to: the part of a plan that changes with
//! every verdict about a backend.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use relay_common::net::Protocol;

use crate::balance::Weights;
use crate::health::weigh::{RuleHealth, Weighing, weigh};
use crate::host::{Path, WayTo};
use crate::plan::PlannedRule;
use crate::rule::{Destination, OnDown, Rule, RuleName, Staying};

/// What is known for it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub health: &'a HashMap<RuleName, RuleHealth>,
    pub paths: &'a BTreeMap<WayTo, Path>,
    pub now: Instant,
}

/// The same plan with what backends get as of now.
pub fn reweighed(planned: &PlannedRule, known: Known<'_>) -> PlannedRule {
    weighed(planned.clone(), known)
}

pub(super) fn weighed(planned: PlannedRule, known: Known<'_>) -> PlannedRule {
    let rule = &*planned.rule;
    let health = known.health.get(&rule.name);
    let (weights, outlook) = match (&rule.to[..], health) {
        ([only], None) => (Weights::of_one(only.weight), None),
        _ => {
            let is_reachable = |index: usize| is_reachable(&planned, known.paths, index);
            let Weighing { weights, outlook } = weigh(rule, health, &is_reachable, known.now);
            (Arc::new(weights), Some(Box::new(outlook)))
        }
    };
    let backends = staying(rule, &planned.addresses, &weights, health);
    PlannedRule { weights, outlook, backends, ..planned }
}

/// Whether there is an address and, where the kernel plane carries the rule, a way to it.
fn is_reachable(planned: &PlannedRule, paths: &BTreeMap<WayTo, Path>, index: usize) -> bool {
    match &planned.kernel {
        Some(kernel) => kernel.ends[index].is_some_and(|end| paths.contains_key(&end.way)),
        None => !planned.addresses[index].is_empty(),
    }
}

/// Where flows and sessions may go; `None`: anywhere. While a backend has none there is nothing to go by.
///
/// Those of a backend that is down are not among them, unless it has to serve for want of others.
fn staying(
    rule: &Rule,
    backends: &[Arc<[IpAddr]>],
    weights: &Weights,
    health: Option<&RuleHealth>,
) -> Option<Arc<Staying>> {
    let are_known = backends.iter().all(|addresses| !addresses.is_empty());
    if rule.on_down != OnDown::Reset || !are_known {
        return None;
    }
    let is_gone = |protocol: Protocol, index: usize| {
        let is_down = |health: &RuleHealth| health.is_down(protocol, &rule.to[index]);
        weights.of(protocol)[index] == 0 && health.is_some_and(is_down)
    };
    let of = |protocol: Protocol| {
        let stay = (0..backends.len()).filter(|&index| !is_gone(protocol, index));
        let places = |index: usize| {
            let to = &rule.to[index];
            backends[index].iter().flat_map(|address| Destination::of(to, *address, &rule.listen))
        };
        stay.flat_map(places).collect()
    };
    Some(Arc::new(Staying { tcp: of(Protocol::Tcp), udp: of(Protocol::Udp) }))
}
