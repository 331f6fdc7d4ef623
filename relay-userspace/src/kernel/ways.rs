//! Ways through the maps: next hops, the routes that clients are reached by, endpoints. The part of an apply that knows
//! how flows find out that their way has changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use aya::maps::lpm_trie::Key;
use relay_common::choice::EndpointUsage;
use relay_common::names;
use relay_common::net::{Address, MAPPED_BITS, ipv6_to_wire, mapped};
use relay_common::round_trip::RoundTrips;
use relay_common::route::{Gateway, NextHop as KernelHop, RouteKey};
use relay_common::rule::EndpointEntry;

use super::apply::{absent_is_fine, map_error};
use super::load::Dataplane;
use super::shadow::{EndpointContent, RoutePrefix};
use super::slots::Slots;
use super::{Carried, Desired, DesiredRule, KernelError, maps};
use crate::host::{NextHop, Path};
use crate::plan::KernelEnd;

impl Dataplane {
    /// Gives every next hop that rules use a slot. Slots in use are never rewritten.
    pub(super) fn write_hops(
        &mut self,
        rules: &[Arc<DesiredRule>],
        desired: &Desired,
    ) -> Result<HashMap<NextHop, u32>, KernelError> {
        let mut slots = HashMap::new();
        for rule in rules {
            for path in rule.carried.iter().flat_map(|carried| carried.paths.iter().flatten()) {
                let found = self.take_hop(&path.hop, desired, &mut slots)?;
                self.shortage.rules += usize::from(!found);
            }
        }
        Ok(slots)
    }

    /// The same for those that clients are reached by.
    pub(super) fn write_route_hops(
        &mut self,
        desired: &Desired,
        slots: &mut HashMap<NextHop, u32>,
    ) -> Result<(), KernelError> {
        for hop in desired.routes.hops.values() {
            self.take_hop(hop, desired, slots)?;
        }
        Ok(())
    }

    /// Whether there is a slot for it.
    fn take_hop(
        &mut self,
        hop: &NextHop,
        desired: &Desired,
        slots: &mut HashMap<NextHop, u32>,
    ) -> Result<bool, KernelError> {
        if slots.contains_key(hop) {
            return Ok(true);
        }
        let content = kernel_hop(hop, desired);
        let Some((slot, new)) = self.shadow.hops.slot(&content) else {
            self.shortage.passing = true;
            return Ok(false);
        };
        if new {
            self.write_hop(slot, content)?;
        }
        slots.insert(hop.clone(), slot);
        Ok(true)
    }

    /// Writes a next hop under a generation that no flow holds for this slot.
    fn write_hop(&mut self, slot: u32, content: KernelHop) -> Result<(), KernelError> {
        let generation = self.shadow.generations[slot as usize].wrapping_add(1);
        let entry = content.with_generation(generation);
        self.maps.next_hops.set(slot, entry, 0).map_err(map_error(names::NEXT_HOPS))?;
        self.shadow.generations[slot as usize] = generation;
        Ok(())
    }

    /// Makes every flow look its way up again at its next packet.
    pub(super) fn raise_generations(&mut self) -> Result<(), KernelError> {
        let hops: Vec<(u32, KernelHop)> =
            self.shadow.hops.iter().map(|(content, slot)| (slot, *content)).collect();
        for (slot, content) in hops {
            self.write_hop(slot, content)?;
        }
        Ok(())
    }

    /// Returns whether any client's way back may have changed.
    pub(super) fn write_routes(
        &mut self,
        desired: &Desired,
        hops: &HashMap<NextHop, u32>,
    ) -> Result<bool, KernelError> {
        let mut wanted = HashMap::new();
        for (route, hop) in &desired.routes.hops {
            let Some(&slot) = hops.get(hop) else {
                self.shortage.routes += 1;
                continue;
            };
            let (address, before) = match route.destination {
                IpAddr::V4(destination) => (mapped(destination.into()), MAPPED_BITS),
                IpAddr::V6(destination) => (ipv6_to_wire(destination), 0),
            };
            let bits = RouteKey::INTERFACE_BITS + before + u32::from(route.prefix);
            let prefix = RoutePrefix { bits, interface: route.interface, address };
            wanted.insert(prefix, slot);
        }
        if wanted == self.shadow.routes {
            return Ok(false);
        }
        for (&prefix, &index) in &wanted {
            if self.shadow.routes.get(&prefix) != Some(&index) {
                let inserted = self.maps.routes.insert(&route_key(prefix), index, 0);
                if self.shortage.has_room(inserted).map_err(map_error(names::ROUTES))? {
                    self.shadow.routes.insert(prefix, index);
                } else {
                    self.shortage.routes += 1;
                }
            }
        }
        let gone: Vec<RoutePrefix> =
            self.shadow.routes.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
        for prefix in gone {
            absent_is_fine(self.maps.routes.remove(&route_key(prefix))).map_err(map_error(names::ROUTES))?;
            self.shadow.routes.remove(&prefix);
        }
        Ok(true)
    }

    /// Gives every backend of rules, which have their slots, one too, and keeps its next hop current.
    pub(super) fn write_endpoints(
        &mut self,
        rules: &[Arc<DesiredRule>],
        hops: &HashMap<NextHop, u32>,
        rerouted: &mut bool,
    ) -> Result<(), KernelError> {
        let ends: Vec<_> = ends(rules, &self.shadow.slots).collect();
        for (content, path) in ends {
            let most = maps::ENDPOINT_SLOTS as usize;
            let (slot, new) =
                self.shadow.endpoints.slot(&content).ok_or(KernelError::TooManyEndpoints { most })?;
            let hop = path.and_then(|path| hops.get(&path.hop)).copied().unwrap_or(0);
            let entry = self.endpoint_entry(&content, hop)?;
            let old = self.shadow.endpoint_entries.get(&slot);
            let entry = old.map_or(entry, |old| entry.deserted_like(old));
            if old != Some(&entry) {
                *rerouted |= old
                    .is_some_and(|old| old.address() == entry.address() && old.hop_index != entry.hop_index);
                self.maps.endpoints.set(slot, entry, 0).map_err(map_error(names::ENDPOINTS))?;
                self.shadow.endpoint_entries.insert(slot, entry);
            }
            if new {
                let nothing = self.maps.round_trips.insert(slot, RoundTrips::default(), 0);
                nothing.map_err(map_error(names::ROUND_TRIPS))?;
                // from now on its flows are counted anew now and then
                self.endpoint_usage.endpoint(slot).into_iter().for_each(EndpointUsage::begin);
            }
        }
        Ok(())
    }

    fn endpoint_entry(&mut self, content: &EndpointContent, hop: u32) -> Result<EndpointEntry, KernelError> {
        let (address, source) = (self.address(content.address)?, self.address(content.source)?);
        let mut entry = EndpointEntry::new(address, source, content.port, hop as u16, 0);
        if content.address.is_ipv6() {
            entry = entry.by_numbers();
        }
        entry.interface = content.interface;
        entry.rule = content.rule;
        Ok(entry)
    }

    /// What stands for an address in flows.
    fn address(&mut self, address: IpAddr) -> Result<Address, KernelError> {
        match address {
            IpAddr::V4(address) => Ok(address.into()),
            IpAddr::V6(address) => self.number(address).map(Address::from_wire),
        }
    }

    /// Next hops and endpoints that nothing refers to any more. Their flows notice and look elsewhere.
    pub(super) fn free_ways(
        &mut self,
        desired: &Desired,
        hops: &HashMap<NextHop, u32>,
    ) -> Result<(), KernelError> {
        let wanted: HashSet<EndpointContent> =
            ends(&desired.rules, &self.shadow.slots).map(|(content, _)| content).collect();
        for slot in self.shadow.endpoints.retain(|content| wanted.contains(content)) {
            let nothing = EndpointEntry::new(Address::UNSPECIFIED, Address::UNSPECIFIED, 0, 0, 0);
            self.maps.endpoints.set(slot, nothing, 0).map_err(map_error(names::ENDPOINTS))?;
            absent_is_fine(self.maps.round_trips.remove(&slot)).map_err(map_error(names::ROUND_TRIPS))?;
            self.shadow.endpoint_entries.remove(&slot);
        }
        let used: HashSet<KernelHop> = hops.keys().map(|hop| kernel_hop(hop, desired)).collect();
        let contents: BTreeMap<u32, KernelHop> =
            self.shadow.hops.iter().map(|(content, slot)| (slot, *content)).collect();
        for slot in self.shadow.hops.retain(|content| used.contains(content)) {
            // first the generation, so that flows leave; then the way itself
            if let Some(content) = contents.get(&slot) {
                self.write_hop(slot, *content)?;
            }
            self.write_hop(slot, KernelHop::default())?;
        }
        Ok(())
    }
}

fn route_key(prefix: RoutePrefix) -> Key<RouteKey> {
    Key::new(prefix.bits, RouteKey::new(prefix.interface, prefix.address))
}

/// What all rules' backends are as endpoints, and the ways to them.
fn ends<'a>(
    rules: &'a [Arc<DesiredRule>],
    slots: &Slots,
) -> impl Iterator<Item = (EndpointContent, Option<&'a Path>)> {
    let carried = rules.iter().filter_map(|rule| Some((slots.get(&rule.name)?, rule.carried.as_ref()?)));
    carried.flat_map(|(slot, carried)| rule_ends(slot, carried).flatten())
}

/// The same of each backend of the rule in a slot, by its index; `None`: it has no address yet.
pub(super) fn rule_ends(
    slot: u32,
    carried: &Carried,
) -> impl Iterator<Item = Option<(EndpointContent, Option<&Path>)>> {
    let ends = carried.kernel.ends.iter().zip(&carried.paths);
    ends.map(move |(end, path)| Some((endpoint_content(slot, end.as_ref()?, path.as_ref()), path.as_ref())))
}

/// `path`: `None` where there is no way.
fn endpoint_content(rule: u32, end: &KernelEnd, path: Option<&Path>) -> EndpointContent {
    EndpointContent {
        rule,
        address: end.way.backend,
        // without a way nothing is sent, by nobody
        source: path.map_or(end.way.backend, |path| path.source),
        port: end.first_port.unwrap_or(0),
        interface: end.way.interface.unwrap_or(0),
    }
}

fn kernel_hop(hop: &NextHop, desired: &Desired) -> KernelHop {
    let (family, gateway) = match hop.gateway {
        None => (Gateway::OnLink, [0; 4]),
        Some(IpAddr::V4(gateway)) => (Gateway::V4, [Address::from(gateway).to_wire(), 0, 0, 0]),
        Some(IpAddr::V6(gateway)) => (Gateway::V6, ipv6_to_wire(gateway)),
    };
    let mut entry = KernelHop::new(hop.interface, hop.mtu, family, gateway);
    entry.device = desired.devices.get(&hop.interface).map_or(0, |slot| slot + 1);
    entry
}
