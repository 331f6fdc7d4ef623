//! Telling which tier of a rule's backends gets new flows, when it is another one, and why.

use relay_common::net::Protocol;

use crate::health::State as EndState;
use crate::health::saved::BackendOrder;
use crate::health::tiers::Basis;
use crate::health::weigh::RuleHealth;
use crate::plan::PlannedRule;
use crate::rule::{Balance, Rule};
use crate::supervisor::state::State;

impl State {
    pub(super) fn tell_tier(&self, before: &PlannedRule, after: &PlannedRule) {
        let rule = &*after.rule;
        for protocol in rule.protocols.iter() {
            let tiers = Tier::of(before, protocol).zip(Tier::of(after, protocol));
            let Some((old, new)) = tiers.filter(|(old, new)| old.rank != new.rank) else { continue };
            let why = match after.outlook.as_ref().and_then(|outlook| outlook.basis.get(&protocol)) {
                Some(Basis::AllDown) => "all are down".to_owned(),
                Some(Basis::Doubtful) => "none is up".to_owned(),
                _ if new.rank < old.rank => "they come first, and take new flows again".to_owned(),
                _ => why_not(rule, self.backends.health().get(&rule.name), protocol, &old),
            };
            let text = format!(
                "rule {}: new flows of {protocol} go from {} to {}: {why}",
                rule.name,
                old.names(rule),
                new.names(rule)
            );
            tracing::warn!(RULE = rule.name.as_str(), "{text}");
            self.shared.tell("rule.tier", Some(&rule.name), text);
        }
    }
}

/// The backends that get new flows of one protocol.
struct Tier {
    rank: (u16, usize),
    members: Vec<usize>,
}

impl Tier {
    /// `None`: nobody gets any.
    fn of(planned: &PlannedRule, protocol: Protocol) -> Option<Self> {
        let rule = &*planned.rule;
        let rank =
            |index: usize| (rule.to[index].priority, if rule.balance == Balance::First { index } else { 0 });
        let weights = planned.weights.of(protocol).iter().enumerate();
        let chosen: Vec<usize> = weights.filter(|(_, weight)| **weight > 0).map(|(index, _)| index).collect();
        let best = chosen.iter().map(|index| rank(*index)).min()?;
        Some(Self { rank: best, members: chosen.into_iter().filter(|index| rank(*index) == best).collect() })
    }

    fn names(&self, rule: &Rule) -> String {
        self.members.iter().map(|&index| rule.to[index].to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Why each of a tier gets no more new flows.
fn why_not(rule: &Rule, health: Option<&RuleHealth>, protocol: Protocol, tier: &Tier) -> String {
    let why = |index: &usize| {
        let name = rule.to[*index].to_string();
        let order = health.and_then(|health| health.orders.get(&*name));
        let verdict = health.and_then(|health| health.endpoints.get(&(protocol, name.as_str().into())));
        let what = match (order, verdict.map(|verdict| verdict.state)) {
            (Some(BackendOrder::Drain), _) => "drains",
            (Some(BackendOrder::Down), _) => "is down by order",
            (None, Some(EndState::Down)) => "is down",
            (None, Some(EndState::Unanswered)) => "never answered",
            (None, _) => "cannot be reached",
        };
        format!("{name} {what}")
    };
    tier.members.iter().map(why).collect::<Vec<_>>().join(", ")
}
