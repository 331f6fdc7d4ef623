//! Handles to the pinned maps, and what each must look like.

use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::xdp::DevMap;
use aya::maps::{Array, HashMap, Map, MapData, MapType, PerCpuArray, PerCpuHashMap};
use relay_common::counters::{COUNTED_PORTS, DropKey, PortCounters, PortKey, RuleCounters};
use relay_common::names;
use relay_common::round_trip::RoundTrips;
use relay_common::route::{NextHop, RouteKey};
use relay_common::rule::{
    EndpointEntry, ListenerEntry, ListenerKey, Numbered, OwnAddress, PortEntry, RuleEntry, SourceKey,
};
use relay_common::settings::Settings;

use super::Unavailable;
use crate::host::Room;

/// A rule's name as it lies in its map: length, then bytes. The byte after says whether the rule drains.
pub type NameBytes = [u8; 72];

/// The maps that relayd writes.
pub struct Maps {
    pub listening: ListeningMaps<u32>,
    pub listening_v6: ListeningMaps<[u32; 4]>,
    pub rules: Array<MapData, RuleEntry>,
    pub rule_names: HashMap<MapData, u32, NameBytes>,
    pub endpoints: Array<MapData, EndpointEntry>,
    pub round_trips: HashMap<MapData, u32, RoundTrips>,
    pub next_hops: Array<MapData, NextHop>,
    pub routes: LpmTrie<MapData, RouteKey, u32>,
    pub addresses: HashMap<MapData, u32, u32>,
    pub addresses_v6: HashMap<MapData, [u32; 4], OwnAddress>,
    pub numbered: Array<MapData, Numbered>,
    pub counters: PerCpuArray<MapData, RuleCounters>,
    pub drops: PerCpuHashMap<MapData, DropKey, u64>,
    pub port_counters: HashMap<MapData, PortKey, PortNumbers>,
    pub settings: Array<MapData, Settings>,
    pub devices: DevMap<MapData>,
    pub allowed: LpmTrie<MapData, SourceKey, u32>,
    pub paced: HashMap<MapData, u32, u32>,
}

/// [`PortCounters`] as plain numbers: packets in and out, bytes in and out.
pub type PortNumbers = [u64; 4];

const _: () = assert!(size_of::<PortNumbers>() == size_of::<PortCounters>());

/// Who listens for clients of one address family.
pub struct ListeningMaps<A> {
    /// Written in batches, so without aya's typed wrapper: `u32` to `PortEntry`.
    pub ports: MapData,
    pub listeners: HashMap<MapData, ListenerKey<A>, ListenerEntry>,
}

impl Maps {
    /// Opens the pins.
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        Ok(Self {
            listening: ListeningMaps {
                ports: open_raw(pins, names::PORTS)?,
                listeners: open(pins, names::LISTENERS)?,
            },
            listening_v6: ListeningMaps {
                ports: open_raw(pins, names::PORTS_V6)?,
                listeners: open(pins, names::LISTENERS_V6)?,
            },
            rules: open(pins, names::RULES)?,
            rule_names: open(pins, names::RULE_NAMES)?,
            endpoints: open(pins, names::ENDPOINTS)?,
            round_trips: open(pins, names::ROUND_TRIPS)?,
            next_hops: open(pins, names::NEXT_HOPS)?,
            routes: open(pins, names::ROUTES)?,
            addresses: open(pins, names::ADDRESSES)?,
            addresses_v6: open(pins, names::ADDRESSES_V6)?,
            numbered: open(pins, names::NUMBERED)?,
            counters: open(pins, names::COUNTERS)?,
            drops: open(pins, names::DROPS)?,
            port_counters: open(pins, names::PORT_COUNTERS)?,
            settings: open(pins, names::SETTINGS)?,
            devices: open(pins, names::DEVICES)?,
            allowed: open(pins, names::ALLOWED)?,
            paced: open(pins, names::PACED)?,
        })
    }
}

/// Opens one pinned map.
pub fn open<T: TryFrom<Map, Error = aya::maps::MapError>>(pins: &Path, name: &str) -> Result<T, Unavailable> {
    let failed = |error: aya::maps::MapError| Unavailable(format!("map {name}: {error}"));
    let map = Map::from_map_data(open_raw(pins, name)?).map_err(failed)?;
    T::try_from(map).map_err(failed)
}

/// Opens one pinned map without saying what is in it.
pub fn open_raw(pins: &Path, name: &str) -> Result<MapData, Unavailable> {
    MapData::from_pin(pins.join(name)).map_err(|error| Unavailable(format!("map {name}: {error}")))
}

/// What a pinned map must look like to be taken over. `entries`: `None` where the size is a setting.
pub struct Shape {
    pub name: &'static str,
    pub kind: MapType,
    pub key: usize,
    pub value: usize,
    pub entries: Option<u32>,
}

fn shape<K: Pod, V: Pod>(name: &'static str, kind: MapType, entries: Option<u32>) -> Shape {
    Shape { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries }
}

/// An array that is mapped into relayd's memory.
const fn shared<V>(name: &'static str, entries: u32) -> Shape {
    Shape { name, kind: MapType::Array, key: 4, value: size_of::<V>(), entries: Some(entries) }
}

pub const RULE_SLOTS: u32 = 16_384;
pub const ENDPOINT_SLOTS: u32 = 65_536;
pub const HOP_SLOTS: u32 = 4_096;
/// Own addresses of one family.
pub const ADDRESSES: usize = 4_096;
/// Of 16,384, since old kernels replace none when all are taken; some next hops are left to backends, and the first leads nowhere.
pub const ROOM_FOR_ROUTES: Room = Room { routes: 16_000, hops: HOP_SLOTS as usize - 1 - 512 };
pub const DEVICE_SLOTS: u16 = 256;
pub const NUMBERS: u32 = 65_536;
/// Interfaces whose queue keeps packets until they are due.
pub const PACED: u32 = 256;

/// Every pinned map. Sizes of flow tables follow the settings.
pub fn shapes() -> Vec<Shape> {
    use relay_common::choice::{EndpointUsage, Place};
    use relay_common::ended::EndedFlow;
    use relay_common::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
    use relay_common::meter::{Client, METERS, Meter};
    use relay_common::rule::PORT_TABLE;
    use relay_common::settings::Pressure;
    use relay_common::usage::Usage;
    vec![
        shape::<FlowKey, FlowEntry>(names::FLOWS_TCP, MapType::Hash, None),
        shape::<FlowKey, FlowEntry>(names::FLOWS_UDP, MapType::Hash, None),
        shape::<FlowKey, FlowEntry>(names::UNPROVEN, MapType::LruHash, None),
        shape::<FragmentKey, FragmentEntry>(names::FRAGMENTS, MapType::LruHash, None),
        shape::<FragmentKey<[u32; 4]>, FragmentEntry>(names::FRAGMENTS_V6, MapType::LruHash, None),
        shape::<u32, PortEntry>(names::PORTS, MapType::Array, Some(PORT_TABLE)),
        shape::<ListenerKey, ListenerEntry>(names::LISTENERS, MapType::Hash, None),
        shape::<u32, PortEntry>(names::PORTS_V6, MapType::Array, Some(PORT_TABLE)),
        shape::<ListenerKey<[u32; 4]>, ListenerEntry>(names::LISTENERS_V6, MapType::Hash, None),
        shape::<u32, RuleEntry>(names::RULES, MapType::Array, Some(RULE_SLOTS)),
        shape::<u32, NameBytes>(names::RULE_NAMES, MapType::Hash, None),
        shape::<u32, EndpointEntry>(names::ENDPOINTS, MapType::Array, Some(ENDPOINT_SLOTS)),
        shared::<EndpointUsage>(names::ENDPOINT_USAGE, ENDPOINT_SLOTS),
        shape::<u32, RoundTrips>(names::ROUND_TRIPS, MapType::Hash, Some(ENDPOINT_SLOTS)),
        shared::<u64>(names::PLACES, Place::ROOM / 2),
        shape::<u32, NextHop>(names::NEXT_HOPS, MapType::Array, Some(HOP_SLOTS)),
        Shape { name: names::ROUTES, kind: MapType::LpmTrie, key: 24, value: 4, entries: None },
        shape::<u32, u32>(names::ADDRESSES, MapType::Hash, None),
        shape::<[u32; 4], OwnAddress>(names::ADDRESSES_V6, MapType::Hash, None),
        shape::<u32, Numbered>(names::NUMBERED, MapType::Array, Some(NUMBERS)),
        shape::<u32, RuleCounters>(names::COUNTERS, MapType::PerCpuArray, Some(RULE_SLOTS)),
        shape::<PortKey, PortNumbers>(names::PORT_COUNTERS, MapType::Hash, Some(2 * COUNTED_PORTS)),
        shape::<DropKey, u64>(names::DROPS, MapType::PerCpuHash, None),
        shape::<u32, Settings>(names::SETTINGS, MapType::Array, Some(1)),
        shape::<u32, Pressure>(names::PRESSURE, MapType::Array, Some(2)),
        Shape { name: names::DEVICES, kind: MapType::DevMap, key: 4, value: 8, entries: None },
        shape::<u32, u32>(names::PACED, MapType::Hash, Some(PACED)),
        Shape { name: names::ALLOWED, kind: MapType::LpmTrie, key: 24, value: 4, entries: None },
        shared::<Usage>(names::USAGE, RULE_SLOTS),
        shared::<Meter>(names::METERS, METERS),
        shape::<SourceKey, u64>(names::SOURCES, MapType::Hash, None),
        shape::<SourceKey, u64>(names::PACES, MapType::LruHash, None),
        Shape {
            name: names::CLIENTS,
            kind: MapType::LruHash,
            key: size_of::<SourceKey>(),
            value: size_of::<Client>(),
            entries: None,
        },
        Shape {
            name: names::ENDED,
            kind: MapType::RingBuf,
            key: 0,
            value: 0,
            entries: Some(EndedFlow::RING),
        },
        shape::<i32, u32>(names::SHARED_SOCKETS, MapType::SkStorage, None),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pinned_map_has_a_shape() {
        let shapes: Vec<&str> = shapes().iter().map(|shape| shape.name).collect();
        let mut pinned = names::PINNED.to_vec();
        let mut known = shapes.clone();
        pinned.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, pinned);
    }
}
