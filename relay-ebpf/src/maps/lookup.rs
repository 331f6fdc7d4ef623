//! Maps of the socket lookup. None is pinned: they belong to relayd's sockets, and end with it.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, SockMap};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkLookupContext;
use relay_common::lookup::{BLOCKS as BLOCK_COUNT, Block, Home, Spot};

use super::{Entry, NO_PREALLOC, entry};

/// What the shared ones take, port by port.
#[btf_map]
static BLOCKS: Array<Block, { BLOCK_COUNT as usize }> = Array::new();
/// Addresses that a set of them has; 1: what a program listens for, too.
#[btf_map]
static SETS: HashMap<Spot, u32, 65_536, NO_PREALLOC> = HashMap::new();
/// Where another program listens, or may be about to, and since when that was noticed (nanoseconds, monotonic).
#[btf_map]
static YIELDED: HashMap<Spot, u64, 65_536, NO_PREALLOC> = HashMap::new();
/// The shared sockets: one for each group, which stands for all of them.
#[btf_map]
static GROUPS: SockMap<4> = SockMap::new();
#[btf_map]
static HOME: Array<Home, 1> = Array::new();
/// Cookies of sockets that relayd is binding.
#[btf_map]
static OWN: HashMap<u64, u32, 1_024, NO_PREALLOC> = HashMap::new();
/// Whether this CPU looks for sockets other than the shared ones.
#[btf_map]
static ASIDE: PerCpuArray<u32, 1> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn block(index: u32) -> Option<&'static Block> {
    BLOCKS.get(index)
}

/// Whether an address belongs to a set, and how it is taken.
#[inline(always)]
pub(crate) fn taker(spot: &Spot) -> Option<Entry<u32>> {
    entry(SETS.get_ptr_mut(spot))
}

#[inline(always)]
pub(crate) fn yielded(spot: &Spot) -> Option<Entry<u64>> {
    entry(YIELDED.get_ptr_mut(spot))
}

#[inline(always)]
pub(crate) fn leave(spot: &Spot, now: u64) {
    let _full = YIELDED.insert(spot, now, BPF_ANY.into());
}

/// Has the connection or datagram come to a group's shared sockets; relayd may have none any more.
#[inline(always)]
pub(crate) fn choose(context: &SkLookupContext, group: u32) -> Option<()> {
    GROUPS.redirect_sk_lookup(context, group, 0).ok()
}

#[inline(always)]
pub(crate) fn home() -> Option<Entry<Home>> {
    entry(HOME.get_ptr_mut(0))
}

#[inline(always)]
pub(crate) fn is_own(cookie: u64) -> bool {
    OWN.get_ptr_mut(cookie).is_some()
}

#[inline(always)]
pub(crate) fn is_aside() -> bool {
    aside().is_some_and(|aside| *aside != 0)
}

#[inline(always)]
pub(crate) fn aside() -> Option<Entry<u32>> {
    entry(ASIDE.get_ptr_mut(0))
}
