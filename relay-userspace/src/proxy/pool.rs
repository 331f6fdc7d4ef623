//! A rule's backends as its new sessions choose among them: one pool a rule, for all its listeners and workers.

mod choose;
mod signal;
mod tally;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use relay_common::net::Protocol;
use relay_common::round_trip::RoundTrips;
use tokio::sync::mpsc::UnboundedSender;

pub use self::choose::Candidates;
use self::choose::Chooser;
use self::signal::Alarm;
pub use self::signal::{Failure, Signal};
use self::tally::Tally;
pub use self::tally::{Lease, Numbers, Tallied};
use crate::balance::Weights;
use crate::proxy::gate::Gate;
use crate::proxy::tunnel::{Held, Spares};
use crate::rule::{Balance, RuleName};

/// A rule's backends for its whole life, whatever is edited.
#[derive(Debug)]
pub struct Pool {
    alarm: Arc<Alarm>,
    ends: RwLock<Arc<Ends>>,
    /// Made for the first plan that wants any.
    spares: OnceLock<Arc<Spares>>,
}

/// A backend as sessions reach it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct End {
    /// Its text in the rule: who keeps it is the same backend, whatever else of it changes.
    pub name: Arc<str>,
    /// In the order to try them; none: its name does not resolve.
    pub addresses: Arc<[IpAddr]>,
    /// Where a listener's first port goes; `None`: ports stay as they are.
    pub first_port: Option<u16>,
    /// As configured; 0: no session, even if all others fail.
    pub weight: u16,
    /// As configured: a higher number is for when lower ones fail.
    pub priority: u16,
}

impl End {
    /// Which port of the backend one of a listener's leads to. `first`: where that listener begins. Rules are checked to
    /// fit, so this never leaves the range of ports.
    pub const fn port(&self, first: u16, port: u16) -> u16 {
        match self.first_port {
            None => port,
            Some(to) => to.wrapping_add(port.wrapping_sub(first)),
        }
    }
}

/// The backends of one plan, by their index there. New weights may come at any moment, all else stays.
#[derive(Debug)]
pub struct Ends {
    list: Box<[End]>,
    /// That of the plan before if who is chosen from is the same, so that old sessions keep no old tables.
    chooser: Arc<Chooser>,
    /// Tunnels that wait for clients.
    spares: Option<Arc<Spares>>,
}

impl Pool {
    pub fn new(rule: RuleName) -> Self {
        let alarm = Arc::new(Alarm::new(rule));
        Self { alarm, ends: RwLock::new(Arc::new(Ends::none())), spares: OnceLock::new() }
    }

    /// Has plans from now on hold tunnels open for clients to come.
    pub fn hold(&self) {
        self.spares.get_or_init(Arc::default);
    }

    /// The tunnels to a backend that wait for clients; `None`: the rule has never had any. `name`: its text in the rule.
    pub fn held(&self, name: &str) -> Option<Held> {
        self.spares.get().map(|spares| spares.of(name))
    }

    /// Has failures told there, from the first call on.
    pub fn tell(&self, failures: UnboundedSender<Failure>) {
        self.alarm.tell(failures);
    }

    /// The backends of a plan, for targets of new sessions. Who stays keeps its tally.
    pub fn follow(&self, list: &[End], balance: Balance, weights: &Arc<Weights>) -> Arc<Ends> {
        let mut current = self.ends.write().unwrap_or_else(PoisonError::into_inner);
        let names = || list.iter().map(|end| &end.name);
        let spares = self.spares.get().cloned();
        if current.chooser.chooses(balance, names()) {
            current.chooser.reweigh(weights);
            // even if it is equal: what is left of an old plan keeps others' memory from being given back
            *current = Arc::new(Ends { list: list.into(), chooser: current.chooser.clone(), spares });
        } else {
            let tallies = self.tallies_of(&current, names());
            let chooser = Arc::new(Chooser::new(balance, tallies, weights));
            *current = Arc::new(Ends { list: list.into(), chooser, spares });
        }
        current.clone()
    }

    fn tallies_of<'a>(&self, before: &Ends, names: impl Iterator<Item = &'a Arc<str>>) -> Box<[Arc<Tally>]> {
        let mut kept: Vec<Arc<Tally>> = before.chooser.tallies().to_vec();
        names
            .map(|name| match kept.iter().position(|tally| tally.name() == &**name) {
                Some(place) => kept.swap_remove(place),
                // its own copy, since it outlives the plan
                None => Arc::new(Tally::new((**name).into(), self.alarm.clone())),
            })
            .collect()
    }

    /// What backends get of new sessions from now on.
    pub fn reweigh(&self, weights: &Arc<Weights>) {
        self.ends().chooser.reweigh(weights);
    }

    /// The backends of the latest plan.
    pub fn ends(&self) -> Arc<Ends> {
        self.ends.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long round trips of a backend's sessions have taken. `name`: its text in the rule.
    pub fn round_trips(&self, name: &str) -> Option<RoundTrips> {
        let ends = self.ends();
        let tally = ends.chooser.tallies().iter().find(|tally| tally.name() == name);
        tally.map(|tally| tally.round_trips())
    }

    /// What each backend has had of sessions, in the order of the rule.
    pub fn tallies(&self) -> Vec<Tallied> {
        self.ends().chooser.tallies().iter().map(|tally| tally.read()).collect()
    }
}

impl Ends {
    fn none() -> Self {
        let chooser = Chooser::new(Balance::default(), Box::default(), &Arc::default());
        Self { list: Box::default(), chooser: Arc::new(chooser), spares: None }
    }

    pub fn end(&self, index: usize) -> Option<&End> {
        self.list.get(index)
    }

    /// Tunnels to them that wait for clients.
    pub const fn spares(&self) -> Option<&Arc<Spares>> {
        self.spares.as_ref()
    }

    /// Those that get new sessions, by their index, as far as they have an address.
    pub fn in_turn(&self, protocol: Protocol) -> impl Iterator<Item = (usize, &End)> {
        let has_turn = self.chooser.in_turn(protocol);
        let open = move |(index, end): &(usize, &End)| has_turn(*index) && !end.addresses.is_empty();
        self.list.iter().enumerate().filter(open)
    }

    /// A backend failed something that is no session.
    pub fn fail(&self, protocol: Protocol, index: usize, signal: Signal) {
        self.chooser.tallies()[index].alarm(protocol, signal);
    }

    /// Whether there is another one to go on with when one fails.
    pub const fn are_several(&self) -> bool {
        self.list.len() > 1
    }

    /// Who gets a new session of this client; `None`: nobody takes any.
    pub fn choose(&self, protocol: Protocol, client: IpAddr) -> Option<usize> {
        self.chooser.choose(protocol, client)
    }

    /// The same, and whom to go on with if that one fails. `gate`: whose sessions these are.
    pub fn candidates<'a>(&'a self, protocol: Protocol, client: IpAddr, gate: &'a Gate) -> Candidates<'a> {
        Candidates::new(self, protocol, client, gate)
    }

    /// Whether a session that has tried these may go on with another one.
    pub fn is_there_another(&self, tried: &[usize], protocol: Protocol, gate: &Gate) -> bool {
        let mut others = (0..self.list.len()).filter(|index| !tried.contains(index));
        self.are_several() && others.any(|index| self.is_in_reserve(index, protocol, gate))
    }

    /// Whether a backend can do for others, and its sessions may last.
    fn is_in_reserve(&self, index: usize, protocol: Protocol, gate: &Gate) -> bool {
        let end = &self.list[index];
        end.weight > 0 && !end.addresses.is_empty() && gate.leads_to(protocol, end)
    }

    /// A session goes to this backend, or tries to. It must be one of these.
    pub fn lease(&self, protocol: Protocol, index: usize) -> Lease {
        Lease::new(self.chooser.tallies()[index].clone(), protocol, index)
    }
}

/// A place for each protocol.
const fn place(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
    }
}
