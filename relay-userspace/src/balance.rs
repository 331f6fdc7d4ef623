//! Balancing: the weights that a rule's backends have for new flows, and the table that flows look their backend up in. Pure.
//!
//! Both planes choose from the same table, so they give the same answer. A backend is known by its index in the rule's `to`.

mod maglev;
mod rotation;

use relay_common::balance::Method;

use crate::rule::{Balance, Rule};

/// The weights that a rule's backends have for new flows at present, by their index; 0: it gets none. TCP and UDP are judged
/// each by itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Weights {
    pub tcp: Box<[u16]>,
    pub udp: Box<[u16]>,
}

impl Weights {
    /// Those of a rule while nothing is known but which of its backends can be reached at all.
    ///
    /// If none can, the first tier keeps its part, so that who comes is refused for the reason that there is.
    pub fn of(rule: &Rule, is_reachable: impl Fn(usize) -> bool) -> Self {
        let weights =
            first_tier(rule, &is_reachable).or_else(|| first_tier(rule, &|_| true)).unwrap_or_default();
        Self { tcp: weights.clone(), udp: weights }
    }
}

/// The weights of the first tier that has a backend to give flows to.
fn first_tier(rule: &Rule, takes: &dyn Fn(usize) -> bool) -> Option<Box<[u16]>> {
    let candidates = || rule.to.iter().enumerate().filter(|(index, to)| to.weight > 0 && takes(*index));
    let tier = candidates().map(|(_, to)| to.priority).min()?;
    let mut weights = vec![0; rule.to.len()];
    for (index, to) in candidates().filter(|(_, to)| to.priority == tier) {
        weights[index] = to.weight;
        if rule.balance == Balance::First {
            break;
        }
    }
    Some(weights.into())
}

/// What new flows look their backend up in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Table {
    pub method: Method,
    /// Backends by their index. None: nobody gets anything. For [`Method::Least`] each once, for the others as often as
    /// they are meant to be chosen.
    pub places: Vec<u16>,
}

impl Table {
    /// `names`: what a backend is known by, so that it keeps its clients wherever it stands in the list.
    pub fn new(balance: Balance, weights: &[u16], names: impl Fn(usize) -> String) -> Self {
        let chosen: Vec<u16> =
            (0u16..).zip(weights).filter(|(_, weight)| **weight > 0).map(|(index, _)| index).collect();
        if chosen.len() < 2 {
            return Self { method: Method::One, places: chosen };
        }
        let (method, places) = match balance {
            Balance::First => (Method::One, vec![chosen[0]]),
            Balance::RoundRobin => (Method::Turns, rotation::places(weights)),
            Balance::IpHash => (Method::Hash, maglev::places(weights, names)),
            Balance::LeastConn => (Method::Least, chosen),
        };
        Self { method, places }
    }
}
