//! Reading counters. Has its own handles to the pinned maps, so that nobody waits for the supervisor to be counted.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};
use relay_common::counters::{DropKey, DropReason, NO_RULE, PortKey, RuleCounters};
use relay_common::names;

use super::batch::Walk;
use super::maps::PortNumbers;
use super::round_trips::{RoundTripTable, RoundTripsByEnd};
use super::{Unavailable, maps};
use crate::accounting::amounts::Amounts;
use crate::accounting::ports::PortReadings;

pub struct Meter {
    counters: PerCpuArray<MapData, RuleCounters>,
    /// The counters' map, by its number in the kernel.
    pub id: u32,
    drops: PerCpuHashMap<MapData, DropKey, u64>,
    round_trips: RoundTripTable,
    ports: MapData,
}

/// Totals of one rule over all CPUs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    pub ingress: Direction,
    pub egress: Direction,
    pub flows: u64,
    pub drops: BTreeMap<DropReason, u64>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Direction {
    pub packets: u64,
    pub bytes: u64,
}

/// Drops by rule slot and reason; `NO_RULE` for packets that belong to none.
pub type Drops = BTreeMap<u32, BTreeMap<DropReason, u64>>;

impl Meter {
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        Ok(Self {
            counters: maps::open(pins, names::COUNTERS)?,
            id: number(pins)?,
            drops: maps::open(pins, names::DROPS)?,
            round_trips: RoundTripTable::open(pins)?,
            ports: maps::open_raw(pins, names::PORT_COUNTERS)?,
        })
    }

    /// All drops, in one walk.
    pub fn drops(&self) -> Drops {
        let mut found = Drops::new();
        for (key, per_cpu) in self.drops.iter().flatten() {
            let Some(reason) = DropReason::from_number(key.reason) else { continue };
            let total: u64 = per_cpu.iter().sum();
            if total > 0 {
                *found.entry(key.rule).or_default().entry(reason).or_default() += total;
            }
        }
        found
    }

    /// Round trips of all rules' backends, in one walk.
    pub fn round_trips(&self) -> RoundTripsByEnd {
        self.round_trips.read()
    }

    /// Counters of all ports that are counted by themselves, by slot and port. `None` if they cannot be read.
    pub fn ports(&self) -> Option<PortReadings> {
        let mut found = PortReadings::new();
        let mut walk = Walk::<_, PortKey, PortNumbers>::new(self.ports.fd());
        while let Some(chunk) = walk.next_chunk().ok()? {
            found.extend(chunk.filter_map(|(key, [packets_in, packets_out, bytes_in, bytes_out])| {
                let port = u16::try_from(key.port).ok()?;
                let amounts = Amounts::from_array([bytes_in, packets_in, bytes_out, packets_out, 0]);
                Some(((key.rule, port), amounts))
            }));
        }
        Some(found)
    }

    /// Totals of the rule in a slot, its drops taken from [`Meter::drops`].
    pub fn totals(&self, slot: u32, drops: &Drops) -> Totals {
        Totals {
            drops: drops.get(&slot).cloned().unwrap_or_default(),
            ..self.traffic(slot).unwrap_or_default()
        }
    }

    /// The same without drops; `None` if they cannot be read, which is not to be taken for zero.
    pub fn traffic(&self, slot: u32) -> Option<Totals> {
        let mut totals = Totals::default();
        for cpu in self.counters.get(&slot, 0).ok()?.iter() {
            totals.ingress.add(cpu.traffic[0].packets, cpu.traffic[0].bytes);
            totals.egress.add(cpu.traffic[1].packets, cpu.traffic[1].bytes);
            totals.flows += cpu.flows;
        }
        Some(totals)
    }

    /// Drops that belong to no rule.
    pub fn unowned(drops: &Drops) -> BTreeMap<DropReason, u64> {
        drops.get(&NO_RULE).cloned().unwrap_or_default()
    }
}

/// Which map it is that is pinned; other pins have another.
fn number(pins: &Path) -> Result<u32, Unavailable> {
    let map = maps::open_raw(pins, names::COUNTERS)?;
    map.info().map(|info| info.id()).map_err(|error| Unavailable(format!("map {}: {error}", names::COUNTERS)))
}

impl Direction {
    const fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }
}
