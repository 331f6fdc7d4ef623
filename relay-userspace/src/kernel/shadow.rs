//! What the maps hold, as relayd knows it. Rule maps have one writer, so the shadow is the truth and a change is a
//! difference against it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use relay_common::choice::{Choice, Place};
use relay_common::net::{Address, ipv6_from_wire, ipv6_to_wire};
use relay_common::route::NextHop as KernelHop;
use relay_common::rule::{EndpointEntry, OwnAddress, RuleEntry};
use relay_common::settings::Settings;

use super::guard::Guards;
use super::hops::Interner;
use super::listening::ListeningShadow;
use super::maps::{ENDPOINT_SLOTS, HOP_SLOTS, NUMBERS};
use super::places::Stretches;
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
    /// Those that new flows choose among.
    pub places: Stretches,
    /// Slots of rules that have no room for a table of their backends.
    pub short: BTreeSet<u32>,
    pub addresses: HashMap<u32, u32>,
    pub addresses_v6: HashMap<[u32; 4], OwnAddress>,
    /// IPv6 addresses of this host and of backends that there are, or were: flows know them by their numbers.
    pub numbered: Interner<[u32; 4]>,
    pub routes: HashMap<RoutePrefix, u32>,
    pub settings: Option<Settings>,
    pub devices: HashMap<u16, u32>,
    pub guards: Guards,
}

/// What makes an endpoint: the slot of its rule, its address, the address its flows are sent from, where the rule's first port goes (0: the
/// port stays), the interface that its packets must leave by (0: any).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EndpointContent {
    pub rule: u32,
    pub address: IpAddr,
    pub source: IpAddr,
    pub port: u16,
    pub interface: u32,
}

/// A key of the route table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RoutePrefix {
    pub bits: u32,
    pub interface: u32,
    pub address: [u32; 4],
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
            places: Stretches::new(Place::ROOM),
            short: BTreeSet::new(),
            addresses: HashMap::new(),
            addresses_v6: HashMap::new(),
            // 0 is no number
            numbered: Interner::new(1, NUMBERS),
            routes: HashMap::new(),
            settings: None,
            devices: HashMap::new(),
            guards: Guards::default(),
        }
    }
}

impl Shadow {
    /// Numbers of addresses that neither this host has nor a backend may be given out again. Their map keeps what it holds:
    /// flows that the address has left may still ask for it.
    pub fn free_numbers(&mut self) {
        let of_backends: HashSet<[u32; 4]> = self
            .endpoints
            .iter()
            .flat_map(|(content, _)| [content.address, content.source])
            .filter_map(|address| match address {
                IpAddr::V4(_) => None,
                IpAddr::V6(address) => Some(ipv6_to_wire(address)),
            })
            .collect();
        let own = &self.addresses_v6;
        self.numbered.retain(|address| own.contains_key(address) || of_backends.contains(address));
    }

    /// Takes note of the places that rules' new flows choose among. Rules without a name, too: their entries may be read.
    pub fn adopt_places(&mut self, rules: &[RuleEntry]) {
        let choices = rules.iter().flat_map(|rule| [rule.tcp, rule.udp]);
        for (first, count) in choices.filter_map(Choice::stretch) {
            self.places.adopt(first, count);
        }
    }

    /// Takes note of the next hops and endpoints that an earlier relayd has left.
    pub fn adopt_ways(&mut self, hops: &[KernelHop], endpoints: &[EndpointEntry]) {
        for (slot, hop) in (0u32..).zip(hops) {
            self.generations[slot as usize] = hop.generation;
            if hop.interface != 0 {
                self.hops.adopt(slot, hop.with_generation(0));
            }
        }
        let numbers: HashMap<u32, [u32; 4]> =
            self.numbered.iter().map(|(words, number)| (number, *words)).collect();
        for (slot, entry) in (0u32..).zip(endpoints) {
            // `None`: a number that means nothing
            let known = |address: Address| match entry.is_v6() {
                false => Some(IpAddr::from(Ipv4Addr::from(address))),
                true => numbers.get(&address.to_wire()).map(|words| ipv6_from_wire(*words).into()),
            };
            let known = known(entry.address()).zip(known(entry.source()));
            if let Some((address, source)) = known.filter(|_| !entry.address().is_unspecified()) {
                let (port, interface) = (entry.port, entry.interface);
                self.endpoints
                    .adopt(slot, EndpointContent { rule: entry.rule, address, source, port, interface });
                self.endpoint_entries.insert(slot, *entry);
            }
        }
    }
}
