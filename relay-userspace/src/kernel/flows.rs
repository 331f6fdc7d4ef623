//! Reading the flow tables for who wants to see flows. Entries come in batches, and only those that are shown are kept.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Array, HashMap as BpfMap, MapData};
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::ipv6_from_wire;
use relay_common::rule::RuleEntry;
use relay_common::{names, tick};

use super::batch::Walk;
use super::sweep::{Others, ticks_now};
use super::{Dataplane, Unavailable, maps};
use crate::flows::{Best, Flow, Plane, Query, State};
use crate::rule::RuleName;

/// Where the tables are. They are opened for each look, so that nothing is held between.
#[derive(Clone, Debug)]
pub struct FlowReader {
    pins: PathBuf,
    hz: u32,
}

/// Rules by the slots that flows name.
pub type RulesBySlot = HashMap<u32, RuleName>;

/// One look at all tables.
struct Look<'a> {
    query: &'a Query,
    slots: &'a RulesBySlot,
    rules: Array<MapData, RuleEntry>,
    generations: HashMap<u32, Option<u32>>,
    others: Others,
    now: u32,
    hz: u32,
}

impl FlowReader {
    pub fn new(dataplane: &Dataplane) -> Self {
        Self { pins: dataplane.pins().to_owned(), hz: dataplane.hz }
    }

    /// Offers every live flow that is asked for. Blocks: a million flows take a second or two.
    ///
    /// # Errors
    ///
    /// The tables are not there, or cannot be read.
    pub fn read(&self, query: &Query, slots: &RulesBySlot, best: &mut Best) -> Result<(), Unavailable> {
        let pins: &Path = &self.pins;
        let mut look = Look {
            query,
            slots,
            rules: maps::open(pins, names::RULES)?,
            generations: HashMap::new(),
            others: Others::open(pins)?,
            now: ticks_now(self.hz)?,
            hz: self.hz,
        };
        for name in [names::FLOWS_TCP, names::FLOWS_UDP, names::UNPROVEN] {
            let table = maps::open_raw(pins, name)?;
            let halves: BpfMap<MapData, FlowKey, FlowEntry> = maps::open(pins, name)?;
            let failed = |error: std::io::Error| Unavailable(format!("cannot walk {name}: {error}"));
            let mut walk = Walk::<_, FlowKey, FlowEntry>::new(table.fd());
            while let Some(chunk) = walk.next_chunk().map_err(failed)? {
                for (key, half) in chunk {
                    look.meet(&key, &half, &halves, best);
                }
            }
        }
        Ok(())
    }
}

impl Look<'_> {
    /// One half comes by. A flow is shown for its client half.
    fn meet(
        &mut self,
        key: &FlowKey,
        half: &FlowEntry,
        halves: &BpfMap<MapData, FlowKey, FlowEntry>,
        best: &mut Best,
    ) {
        let flags = half.flags();
        if flags.has(FlowFlags::EGRESS) || flags.has_any(FlowFlags::CLOSED.with(FlowFlags::RESET)) {
            return;
        }
        let (Some(protocol), Some(rule)) = (key.protocol(), self.slots.get(&half.rule())) else { return };
        let query = self.query;
        let backend = self.backend(half);
        let is_v6 = key.is_v6();
        let known_client = (!is_v6).then(|| IpAddr::from(Ipv4Addr::from(key.source())));
        if !query.takes_rule(rule)
            || !query.takes_protocol(protocol)
            || !query.takes_backend(Some(backend))
            || known_client.is_some_and(|client| !query.takes_client(client))
            || !self.is_current(half)
        {
            return;
        }
        let other = halves.get(&self.others.key(half, protocol), 0).ok();
        let other = other.filter(|other| other.flags().has(FlowFlags::EGRESS));
        let ends = match (known_client, &other) {
            (Some(client), _) => Some((client, IpAddr::from(Ipv4Addr::from(key.destination())))),
            (None, Some(other)) => self.ends_v6(other),
            (None, None) => None,
        };
        let Some((client, listen)) = ends.filter(|(client, _)| query.takes_client(*client)) else { return };
        let ports = key.ports();
        let last = [Some(half.seen), other.map(|other| other.seen)].into_iter().flatten();
        let idle = last.map(|seen| self.since(seen)).min().unwrap_or_default();
        let other_flags = other.map_or(FlowFlags::NONE, |other| other.flags());
        let state = if !flags.has(FlowFlags::PROVEN) {
            State::Opening
        } else if flags.has(FlowFlags::FIN) || other_flags.has(FlowFlags::FIN) {
            State::Closing
        } else {
            State::Open
        };
        best.offer(Flow {
            rule: rule.clone(),
            protocol,
            plane: Plane::Kernel,
            client: (client, ports.source().number()).into(),
            listen: Some((listen, ports.destination().number()).into()),
            backend: Some(backend),
            state,
            age: self.since(half.created),
            idle,
            bytes: [Some(half.bytes), other.map(|other| other.bytes)],
        });
    }

    fn backend(&self, half: &FlowEntry) -> SocketAddr {
        let to = half.translation();
        let address = if half.flags().has(FlowFlags::TO_V6) {
            self.others.address(half.backend_v6()).into()
        } else {
            IpAddr::from(Ipv4Addr::from(to.destination))
        };
        (address, to.ports.destination().number()).into()
    }

    /// The client, and the address of ours that it asked, as the backend half of an IPv6 client has them.
    fn ends_v6(&self, backend_half: &FlowEntry) -> Option<(IpAddr, IpAddr)> {
        backend_half.flags().has(FlowFlags::TO_V6).then(|| {
            let client = ipv6_from_wire(backend_half.client_v6());
            (client.into(), self.others.address(backend_half.own_v6()).into())
        })
    }

    /// Whether it is a flow of the rule that has its slot now, and not one of a rule that had it before.
    fn is_current(&mut self, half: &FlowEntry) -> bool {
        let rules = &self.rules;
        let generation = self.generations.entry(half.rule()).or_insert_with(|| {
            let rule = rules.get(&half.rule(), 0).ok()?;
            (!rule.is_off()).then_some(rule.generation)
        });
        *generation == Some(half.generation)
    }

    fn since(&self, then: u32) -> Duration {
        // a stamp of another CPU may be a tick ahead of ours
        let ticks = if tick::passed(self.now, then, 0) { self.now.wrapping_sub(then) } else { 0 };
        Duration::from_millis(tick::milliseconds(ticks, self.hz))
    }
}
