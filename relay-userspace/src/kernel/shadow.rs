//! What the maps hold, as relayd knows it. Rule maps have one writer, so the shadow is the truth and a change is a
//! difference against it.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};

use relay_common::route::NextHop as KernelHop;
use relay_common::rule::{EndpointEntry, RuleEntry};
use relay_common::settings::Settings;

use super::guard::Guards;
use super::hops::Interner;
use super::listening::ListeningShadow;
use super::maps::{ENDPOINT_SLOTS, HOP_SLOTS};
use super::slots::Slots;
use crate::rule::RuleName;

pub struct Shadow {
    pub slots: Slots,
    pub draining: BTreeSet<RuleName>,
    pub rules: HashMap<u32, RuleEntry>,
    pub listening: ListeningShadow<Ipv4Addr>,
    pub listening_v6: ListeningShadow<Ipv6Addr>,
    /// By content, the generation left at 0.
    pub hops: Interner<KernelHop>,
    /// Generation of every next hop slot.
    pub generations: Vec<u16>,
    pub endpoints: Interner<EndpointContent>,
    pub endpoint_entries: HashMap<u32, EndpointEntry>,
    pub addresses: HashMap<u32, u32>,
    pub addresses_v6: HashMap<[u32; 4], u32>,
    pub routes: HashMap<RoutePrefix, u32>,
    pub settings: Option<Settings>,
    pub devices: HashMap<u16, u32>,
    pub guards: Guards,
}

/// What makes an endpoint: its address, the address its flows are sent from, where the rule's first port goes (0: the
/// port stays), the interface that its packets must leave by (0: any).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EndpointContent {
    pub address: Ipv4Addr,
    pub source: Ipv4Addr,
    pub port: u16,
    pub interface: u32,
}

/// A key of the route table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RoutePrefix {
    pub bits: u32,
    pub interface: u32,
    pub address: u32,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            draining: BTreeSet::new(),
            rules: HashMap::new(),
            listening: ListeningShadow::default(),
            listening_v6: ListeningShadow::default(),
            // slot 0 leads nowhere
            hops: Interner::new(1, HOP_SLOTS),
            generations: vec![0; HOP_SLOTS as usize],
            endpoints: Interner::new(0, ENDPOINT_SLOTS),
            endpoint_entries: HashMap::new(),
            addresses: HashMap::new(),
            addresses_v6: HashMap::new(),
            routes: HashMap::new(),
            settings: None,
            devices: HashMap::new(),
            guards: Guards::default(),
        }
    }
}

impl Shadow {
    /// Takes note of the next hops and endpoints that an earlier relayd has left.
    pub fn adopt_ways(&mut self, hops: &[KernelHop], endpoints: &[EndpointEntry]) {
        for (slot, hop) in (0u32..).zip(hops) {
            self.generations[slot as usize] = hop.generation;
            if hop.interface != 0 {
                self.hops.adopt(slot, hop.with_generation(0));
            }
        }
        for (slot, entry) in (0u32..).zip(endpoints) {
            if !entry.address().is_unspecified() {
                let content = EndpointContent {
                    address: entry.address().into(),
                    source: entry.source().into(),
                    port: entry.port,
                    interface: entry.interface,
                };
                self.endpoints.adopt(slot, content);
                self.endpoint_entries.insert(slot, *entry);
            }
        }
    }
}
