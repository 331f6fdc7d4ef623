//! Reading what a relayd before us has left in the maps, so that the first apply changes only what must change.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{HashMap, MapData, MapError};
use relay_common::names;
use relay_common::round_trip::RoundTrips;
use relay_common::route::NextHop as KernelHop;
use relay_common::rule::{EndpointEntry, ListenerKey, Numbered, PORT_TABLE, PortEntry, RuleEntry, SourceKey};

use super::Unavailable;
use super::batch::Walk;
use super::guard::AllowedPrefix;
use super::listening::ListeningShadow;
use super::maps::{self, ListeningMaps, Maps, NameBytes};
use super::ports::{Family, Listeners, PortTables, Segments};
use super::shadow::{RoutePrefix, Shadow};
use super::slots::{Slots, decode_name};
use crate::rule::RuleName;

/// `BPF_NOEXIST`: what is there stays.
const NOEXIST: u64 = 1;

/// The slots of rules, and those that rules had before.
pub(super) fn slots(pins: &Path) -> Result<Slots, Unavailable> {
    let names = names_by_slot(&maps::open(pins, names::RULE_NAMES)?)?;
    Ok(slots_of(&names, &read_array(pins, names::RULES, maps::RULE_SLOTS)?))
}

/// Has the round trips of endpoints counted that a relayd made which knew nothing of that.
pub(super) fn count_round_trips(maps: &mut Maps, shadow: &Shadow) -> Result<(), Unavailable> {
    for &endpoint in shadow.endpoint_entries.keys() {
        let nothing = maps.round_trips.insert(endpoint, RoundTrips::default(), NOEXIST);
        present_is_fine(nothing).map_err(|error| failed(names::ROUND_TRIPS, &error))?;
    }
    Ok(())
}

fn present_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::EEXIST) => {
            Ok(())
        }
        other => other,
    }
}

/// All that the maps hold.
pub(super) fn shadow(maps: &Maps, pins: &Path) -> Result<Shadow, Unavailable> {
    let mut shadow = Shadow::default();
    let rules = read_array::<RuleEntry>(pins, names::RULES, maps::RULE_SLOTS)?;
    let names = names_by_slot(&maps.rule_names)?;
    shadow.slots = slots_of(&names, &rules);
    shadow.adopt_places(&rules);
    for (slot, (name, draining)) in names {
        shadow.rules.insert(slot, rules[slot as usize]);
        if draining {
            shadow.draining.insert(name);
        }
    }
    shadow.listening = listening(&maps.listening, pins, [names::PORTS, names::LISTENERS])?;
    shadow.listening_v6 = listening(&maps.listening_v6, pins, [names::PORTS_V6, names::LISTENERS_V6])?;
    let numbered = read_array::<Numbered>(pins, names::NUMBERED, maps::NUMBERS)?;
    for (number, entry) in (0u32..).zip(numbered).filter(|(_, entry)| entry.address != [0; 4]) {
        shadow.numbered.adopt(number, entry.address);
    }
    let hops = read_array::<KernelHop>(pins, names::NEXT_HOPS, maps::HOP_SLOTS)?;
    let endpoints = read_array::<EndpointEntry>(pins, names::ENDPOINTS, maps::ENDPOINT_SLOTS)?;
    shadow.adopt_ways(&hops, &endpoints);
    for entry in maps.addresses.iter() {
        let (address, interface) = entry.map_err(|error| failed(names::ADDRESSES, &error))?;
        shadow.addresses.insert(address, interface);
    }
    for entry in maps.addresses_v6.iter() {
        let (address, interface) = entry.map_err(|error| failed(names::ADDRESSES_V6, &error))?;
        shadow.addresses_v6.insert(address, interface);
    }
    // of what has gone long ago the map still holds all: new addresses must not wait for its places
    shadow.free_numbers();
    for entry in maps.routes.iter() {
        let (key, index) = entry.map_err(|error| failed(names::ROUTES, &error))?;
        let route = RoutePrefix {
            bits: key.prefix_len(),
            interface: key.data().interface(),
            address: key.data().address,
        };
        shadow.routes.insert(route, index);
    }
    for entry in maps.allowed.iter() {
        let (key, _) = entry.map_err(|error| failed(names::ALLOWED, &error))?;
        let bits = key.prefix_len() - SourceKey::RULE_BITS;
        let prefix = AllowedPrefix { address: key.data().address, bits };
        shadow.guards.lists.entry(key.data().rule()).or_default().insert(prefix);
    }
    shadow.guards.number = rules.iter().map(|rule| rule.guarded).max().unwrap_or(0);
    Ok(shadow)
}

/// Who listens for clients of one family. `[ports, listeners]`: what the maps are called.
fn listening<F: Family>(
    maps: &ListeningMaps<F::Wire>,
    pins: &Path,
    [ports, listeners]: [&'static str; 2],
) -> Result<ListeningShadow<F>, Unavailable>
where
    ListenerKey<F::Wire>: aya::Pod,
{
    let found: Result<Listeners<F>, _> = maps.listeners.iter().collect();
    let found = found.map_err(|error| failed(listeners, &error))?;
    let segments = Segments::adopt(&found);
    let ports = read_array::<PortEntry>(pins, ports, PORT_TABLE)?;
    Ok(ListeningShadow { segments, tables: PortTables { ports, listeners: found } })
}

fn failed(name: &str, error: &dyn std::fmt::Display) -> Unavailable {
    Unavailable(format!("map {name}: {error}"))
}

/// Names of rules, and whether each drains.
fn names_by_slot(
    map: &HashMap<MapData, u32, NameBytes>,
) -> Result<BTreeMap<u32, (RuleName, bool)>, Unavailable> {
    let mut names = BTreeMap::new();
    for entry in map.iter() {
        let (slot, bytes) = entry.map_err(|error| failed(names::RULE_NAMES, &error))?;
        let Some(name) = decode_name(&bytes).filter(|_| slot < maps::RULE_SLOTS) else { continue };
        names.insert(slot, name);
    }
    Ok(names)
}

/// A slot of any generation but the first has had a rule, whose flows may not all be gone.
fn slots_of(names: &BTreeMap<u32, (RuleName, bool)>, rules: &[RuleEntry]) -> Slots {
    let named = names.iter().map(|(&slot, (name, _))| (slot, name.clone()));
    let used = (0..).zip(rules).filter(|(_, rule)| rule.generation != 0).map(|(slot, _)| slot);
    Slots::adopt(named, used)
}

fn read_array<V: aya::Pod>(pins: &Path, name: &'static str, entries: u32) -> Result<Vec<V>, Unavailable> {
    let map = maps::open_raw(pins, name)?;
    let mut values = Vec::with_capacity(entries as usize);
    let fd = map.fd();
    let mut walk = Walk::<_, u32, V>::new(fd);
    while let Some(chunk) = walk.next_chunk().map_err(|error| failed(name, &error))? {
        // an array is walked in the order of its indices
        values.extend(chunk.map(|(_, value)| value));
    }
    if values.len() == entries as usize { Ok(values) } else { Err(failed(name, &"it ends early")) }
}
