//! From what is known of a rule's backends to the weights that they have for new flows. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use relay_common::net::Protocol;

use super::judge::{Standing, State};
use super::saved::BackendOrder;
use super::tiers::{Basis, Candidate, Fitness, Grouping, Held, choose};
use crate::balance::Weights;
use crate::rule::{Backend, Balance, Rule};

/// What is known of a rule's backends, each by its text in the configuration.
#[derive(Clone, Debug, Default)]
pub struct RuleHealth {
    pub endpoints: HashMap<(Protocol, Box<str>), Verdict>,
    pub orders: BTreeMap<Box<str>, BackendOrder>,
    /// The tiers that have new flows.
    pub held: BTreeMap<Protocol, Held<Box<str>>>,
}

impl RuleHealth {
    /// Whether a backend does not answer, or is to be taken for one that does not: it is down or was never up.
    fn is_failing(&self, protocol: Protocol, backend: &Backend) -> bool {
        let verdict = self.endpoints.get(&(protocol, backend.to_string().into()));
        let is_unfit = verdict.is_some_and(|verdict| verdict.state.fitness() < Fitness::Good);
        is_unfit || self.is_down(protocol, backend)
    }

    /// Whether a backend is down for a protocol, by what judges say or by order.
    pub fn is_down(&self, protocol: Protocol, backend: &Backend) -> bool {
        let key: Box<str> = backend.to_string().into();
        let is_ordered = self.orders.get(&key) == Some(&BackendOrder::Down);
        is_ordered || self.endpoints.get(&(protocol, key)).is_some_and(|verdict| verdict.state == State::Down)
    }
}

/// What a judge has last said.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub state: State,
    pub since: Instant,
}

impl Verdict {
    /// Forgets that it is down.
    pub fn pardon(&mut self, now: Instant) {
        if matches!(self.state, State::Unanswered | State::Down) {
            *self = Self { state: State::Untried, since: now };
        }
    }
}

impl From<&Standing> for Verdict {
    fn from(standing: &Standing) -> Self {
        Self { state: standing.state, since: standing.since }
    }
}

/// Who gets new flows, and what to remember of that.
#[derive(Clone, Debug)]
pub struct Weighing {
    pub weights: Weights,
    pub outlook: Outlook,
}

/// What a choice among backends was made by, of the protocols that the rule carries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outlook {
    pub basis: BTreeMap<Protocol, Basis>,
    pub held: BTreeMap<Protocol, Held<Box<str>>>,
    /// When time alone would make another choice.
    pub look_again: Option<Instant>,
}

/// Weighs a rule's backends. Those that cannot be reached at all are down, whatever they say.
pub fn weigh(
    rule: &Rule,
    health: Option<&RuleHealth>,
    is_reachable: &dyn Fn(usize) -> bool,
    now: Instant,
) -> Weighing {
    let nothing = || vec![0; rule.to.len()].into();
    let mut weighing = Weighing {
        weights: Weights {
            tcp: nothing(),
            udp: nothing(),
            barred: barred(rule, health),
            ..Weights::default()
        },
        outlook: Outlook::default(),
    };
    for protocol in rule.protocols.iter() {
        let candidates: Vec<Candidate<Box<str>>> = (0..rule.to.len())
            .map(|index| candidate(rule, index, health, protocol, is_reachable(index)))
            .collect();
        let grouping = if rule.balance == Balance::First { Grouping::Single } else { Grouping::ByPriority };
        let held = health.and_then(|health| health.held.get(&protocol));
        let choice = choose(&candidates, grouping, rule.check().failback, held, now);
        let mut weights = vec![0; rule.to.len()];
        for index in choice.members {
            weights[index] = rule.to[index].weight;
        }
        if let Some(health) = health {
            let is_deserted =
                |(weight, to): (&u16, &Backend)| *weight == 0 && health.is_failing(protocol, to);
            let deserted = weights.iter().zip(&rule.to).map(is_deserted).collect();
            weighing.weights.deserted[protocol.index() as usize] = deserted;
        }
        weighing.weights.set(protocol, weights);
        let outlook = &mut weighing.outlook;
        outlook.basis.insert(protocol, choice.basis);
        outlook.held.extend(choice.held.map(|held| (protocol, held)));
        outlook.look_again = [outlook.look_again, choice.look_again].into_iter().flatten().min();
    }
    weighing
}

fn barred(rule: &Rule, health: Option<&RuleHealth>) -> Box<[usize]> {
    (0..rule.to.len()).filter(|&index| is_barred(&rule.to[index], health)).collect()
}

/// Whether a backend is to get no new flow, whatever becomes of the others.
fn is_barred(to: &Backend, health: Option<&RuleHealth>) -> bool {
    to.weight == 0 || health.is_some_and(|health| health.orders.contains_key(to.to_string().as_str()))
}

fn candidate(
    rule: &Rule,
    index: usize,
    health: Option<&RuleHealth>,
    protocol: Protocol,
    is_reachable: bool,
) -> Candidate<Box<str>> {
    let to = &rule.to[index];
    let key: Box<str> = to.to_string().into();
    let verdict = health.and_then(|health| health.endpoints.get(&(protocol, key.clone())));
    let fitness = match verdict {
        _ if is_barred(to, health) => Fitness::Barred,
        _ if !is_reachable => Fitness::Bad,
        Some(verdict) => verdict.state.fitness(),
        None => Fitness::Good,
    };
    // who nobody asks has nobody to prove itself to before it gets flows again
    let up_since =
        verdict.filter(|verdict| verdict.state.fitness() == Fitness::Good).map(|verdict| verdict.since);
    Candidate { key, priority: to.priority, fitness, up_since }
}

#[cfg(test)]
mod tests;
