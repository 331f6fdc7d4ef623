//! Balancing: the weights that a rule's backends have for new flows, and the table that flows look their backend up in. Pure.
//!
//! Both planes choose from the same table, so they give the same answer. A backend is known by its index in the rule's `to`.

mod maglev;
mod rotation;

use std::sync::{Arc, LazyLock};

use relay_common::balance::{FEW, Method};
use relay_common::net::Protocol;

use crate::rule::Balance;

/// The weights that a rule's backends have for new flows at present, by their index; 0: it gets none. TCP and UDP are judged
/// each by itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Weights {
    pub tcp: Box<[u16]>,
    pub udp: Box<[u16]>,
    /// Who gets none even if all others fail, by order or without a weight of its own.
    pub barred: Box<[usize]>,
    /// Whether it gets none since it does not answer, of TCP and of UDP; flows that it never answered choose anew. Empty:
    /// there is no such one.
    pub deserted: [Box<[bool]>; 2],
}

impl Weights {
    /// Those of a rule with one backend, which nobody judges.
    pub fn of_one(weight: u16) -> Arc<Self> {
        static USUAL: LazyLock<Arc<Weights>> = LazyLock::new(|| Arc::new(Weights::both(&[1])));
        if weight == 1 { USUAL.clone() } else { Arc::new(Self::both(&[weight])) }
    }

    fn both(weights: &[u16]) -> Self {
        Self { tcp: weights.into(), udp: weights.into(), ..Self::default() }
    }

    pub const fn of(&self, protocol: Protocol) -> &[u16] {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// Whether flows that a backend never answered choose anew.
    pub fn is_deserted(&self, protocol: Protocol, index: usize) -> bool {
        self.deserted[protocol.index() as usize].get(index).copied().unwrap_or(false)
    }

    pub fn set(&mut self, protocol: Protocol, weights: Vec<u16>) {
        match protocol {
            Protocol::Tcp => self.tcp = weights.into(),
            Protocol::Udp => self.udp = weights.into(),
        }
    }
}

/// What new flows look their backend up in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Table {
    pub method: Method,
    /// Backends by their index. None: nobody gets anything. Of [`FEW`] for [`Method::Least`] each once, all others as often
    /// as they are meant to be chosen.
    pub places: Vec<u16>,
}

impl Table {
    /// Where there is nobody but the first backend.
    pub fn of_one() -> Self {
        Self { method: Method::One, places: vec![0] }
    }

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
            Balance::LeastConn if chosen.len() <= FEW as usize => (Method::Least, chosen),
            Balance::LeastConn => (Method::Least, rotation::places(weights)),
        };
        Self { method, places }
    }
}
