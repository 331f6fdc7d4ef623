//! Every counter and every table entry at one moment, and what has changed between two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues};
use relay::kernel::maps;
use relay::kernel::meter::{Meter, Totals};
use relay::kernel::round_trips::RoundTripsByEnd;
use relay_common::counters::{DropReason, NO_RULE};
use relay_common::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use relay_common::names;
use relay_common::net::Protocol;
use relay_common::settings::{IcmpBudget, Pressure};

use super::run::Programs;

/// Tables that packets write.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Table {
    Tcp,
    Udp,
    Unproven,
    Fragments,
    FragmentsV6,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => names::FLOWS_TCP,
            Self::Udp => names::FLOWS_UDP,
            Self::Unproven => names::UNPROVEN,
            Self::Fragments => names::FRAGMENTS,
            Self::FragmentsV6 => names::FRAGMENTS_V6,
        }
    }

    const fn shown(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unproven => "unproven",
            Self::Fragments => "fragments",
            Self::FragmentsV6 => "fragments of IPv6",
        }
    }
}

/// What a rule is called that has only its slot left.
const ENDED: &str = "slot ";

/// Handles to everything that packets write.
pub(super) struct Tables {
    meter: Meter,
    flows: [(Table, HashMap<MapData, FlowKey, FlowEntry>); 3],
    fragments: HashMap<MapData, FragmentKey, FragmentEntry>,
    fragments_v6: HashMap<MapData, FragmentKey<[u32; 4]>, FragmentEntry>,
    pressure: Array<MapData, Pressure>,
    budget: PerCpuArray<MapData, IcmpBudget>,
}

impl Tables {
    pub(super) fn open(pins: &Path, programs: &Programs) -> Self {
        let flows = |table: Table| (table, maps::open(pins, table.name()).expect("flows"));
        Self {
            meter: Meter::open(pins).expect("counters"),
            flows: [flows(Table::Tcp), flows(Table::Udp), flows(Table::Unproven)],
            fragments: maps::open(pins, names::FRAGMENTS).expect("fragments"),
            fragments_v6: maps::open(pins, names::FRAGMENTS_V6).expect("fragments of IPv6"),
            pressure: maps::open(pins, names::PRESSURE).expect("pressure"),
            budget: Map::PerCpuArray(programs.unpinned("ICMP_BUDGET")).try_into().expect("budget"),
        }
    }

    pub(super) fn read(&self, rules: &BTreeMap<u32, String>) -> Counts {
        let mut counts = self.totals(rules);
        for (table, map) in &self.flows {
            counts.tables.insert(*table, map.keys().flatten().map(|key| key.to_bytes().to_vec()).collect());
        }
        let fragments = self.fragments.keys().flatten();
        let fragments =
            fragments.map(|key| fragment_bytes(&[key.source], &[key.destination], key.identification));
        counts.tables.insert(Table::Fragments, fragments.collect());
        let fragments = self.fragments_v6.keys().flatten();
        let fragments =
            fragments.map(|key| fragment_bytes(&key.source, &key.destination, key.identification));
        counts.tables.insert(Table::FragmentsV6, fragments.collect());
        counts
    }

    pub(super) fn round_trips(&self) -> RoundTripsByEnd {
        self.meter.round_trips()
    }

    /// Counters alone.
    pub(super) fn totals(&self, rules: &BTreeMap<u32, String>) -> Counts {
        let drops = self.meter.drops();
        let mut counts = Counts::default();
        for (&slot, name) in rules {
            counts.rules.insert(name.clone(), self.meter.totals(slot, &drops));
        }
        for (&slot, reasons) in &drops {
            if !rules.contains_key(&slot) {
                let name = if slot == NO_RULE { "-".to_owned() } else { format!("{ENDED}{slot}") };
                counts.rules.insert(name, Totals { drops: reasons.clone(), ..Totals::default() });
            }
        }
        counts
    }

    /// Forgets fragments, that tables were full and errors were made: none of it belongs to a rule.
    pub(super) fn clear_rest(&mut self) {
        let keys: Vec<FragmentKey> = self.fragments.keys().flatten().collect();
        for key in keys {
            self.fragments.remove(&key).expect("fragment");
        }
        let keys: Vec<FragmentKey<[u32; 4]>> = self.fragments_v6.keys().flatten().collect();
        for key in keys {
            self.fragments_v6.remove(&key).expect("fragment");
        }
        for protocol in Protocol::ALL {
            self.pressure.set(protocol.index(), Pressure::default(), 0).expect("pressure");
        }
        let cpus = self.budget.get(&0, 0).expect("budget").len();
        let unspent = PerCpuValues::try_from(vec![IcmpBudget::default(); cpus]).expect("every CPU");
        self.budget.set(0, unspent, 0).expect("budget");
    }

    pub(super) fn insert(&mut self, table: Table, key: &FlowKey, half: &FlowEntry) {
        self.flow_table(table).insert(key, half, 0).expect("insert");
    }

    pub(super) fn remove(&mut self, table: Table, key: &FlowKey) {
        self.flow_table(table).remove(key).expect("remove");
    }

    fn flow_table(&mut self, table: Table) -> &mut HashMap<MapData, FlowKey, FlowEntry> {
        let (_, map) = self.flows.iter_mut().find(|(known, _)| *known == table).expect("a flow table");
        map
    }

    /// Flow halves with their keys.
    pub(super) fn flows(&self) -> impl Iterator<Item = (Table, FlowKey, FlowEntry)> + '_ {
        self.flows.iter().flat_map(|(table, map)| map.iter().flatten().map(|(key, half)| (*table, key, half)))
    }
}

/// All counters, and the keys in all tables.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    rules: BTreeMap<String, Totals>,
    tables: BTreeMap<Table, BTreeSet<Vec<u8>>>,
}

impl Counts {
    /// What has happened until `later`.
    pub fn change(&self, later: &Self) -> Change {
        let mut change = Change::default();
        for (name, after) in &later.rules {
            let nothing = Totals::default();
            let difference = difference(self.rules.get(name).unwrap_or(&nothing), after);
            if difference != nothing {
                change.rules.insert(name.clone(), difference);
            }
        }
        for (table, after) in &later.tables {
            let before = self.tables.get(table).map_or(0, BTreeSet::len);
            let grown = after.len() as i64 - before as i64;
            if grown != 0 || self.tables.get(table) != Some(after) {
                change.tables.insert(*table, grown);
            }
        }
        change
    }

    /// Rules that are no more and whose drops are still counted.
    pub fn ended_rules(&self) -> usize {
        self.rules.keys().filter(|name| name.starts_with(ENDED)).count()
    }

    /// Entries in a table.
    pub fn entries(&self, table: Table) -> usize {
        self.tables.get(&table).map_or(0, BTreeSet::len)
    }
}

fn fragment_bytes(source: &[u32], destination: &[u32], identification: u32) -> Vec<u8> {
    [source, destination, &[identification]].concat().into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn difference(before: &Totals, after: &Totals) -> Totals {
    let mut change = Totals { flows: after.flows - before.flows, ..Totals::default() };
    change.ingress.packets = after.ingress.packets - before.ingress.packets;
    change.ingress.bytes = after.ingress.bytes - before.ingress.bytes;
    change.egress.packets = after.egress.packets - before.egress.packets;
    change.egress.bytes = after.egress.bytes - before.egress.bytes;
    for (&reason, &count) in &after.drops {
        let grown = count - before.drops.get(&reason).copied().unwrap_or(0);
        if grown != 0 {
            change.drops.insert(reason, grown);
        }
    }
    change
}

/// What a packet has changed: everything that is not listed stayed as it was.
///
/// Prints as `web: in 1/60, flows 1; unproven +2`: packets and bytes of a rule from client to backend, flows opened,
/// drops by reason, entries in tables.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Change {
    pub rules: BTreeMap<String, Totals>,
    pub tables: BTreeMap<Table, i64>,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.tables.is_empty()
    }

    /// Packets forwarded, both directions, all rules.
    pub fn packets(&self) -> u64 {
        self.rules.values().map(|totals| totals.ingress.packets + totals.egress.packets).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.rules.values().map(|totals| totals.ingress.bytes + totals.egress.bytes).sum()
    }

    /// Drops under a reason, all rules.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.rules.values().filter_map(|totals| totals.drops.get(&reason)).sum()
    }

    pub fn all_drops(&self) -> u64 {
        self.rules.values().flat_map(|totals| totals.drops.values()).sum()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (name, totals) in &self.rules {
            let mut items = Vec::new();
            for (way, traffic) in [("in", totals.ingress), ("out", totals.egress)] {
                if traffic.packets != 0 || traffic.bytes != 0 {
                    items.push(format!("{way} {}/{}", traffic.packets, traffic.bytes));
                }
            }
            if totals.flows != 0 {
                items.push(format!("flows {}", totals.flows));
            }
            items.extend(totals.drops.iter().map(|(reason, count)| format!("{} {count}", reason.as_str())));
            parts.push(format!("{name}: {}", items.join(", ")));
        }
        parts.extend(self.tables.iter().map(|(table, grown)| format!("{} {grown:+}", table.shown())));
        f.write_str(&parts.join("; "))
    }
}
