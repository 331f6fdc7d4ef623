//! Who gets a new session, and whom it goes on with if that one fails.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use relay_common::balance::{FEW, Load, Method, place_at, place_beside, place_of};
use relay_common::net::{Protocol, ipv6_to_wire, mapped};

use super::{Ends, Tally, place};
use crate::balance::{Table, Weights};
use crate::proxy::gate::Gate;
use crate::rule::Balance;

/// What sessions choose by, shared by all workers.
#[derive(Debug)]
pub(super) struct Chooser {
    balance: Balance,
    tallies: Box<[Arc<Tally>]>,
    lanes: RwLock<Lanes>,
    /// New sessions so far, of each protocol.
    turns: [AtomicU64; 2],
}

#[derive(Debug)]
struct Lanes {
    weights: Arc<Weights>,
    of: [Arc<Lane>; 2],
}

/// One protocol's.
#[derive(Debug, Default)]
struct Lane {
    /// As many as there are backends.
    weights: Box<[u16]>,
    table: Table,
    /// Who gets no session even if all others fail.
    barred: Box<[usize]>,
}

impl Chooser {
    pub fn new(balance: Balance, tallies: Box<[Arc<Tally>]>, weights: &Arc<Weights>) -> Self {
        let lanes = RwLock::new(Lanes::new(balance, &tallies, weights));
        desert(&tallies, weights);
        Self { balance, tallies, lanes, turns: Default::default() }
    }

    /// Whether it is for the same backends and the same way to choose.
    pub fn chooses<'a>(&self, balance: Balance, names: impl Iterator<Item = &'a Arc<str>>) -> bool {
        self.balance == balance && names.map(|name| &**name).eq(self.tallies.iter().map(|tally| tally.name()))
    }

    pub const fn tallies(&self) -> &[Arc<Tally>] {
        &self.tallies
    }

    pub fn reweigh(&self, weights: &Arc<Weights>) {
        let is_same = self.with_lanes(|lanes| lanes.weights == *weights);
        if !is_same {
            // made outside of the lock, where workers wait
            let lanes = Lanes::new(self.balance, &self.tallies, weights);
            *self.lanes.write().unwrap_or_else(PoisonError::into_inner) = lanes;
            desert(&self.tallies, weights);
        }
    }

    pub fn choose(&self, protocol: Protocol, client: IpAddr) -> Option<usize> {
        self.with_lanes(|lanes| {
            let lane = &lanes.of[place(protocol)];
            let looks = self.looks(lane, protocol, client);
            match lane.table.method {
                Method::Least => self.least(lane, looks, |_| true),
                Method::One | Method::Turns | Method::Hash => lane.index(looks.first),
            }
        })
    }

    /// Tells who gets new sessions.
    pub fn in_turn(&self, protocol: Protocol) -> impl Fn(usize) -> bool + use<> {
        let lane = self.lane(protocol);
        move |index| lane.weights.get(index).is_some_and(|weight| *weight > 0)
    }

    fn with_lanes<T>(&self, look: impl FnOnce(&Lanes) -> T) -> T {
        look(&self.lanes.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn lane(&self, protocol: Protocol) -> Arc<Lane> {
        self.with_lanes(|lanes| lanes.of[place(protocol)].clone())
    }

    /// Where in the table a client looks.
    fn looks(&self, lane: &Lane, protocol: Protocol, client: IpAddr) -> Looks {
        let count = lane.count();
        let (first, beside) = match lane.table.method {
            _ if count < 2 => (0, None),
            Method::One => (0, None),
            Method::Hash => (place_of(&words(client), count), None),
            Method::Turns | Method::Least => {
                let turn = self.turns[place(protocol)].fetch_add(1, Ordering::Relaxed);
                let are_two = lane.table.method == Method::Least && !lane.looks_at_all();
                (place_at(turn, count), are_two.then(|| place_beside(turn, count) as usize))
            }
        };
        Looks { first: first as usize, beside }
    }

    /// Who has the fewest sessions for its weight, of those that are open where it looks; of equals the first one.
    fn least(&self, lane: &Lane, looks: Looks, is_open: impl Fn(usize) -> bool) -> Option<usize> {
        let load = |index: usize| {
            let sessions = i64::try_from(self.tallies[index].active()).unwrap_or(i64::MAX);
            Load::new(sessions, lane.weights[index].into(), lane.count())
        };
        let all = lane.table.places.len();
        let steps = if looks.beside.is_some() { 2 } else { all };
        let place = |step| looks.beside.filter(|_| step == 1).unwrap_or((looks.first + step) % all);
        let open = (0..steps).filter_map(|step| lane.index(place(step))).filter(|index| is_open(*index));
        let looked_at = open.map(|index| (index, load(index)));
        let fewest = looked_at.reduce(|one, other| if other.1.against(one.1) < 0 { other } else { one });
        fewest.map(|(index, _)| index)
    }
}

/// Where in a table a session looks for its backend.
#[derive(Clone, Copy, Debug)]
struct Looks {
    first: usize,
    /// The other one of two.
    beside: Option<usize>,
}

/// Has sessions choose anew that wait in vain, now that they would find somebody else.
fn desert(tallies: &[Arc<Tally>], weights: &Weights) {
    for (index, tally) in tallies.iter().enumerate() {
        for protocol in Protocol::ALL {
            tally.desert(protocol, weights.is_deserted(protocol, index));
        }
    }
}

/// That of all rules with one backend.
static USUAL: LazyLock<Arc<Lane>> =
    LazyLock::new(|| Arc::new(Lane { weights: [1].into(), table: Table::of_one(), ..Lane::default() }));

impl Lanes {
    fn new(balance: Balance, tallies: &[Arc<Tally>], weights: &Arc<Weights>) -> Self {
        let lane = |of: &[u16]| match (of, &*weights.barred) {
            ([1], []) if tallies.len() == 1 => USUAL.clone(),
            (of, barred) => Arc::new(Lane::new(balance, tallies, of, barred)),
        };
        let tcp = lane(&weights.tcp);
        let udp = if weights.udp == weights.tcp { tcp.clone() } else { lane(&weights.udp) };
        Self { weights: weights.clone(), of: [tcp, udp] }
    }
}

impl Lane {
    /// `weights` may be for other backends than there are, for as long as a change takes.
    fn new(balance: Balance, tallies: &[Arc<Tally>], weights: &[u16], barred: &[usize]) -> Self {
        let weight = |index: usize| weights.get(index).copied().unwrap_or(0);
        let weights: Box<[u16]> = (0..tallies.len()).map(weight).collect();
        let table = Table::new(balance, &weights, |index| tallies[index].name().to_owned());
        Self { weights, table, barred: barred.into() }
    }

    fn looks_at_all(&self) -> bool {
        self.table.method == Method::Least && self.count() <= FEW
    }

    /// There are 65,535 places at most.
    fn count(&self) -> u32 {
        u32::try_from(self.table.places.len()).unwrap_or(u32::MAX)
    }

    fn index(&self, place: usize) -> Option<usize> {
        self.table.places.get(place).map(|index| usize::from(*index))
    }
}

/// A client's address as both planes hash it.
fn words(client: IpAddr) -> [u32; 4] {
    match client.to_canonical() {
        IpAddr::V4(address) => mapped(address.into()),
        IpAddr::V6(address) => ipv6_to_wire(address),
    }
}

/// The backends in the order that one session tries them, each once: who gets new sessions, from the one that has been
/// chosen on; then who is there in case those fail, tier by tier.
#[derive(Debug)]
pub struct Candidates<'a> {
    ends: &'a Ends,
    gate: &'a Gate,
    lane: Arc<Lane>,
    protocol: Protocol,
    /// Places of the table: where it looks next, and how many have not been looked at.
    looks: Looks,
    left: usize,
    tried: Vec<usize>,
    /// The last one, which is not among the tried yet: most sessions need no more than one.
    last: Option<usize>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(ends: &'a Ends, protocol: Protocol, client: IpAddr, gate: &'a Gate) -> Self {
        let lane = ends.chooser.lane(protocol);
        let (looks, left) = (ends.chooser.looks(&lane, protocol, client), lane.table.places.len());
        Self { ends, gate, lane, protocol, looks, left, tried: Vec::new(), last: None }
    }

    /// Without those that have been tried before.
    pub fn without(self, tried: Vec<usize>) -> Self {
        Self { tried, ..self }
    }

    /// All that have been tried.
    pub fn tried(mut self) -> Vec<usize> {
        self.tried.extend(self.last);
        self.tried
    }

    fn is_open(&self, index: usize) -> bool {
        let has_address = self.ends.end(index).is_some_and(|end| !end.addresses.is_empty());
        has_address && !self.tried.contains(&index) && !self.lane.barred.contains(&index)
    }

    fn in_turn(&mut self) -> Option<usize> {
        if self.lane.looks_at_all() || self.looks.beside.is_some() {
            let chosen = self.ends.chooser.least(&self.lane, self.looks, |index| self.is_open(index));
            // who comes after those two comes by turns
            self.looks.beside = None;
            if chosen.is_some() {
                return chosen;
            }
        }
        while self.left > 0 {
            let index = self.lane.index(self.looks.first)?;
            self.looks.first = (self.looks.first + 1) % self.lane.table.places.len();
            self.left -= 1;
            if self.is_open(index) {
                return Some(index);
            }
        }
        None
    }

    /// Whose turn comes when all fail that have it now. Who is passed over though it stands before them is last: it is
    /// most likely down. Where the gate would end its session at once, it is left out.
    fn in_reserve(&self) -> Option<usize> {
        let rank = |index: usize| {
            let priority = self.ends.list[index].priority;
            (priority, if self.ends.chooser.balance == Balance::First { index } else { 0 })
        };
        let all = || 0..self.ends.list.len();
        let in_turn = all().filter(|index| self.lane.weights[*index] > 0).map(rank).max();
        let is_passed_over = |index: usize| in_turn.is_some_and(|in_turn| rank(index) <= in_turn);
        all()
            .filter(|index| self.is_open(*index) && self.ends.is_in_reserve(*index, self.protocol, self.gate))
            .min_by_key(|index| (is_passed_over(*index), rank(*index)))
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.tried.extend(self.last.take());
        self.last = self.in_turn().or_else(|| self.in_reserve());
        self.last
    }
}
