//! Maps of what rules and clients have used: of limits, of rates and quotas, and by port.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap};
use aya_ebpf::macros::btf_map;
use relay_common::counters::{COUNTED_PORTS, PortCounters, PortKey};
use relay_common::meter::{self, Client, Meter};
use relay_common::rule::SourceKey;
use relay_common::usage::{Count, Pace, Usage};

use super::{FLOWS, MMAPABLE, NO_PREALLOC, RULE_SLOTS, entry};

/// Twice as many as there may be: those of a rule that has gone stay for a while.
#[btf_map]
static PORT_COUNTERS: HashMap<PortKey, PortCounters, { 2 * COUNTED_PORTS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static USAGE: Array<Usage, RULE_SLOTS, MMAPABLE> = Array::new();
#[btf_map]
static METERS: Array<Meter, { meter::METERS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static SOURCES: HashMap<SourceKey, Count, FLOWS, NO_PREALLOC> = HashMap::new();
#[btf_map]
static PACES: LruHashMap<SourceKey, Pace, 16_384> = LruHashMap::new();
#[btf_map]
static CLIENTS: LruHashMap<SourceKey, Client, 16_384> = LruHashMap::new();

#[inline(always)]
pub(crate) fn usage(rule: u32) -> Option<&'static Usage> {
    USAGE.get(rule)
}

#[inline(always)]
pub(crate) fn meter(place: u32) -> Option<&'static Meter> {
    METERS.get(place)
}

/// How many proven flows a client has with a rule that limits them.
#[inline(always)]
pub(crate) fn source(key: &SourceKey) -> Option<&'static Count> {
    entry(SOURCES.get_ptr_mut(key)).map(|count| &*count)
}

/// The same, made on first use; `None`: there is no room.
#[inline(always)]
pub(crate) fn source_or_new(key: &SourceKey) -> Option<&'static Count> {
    if let Some(count) = source(key) {
        return Some(count);
    }
    let _raced = SOURCES.insert(key, Count::default(), BPF_NOEXIST.into());
    source(key)
}

#[inline(always)]
pub(crate) fn forget_source(key: &SourceKey) {
    let _gone = SOURCES.remove(key);
}

/// The pace of a client of a rule that limits it.
#[inline(always)]
pub(crate) fn pace(key: &SourceKey) -> Option<&'static Pace> {
    if let Some(pace) = PACES.get_ptr_mut(key) {
        return entry(Some(pace)).map(|pace| &*pace);
    }
    let _raced = PACES.insert(key, Pace::default(), BPF_NOEXIST.into());
    entry(PACES.get_ptr_mut(key)).map(|pace| &*pace)
}

/// Counters of one port.
#[inline(always)]
pub(crate) fn port_counters_or_new(key: &PortKey) -> Option<&'static PortCounters> {
    if let Some(counters) = PORT_COUNTERS.get_ptr_mut(key) {
        return entry(Some(counters)).map(|counters| &*counters);
    }
    let _raced = PORT_COUNTERS.insert(key, PortCounters::default(), BPF_NOEXIST.into());
    entry(PORT_COUNTERS.get_ptr_mut(key)).map(|counters| &*counters)
}

/// What a client has used of its rate.
#[inline(always)]
pub(crate) fn client_or_new(key: &SourceKey) -> Option<&'static Client> {
    if let Some(client) = CLIENTS.get_ptr_mut(key) {
        return entry(Some(client)).map(|client| &*client);
    }
    let _raced = CLIENTS.insert(key, Client::default(), BPF_NOEXIST.into());
    entry(CLIENTS.get_ptr_mut(key)).map(|client| &*client)
}
