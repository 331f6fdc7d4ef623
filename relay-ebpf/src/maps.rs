//! Every map, and typed ways to read and write them. Sizes that depend on the host are set by relayd at load time.

mod lookup;
mod used;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, bpf_sock};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, DevMap, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use relay_common::choice::{EndpointUsage, Place};
use relay_common::counters::{DropKey, RuleCounters};
use relay_common::ended::EndedFlow;
use relay_common::flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey};
use relay_common::net::Protocol;
use relay_common::observe::{Ration, Seen};
use relay_common::round_trip::RoundTrips;
use relay_common::route::{NextHop, RouteKey};
use relay_common::rule::{
    EndpointEntry, ListenerEntry, ListenerKey, Numbered, OwnAddress, PORT_TABLE, PortEntry, RuleEntry,
    SourceKey,
};
use relay_common::settings::{IcmpBudget, Pressure, Settings};
use relay_common::shared::Shared;

pub(crate) use self::lookup::{aside, block, choose, home, is_aside, is_own, leave, taker, yielded};
pub(crate) use self::used::{
    client_or_new, forget_source, meter, pace, port_counters_or_new, source, source_or_new, usage,
};
use crate::half;
use crate::inherited::Inherited;
use crate::neighbour::{KNOWN, Known};
pub(crate) use crate::scratch::{Room, Scratch};
use crate::slow::Packet;
use crate::trace::Note;

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;
const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;
const FLOWS: usize = 131_072;
const RULE_SLOTS: usize = 16_384;
const ENDPOINT_SLOTS: usize = 65_536;

#[btf_map]
static FLOWS_TCP: HashMap<FlowKey, FlowEntry, FLOWS> = HashMap::new();
#[btf_map]
static FLOWS_UDP: HashMap<FlowKey, FlowEntry, FLOWS> = HashMap::new();
#[btf_map]
static UNPROVEN: LruHashMap<FlowKey, FlowEntry, 65_536> = LruHashMap::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, 8_192> = LruHashMap::new();
#[btf_map]
static FRAGMENTS_V6: LruHashMap<FragmentKey<[u32; 4]>, FragmentEntry, 8_192> = LruHashMap::new();
#[btf_map]
static PORTS: Array<PortEntry, { PORT_TABLE as usize }> = Array::new();
#[btf_map]
static LISTENERS: HashMap<ListenerKey, ListenerEntry, 65_536, NO_PREALLOC> = HashMap::new();
#[btf_map]
static PORTS_V6: Array<PortEntry, { PORT_TABLE as usize }> = Array::new();
#[btf_map]
static LISTENERS_V6: HashMap<ListenerKey<[u32; 4]>, ListenerEntry, 65_536, NO_PREALLOC> = HashMap::new();
#[btf_map]
static RULES: Array<RuleEntry, RULE_SLOTS> = Array::new();
#[btf_map]
static RULE_NAMES: HashMap<u32, [u8; 72], RULE_SLOTS, NO_PREALLOC> = HashMap::new();
#[btf_map]
static ENDPOINTS: Array<EndpointEntry, ENDPOINT_SLOTS> = Array::new();
#[btf_map]
static ENDPOINT_USAGE: Array<EndpointUsage, ENDPOINT_SLOTS, MMAPABLE> = Array::new();
#[btf_map]
static ROUND_TRIPS: HashMap<u32, RoundTrips<Shared>, ENDPOINT_SLOTS, NO_PREALLOC> = HashMap::new();
#[btf_map]
static PLACES: Array<u64, { Place::ROOM as usize / 2 }, MMAPABLE> = Array::new();
#[btf_map]
static NEXT_HOPS: Array<NextHop, 4_096> = Array::new();
#[btf_map]
static ROUTES: LpmTrie<RouteKey, u32, 16_384> = LpmTrie::new();
#[btf_map]
static ADDRESSES: HashMap<u32, u32, 4_096, NO_PREALLOC> = HashMap::new();
#[btf_map]
static ADDRESSES_V6: HashMap<[u32; 4], OwnAddress, 4_096, NO_PREALLOC> = HashMap::new();
#[btf_map]
static NUMBERED: Array<Numbered, 65_536> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<RuleCounters, RULE_SLOTS> = PerCpuArray::new();
#[btf_map]
static DROPS: PerCpuHashMap<DropKey, u64, 65_536, NO_PREALLOC> = PerCpuHashMap::new();
#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static PRESSURE: Array<Pressure, 2> = Array::new();
#[btf_map]
static DEVICES: DevMap<256> = DevMap::new();
#[btf_map]
static PACED: HashMap<u32, u32, 256, NO_PREALLOC> = HashMap::new();
#[btf_map]
static ALLOWED: LpmTrie<SourceKey, u32, 65_536> = LpmTrie::new();
#[btf_map]
static ENDED: RingBuf<EndedFlow, { EndedFlow::RING as usize }> = RingBuf::new();
#[btf_map]
static ENDED_LOST: Array<Shared, 1> = Array::new();
/// Not pinned, nor what of it found no room: who watches, watches one relayd.
#[btf_map]
static OBSERVED: RingBuf<Seen, { Seen::RING as usize }> = RingBuf::new();
#[btf_map]
static OBSERVED_LOST: Array<Shared, 2> = Array::new();
#[btf_map]
static RATIONS: PerCpuArray<Ration, { Ration::ACCOUNTS as usize }> = PerCpuArray::new();
/// Not pinned: clients of sessions that the user plane has under way.
#[btf_map]
static DECLINED: HashMap<FlowKey, u32, 65_536, NO_PREALLOC> = HashMap::new();
/// Not pinned either: a budget is worth nothing after a restart.
#[btf_map]
static ICMP_BUDGET: PerCpuArray<IcmpBudget, 1> = PerCpuArray::new();
/// Whether this CPU's last UDP packet belonged to a flow without proof.
#[btf_map]
static UNPROVEN_FIRST: PerCpuArray<u32, 1> = PerCpuArray::new();
/// Where new entries are put together; two of them would crowd the 512-byte stack.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 2> = PerCpuArray::new();
/// The packet that this CPU's slow path is at.
#[btf_map]
static PACKET: PerCpuArray<Packet, 1> = PerCpuArray::new();
/// What is traced of the packet that this CPU is at.
#[btf_map]
static NOTE: PerCpuArray<Note, 1> = PerCpuArray::new();
/// What this CPU knows of neighbours.
#[btf_map]
static NEIGHBOURS: PerCpuArray<Known, KNOWN> = PerCpuArray::new();

/// The shared sockets, and connections that came to them, which get it from the one that they came to.
#[btf_map]
static SHARED_SOCKETS: Inherited<u32> = Inherited::new();

/// Jiffies per tick, as a power of two.
#[unsafe(no_mangle)]
static TICK_SHIFT: Global<u32> = Global::new(8);

/// A map entry, shared with other CPUs: plain loads and stores, last writer wins by design.
pub(crate) type Entry<T> = &'static mut T;

/// Why an entry could not be inserted.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Refused {
    Taken,
    Full,
}

const EEXIST: i32 = -17;

fn refused(code: i32) -> Refused {
    if code == EEXIST { Refused::Taken } else { Refused::Full }
}

/// A pointer that the kernel handed out for a map entry, as a reference.
#[inline(always)]
fn entry<T>(pointer: Option<*mut T>) -> Option<Entry<T>> {
    // SAFETY: the lookup helper returns null (then `None`) or an element of `T`'s size that stays mapped until the
    // program ends; its bytes are plain integers, which other CPUs may change at any time.
    pointer.map(|p| unsafe { &mut *p })
}

/// The established half that matches a packet.
#[inline(always)]
pub(crate) fn established(protocol: Protocol, key: &FlowKey) -> Option<Entry<FlowEntry>> {
    entry(match protocol {
        Protocol::Tcp => FLOWS_TCP.get_ptr_mut(key),
        Protocol::Udp => FLOWS_UDP.get_ptr_mut(key),
    })
}

/// Adds an established half; never replaces one.
#[inline(always)]
pub(crate) fn establish(protocol: Protocol, key: &FlowKey, half: &FlowEntry) -> Result<(), Refused> {
    match protocol {
        Protocol::Tcp => FLOWS_TCP.insert(key, half, BPF_NOEXIST.into()),
        Protocol::Udp => FLOWS_UDP.insert(key, half, BPF_NOEXIST.into()),
    }
    .map_err(refused)
}

/// `false`: somebody else was faster.
#[inline(always)]
pub(crate) fn forget_established(protocol: Protocol, key: &FlowKey) -> bool {
    match protocol {
        Protocol::Tcp => FLOWS_TCP.remove(key),
        Protocol::Udp => FLOWS_UDP.remove(key),
    }
    .is_ok()
}

/// The unproven or closed half that matches a packet.
#[inline(always)]
pub(crate) fn unproven(key: &FlowKey) -> Option<Entry<FlowEntry>> {
    entry(UNPROVEN.get_ptr_mut(key))
}

/// Adds an unproven half; of two that want the same key one wins.
#[inline(always)]
pub(crate) fn claim(key: &FlowKey, half: &FlowEntry) -> Result<(), Refused> {
    UNPROVEN.insert(key, half, BPF_NOEXIST.into()).map_err(refused)
}

/// Adds or replaces an unproven half.
#[inline(always)]
pub(crate) fn put_unproven(key: &FlowKey, half: &FlowEntry) -> Result<(), Refused> {
    UNPROVEN.insert(key, half, BPF_ANY.into()).map_err(refused)
}

#[inline(always)]
pub(crate) fn forget_unproven(key: &FlowKey) {
    let _gone = UNPROVEN.remove(key);
}

/// The same, unless the half at `other` is not its other half: then it is another flow's.
#[inline(never)]
pub(crate) fn forget_unproven_of(protocol: Protocol, key: &FlowKey, other: &FlowKey) {
    if unproven(key).is_some_and(|found| half::opposite(found, protocol) == *other) {
        forget_unproven(key);
    }
}

/// Whether the user plane has a session with the sender of a packet.
#[inline(always)]
pub(crate) fn is_declined(key: &FlowKey) -> bool {
    DECLINED.get_ptr_mut(key).is_some()
}

#[inline(always)]
pub(crate) fn fragment(key: &FragmentKey) -> Option<Entry<FragmentEntry>> {
    entry(FRAGMENTS.get_ptr_mut(key))
}

#[inline(always)]
pub(crate) fn put_fragment(key: &FragmentKey, value: &FragmentEntry) {
    let _full = FRAGMENTS.insert(key, value, BPF_ANY.into());
}

#[inline(always)]
pub(crate) fn fragment_v6(key: &FragmentKey<[u32; 4]>) -> Option<Entry<FragmentEntry>> {
    entry(FRAGMENTS_V6.get_ptr_mut(key))
}

#[inline(always)]
pub(crate) fn put_fragment_v6(key: &FragmentKey<[u32; 4]>, value: &FragmentEntry) {
    let _full = FRAGMENTS_V6.insert(key, value, BPF_ANY.into());
}

#[inline(always)]
pub(crate) fn port(index: u32) -> Option<&'static PortEntry> {
    PORTS.get(index)
}

#[inline(always)]
pub(crate) fn port_v6(index: u32) -> Option<&'static PortEntry> {
    PORTS_V6.get(index)
}

#[inline(always)]
pub(crate) fn listener(key: &ListenerKey) -> Option<Entry<ListenerEntry>> {
    entry(LISTENERS.get_ptr_mut(key))
}

#[inline(always)]
pub(crate) fn listener_v6(key: &ListenerKey<[u32; 4]>) -> Option<Entry<ListenerEntry>> {
    entry(LISTENERS_V6.get_ptr_mut(key))
}

#[inline(always)]
pub(crate) fn rule(slot: u32) -> Option<&'static RuleEntry> {
    RULES.get(slot)
}

#[inline(always)]
pub(crate) fn endpoint(slot: u32) -> Option<&'static EndpointEntry> {
    ENDPOINTS.get(slot)
}

#[inline(always)]
pub(crate) fn endpoint_usage(slot: u32) -> Option<&'static EndpointUsage> {
    ENDPOINT_USAGE.get(slot)
}

/// Only of an endpoint that is some rule's.
#[inline(always)]
pub(crate) fn round_trips(endpoint: u32) -> Option<&'static RoundTrips<Shared>> {
    entry(ROUND_TRIPS.get_ptr_mut(endpoint)).map(|trips| &*trips)
}

#[inline(always)]
pub(crate) fn place(place: u32) -> Option<Place> {
    let (index, shift) = Place::lies_in(place);
    PLACES.get(index).map(|two| Place::from_word((two >> shift) as u32))
}

#[inline(always)]
pub(crate) fn next_hop(index: u16) -> Option<&'static NextHop> {
    NEXT_HOPS.get(index.into())
}

/// Index of the next hop for `address` as seen from `interface` (0: any).
#[inline(always)]
pub(crate) fn route(interface: u32, address: [u32; 4]) -> Option<u16> {
    let key = Key::new(RouteKey::BITS, RouteKey::new(interface, address));
    ROUTES.get(&key).map(|&index| index as u16)
}

/// The interface that owns one of the host's own unicast addresses.
#[inline(always)]
pub(crate) fn own_address(address: u32) -> Option<u32> {
    entry(ADDRESSES.get_ptr_mut(address)).map(|interface| *interface)
}

/// Whether a rule's allow list has a network with this client in it.
#[inline(always)]
pub(crate) fn is_allowed(source: SourceKey) -> bool {
    ALLOWED.get(&Key::new(SourceKey::BITS, source)).is_some()
}

/// Whether an interface's queue keeps packets until they are due.
#[inline(always)]
pub(crate) fn is_paced(interface: u32) -> bool {
    PACED.get_ptr_mut(interface).is_some()
}

#[inline(always)]
pub(crate) fn own_address_v6(address: &[u32; 4]) -> Option<OwnAddress> {
    entry(ADDRESSES_V6.get_ptr_mut(address)).map(|own| *own)
}

/// An IPv6 address by its number.
#[inline(always)]
pub(crate) fn numbered(number: u32) -> Option<&'static Numbered> {
    NUMBERED.get(number)
}

#[inline(always)]
pub(crate) fn counters(rule: u32) -> Option<Entry<RuleCounters>> {
    entry(COUNTERS.get_ptr_mut(rule))
}

/// This CPU's count of one reason; made on first use.
#[inline(always)]
pub(crate) fn drops(key: &DropKey) -> Option<Entry<u64>> {
    if let Some(count) = DROPS.get_ptr_mut(key) {
        return entry(Some(count));
    }
    let _raced = DROPS.insert(key, 0u64, BPF_NOEXIST.into());
    entry(DROPS.get_ptr_mut(key))
}

#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

#[inline(always)]
pub(crate) fn pressure(protocol: Protocol) -> Option<Entry<Pressure>> {
    entry(PRESSURE.get_ptr_mut(protocol.index()))
}

#[inline(always)]
pub(crate) fn icmp_budget() -> Option<Entry<IcmpBudget>> {
    entry(ICMP_BUDGET.get_ptr_mut(0))
}

#[inline(always)]
pub(crate) fn unproven_first() -> Option<Entry<u32>> {
    entry(UNPROVEN_FIRST.get_ptr_mut(0))
}

#[inline(always)]
pub(crate) fn neighbour(slot: u32) -> Option<Entry<Known>> {
    entry(NEIGHBOURS.get_ptr_mut(slot))
}

#[inline(always)]
pub(crate) fn packet() -> Option<Entry<Packet>> {
    entry(PACKET.get_ptr_mut(0))
}

#[inline(always)]
pub(crate) fn note() -> Option<Entry<Note>> {
    entry(NOTE.get_ptr_mut(0))
}

#[inline(always)]
pub(crate) fn scratch() -> Option<Entry<Scratch>> {
    room(Room::Packets)
}

#[inline(always)]
pub(crate) fn room(room: Room) -> Option<Entry<Scratch>> {
    entry(SCRATCH.get_ptr_mut(room as u32))
}

/// Room for a record of a flow that is over.
#[inline(always)]
pub(crate) fn ended() -> Option<RingBufEntry<EndedFlow>> {
    ENDED.reserve(0)
}

/// There was none.
#[inline(always)]
pub(crate) fn ended_lost() {
    if let Some(count) = ENDED_LOST.get(0) {
        count.add(1);
    }
}

/// Room for a record of something that was seen.
#[inline(always)]
pub(crate) fn observed() -> Option<RingBufEntry<Seen>> {
    OBSERVED.reserve(0)
}

/// There was none, or it was too much. `what`: the index of the count.
#[inline(always)]
pub(crate) fn observed_lost(what: u32) {
    if let Some(count) = OBSERVED_LOST.get(what) {
        count.add(1);
    }
}

/// How much this CPU has told for an account.
#[inline(always)]
pub(crate) fn ration(account: u32) -> Option<Entry<Ration>> {
    entry(RATIONS.get_ptr_mut(account))
}

/// Sends the frame to the device behind `index`; `false` if there is none any more.
#[inline(always)]
pub(crate) fn redirect_to_device(index: u32) -> bool {
    DEVICES.redirect(index, 0).is_ok()
}

/// Whether a socket is a shared one of relayd's, or a connection that came to one.
#[inline(always)]
pub(crate) fn is_shared(socket: *mut bpf_sock) -> bool {
    SHARED_SOCKETS.has(socket)
}

/// The current tick.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: the helper takes nothing and returns a number.
    let jiffies = unsafe { aya_ebpf::helpers::bpf_jiffies64() };
    (jiffies >> TICK_SHIFT.load()) as u32
}
