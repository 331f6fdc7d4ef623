//! Who listens, brought into the maps by difference: own addresses, ports, listeners, of both address families.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use aya::Pod;
use aya::maps::{HashMap as KernelHashMap, MapData, MapError};
use relay_common::names;
use relay_common::net::{Port, Protocol};
use relay_common::rule::{ListenerKey, PortEntry, PortKind, port_index};

use super::apply::{absent_is_fine, map_error};
use super::load::Dataplane;
use super::maps::ListeningMaps;
use super::ports::{Family, Listening, PortTables, Segments, lay_out};
use super::slots::Slots;
use super::{Desired, DesiredRule, KernelError, batch, maps};

/// What the maps say about who listens for clients of one family.
pub struct ListeningShadow<F: Family> {
    pub segments: Segments<F>,
    pub tables: PortTables<F>,
}

impl<F: Family> Default for ListeningShadow<F> {
    fn default() -> Self {
        Self { segments: Segments::default(), tables: PortTables::default() }
    }
}

/// Which rules listen on which ports, as the maps say.
pub struct Listeners<'a> {
    families: [Ports<'a>; 2],
}

/// One family's ports.
struct Ports<'a> {
    ports: &'a [PortEntry],
    /// Segments with the slots of rules that listen there.
    members: HashSet<(u32, u32)>,
}

impl Listeners<'_> {
    /// Whether the rule of a slot listens on a port, on any address.
    pub fn has(&self, slot: u32, protocol: Protocol, port: u16) -> bool {
        let index = port_index(protocol, Port::new(port)) as usize;
        self.families.iter().any(|family| match family.ports[index].kind() {
            PortKind::Everywhere => family.ports[index].id() == slot,
            PortKind::ByAddress => family.members.contains(&(family.ports[index].id(), slot)),
            PortKind::None => false,
        })
    }
}

impl<F: Family> ListeningShadow<F> {
    fn ports(&self) -> Ports<'_> {
        let listeners = self.tables.listeners.iter();
        let members = listeners.map(|(key, entry)| (key.segment, entry.rule)).collect();
        Ports { ports: &self.tables.ports, members }
    }
}

/// What the two maps of one family are called.
struct Named {
    ports: &'static str,
    listeners: &'static str,
}

impl Dataplane {
    pub(super) fn add_addresses(&mut self, desired: &Desired) -> Result<(), KernelError> {
        for (address, interface) in chosen(&desired.addresses) {
            if self.shadow.addresses.get(&address) == Some(&interface) {
                continue;
            }
            let inserted = self.maps.addresses.insert(address, interface, 0);
            if self.shortage.has_room(inserted).map_err(map_error(names::ADDRESSES))? {
                self.shadow.addresses.insert(address, interface);
            } else {
                self.shortage.addresses += 1;
            }
        }
        self.shortage.addresses += desired.addresses.len().saturating_sub(maps::ADDRESSES);
        self.add_addresses_v6(desired)
    }

    pub(super) fn remove_addresses(&mut self, desired: &Desired) -> Result<(), KernelError> {
        let (maps, shadow) = (&mut self.maps, &mut self.shadow);
        remove_others(&mut maps.addresses, &mut shadow.addresses, &chosen(&desired.addresses))
            .map_err(map_error(names::ADDRESSES))?;
        self.remove_addresses_v6(desired)
    }

    /// Who listens where; at first, who has for the relayd before.
    pub fn listeners(&self) -> Listeners<'_> {
        Listeners { families: [self.shadow.listening.ports(), self.shadow.listening_v6.ports()] }
    }

    /// Rules of either plane: what the kernel plane does not carry it counts.
    pub(super) fn write_listening(&mut self, desired: &Desired) -> Result<(), KernelError> {
        let (maps, shadow) = (&mut self.maps, &mut self.shadow);
        let named = Named { ports: names::PORTS, listeners: names::LISTENERS };
        let rules = desired.rules.iter().filter_map(|rule| listening_v4(rule, &shadow.slots));
        write(&mut maps.listening, &mut shadow.listening, rules, &named)?;
        let named = Named { ports: names::PORTS_V6, listeners: names::LISTENERS_V6 };
        let rules = desired.rules.iter().filter_map(|rule| listening_v6(rule, &shadow.slots));
        write(&mut maps.listening_v6, &mut shadow.listening_v6, rules, &named)
    }
}

fn listening_v4<'a>(rule: &'a DesiredRule, slots: &Slots) -> Option<Listening<'a, Ipv4Addr>> {
    let slot = slots.get(&rule.name)?;
    let user = rule.user.as_ref();
    if let Some(carried) = &rule.carried {
        let kernel = &carried.kernel;
        // what the kernel has no part in is listened for too, so that it is counted
        let protocols = user.filter(|user| user.ipv4).map_or(kernel.protocols, |user| user.protocols);
        return Some(Listening { slot, protocols, listeners: &kernel.listeners });
    }
    let user = user?;
    Some(Listening { slot, protocols: user.protocols, listeners: &user.heard_v4 })
}

fn listening_v6<'a>(rule: &'a DesiredRule, slots: &Slots) -> Option<Listening<'a, Ipv6Addr>> {
    let slot = slots.get(&rule.name)?;
    let user = rule.user.as_ref();
    if let Some(carried) = rule.carried.as_ref().filter(|carried| !carried.kernel.listeners_v6.is_empty()) {
        let kernel = &carried.kernel;
        let protocols = user.filter(|user| user.ipv6).map_or(kernel.protocols, |user| user.protocols);
        return Some(Listening { slot, protocols, listeners: &kernel.listeners_v6 });
    }
    let user = user?;
    Some(Listening { slot, protocols: user.protocols, listeners: &user.heard_v6 })
}

/// Own addresses that there is room for.
fn chosen(addresses: &BTreeMap<Ipv4Addr, u32>) -> HashMap<u32, u32> {
    let addresses = addresses.iter().take(maps::ADDRESSES);
    addresses.map(|(&address, &interface)| (address.wire(), interface)).collect()
}

fn remove_others<K: Pod + Eq + Hash>(
    map: &mut KernelHashMap<MapData, K, u32>,
    shadow: &mut HashMap<K, u32>,
    wanted: &HashMap<K, u32>,
) -> Result<(), MapError> {
    let gone: Vec<K> = shadow.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
    for key in gone {
        absent_is_fine(map.remove(&key))?;
        shadow.remove(&key);
    }
    Ok(())
}

/// Listeners first, then the ports that point to them, then the listeners that nothing points to any more.
fn write<'a, F: Family + 'a>(
    maps: &mut ListeningMaps<F::Wire>,
    shadow: &mut ListeningShadow<F>,
    rules: impl Iterator<Item = Listening<'a, F>>,
    named: &Named,
) -> Result<(), KernelError>
where
    ListenerKey<F::Wire>: Pod,
{
    let tables = lay_out(rules, &mut shadow.segments);
    let there = &mut shadow.tables;
    for (key, entry) in &tables.listeners {
        if there.listeners.get(key) != Some(entry) {
            maps.listeners.insert(key, entry, 0).map_err(map_error(named.listeners))?;
            there.listeners.insert(*key, *entry);
        }
    }
    for (start, run) in changed_runs(&there.ports, &tables.ports) {
        let keys: Vec<u32> = (start as u32..).take(run.len()).collect();
        batch::update(maps.ports.fd(), &keys, run)
            .map_err(|source| KernelError::Batch { map: named.ports, source })?;
        there.ports[start..start + run.len()].copy_from_slice(run);
    }
    let gone: Vec<_> =
        there.listeners.keys().filter(|key| !tables.listeners.contains_key(key)).copied().collect();
    for key in gone {
        absent_is_fine(maps.listeners.remove(&key)).map_err(map_error(named.listeners))?;
        there.listeners.remove(&key);
    }
    Ok(())
}

/// Stretches of `new` that differ from `old`, with where they start.
fn changed_runs<'a>(old: &[PortEntry], new: &'a [PortEntry]) -> Vec<(usize, &'a [PortEntry])> {
    let mut runs = Vec::new();
    let mut start = None;
    for (index, (before, after)) in old.iter().zip(new).enumerate() {
        match (before == after, start) {
            (false, None) => start = Some(index),
            (true, Some(from)) => {
                runs.push((from, &new[from..index]));
                start = None;
            }
            _ => {}
        }
    }
    if let Some(from) = start {
        runs.push((from, &new[from..]));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_ports_are_written() {
        let port = |rule| PortEntry::everywhere(rule, 1);
        let old = [port(1), port(1), port(2), port(2), port(3)];
        let new = [port(1), port(9), port(9), port(2), port(4)];
        let runs = changed_runs(&old, &new);
        let shapes: Vec<(usize, usize)> = runs.iter().map(|(start, run)| (*start, run.len())).collect();
        assert_eq!(shapes, [(1, 2), (4, 1)]);
        assert!(changed_runs(&old, &old).is_empty());
    }
}
