//! What the two halves of a flow know of each other, whatever families their packets are of.

use relay_common::checksum::{pair, pair_v6};
use relay_common::digest::Digest;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Address, Protocol, mapped};

use crate::maps::{self, Entry};

/// The key of a flow's other half: of an answer to what this half sends out.
#[inline(never)]
pub(crate) fn opposite(flow: &FlowEntry, protocol: Protocol) -> FlowKey {
    if flow.flags().has(FlowFlags::TO_V6)
        && let Some(settings) = maps::settings()
    {
        let digest = |number| maps::numbered(number).map_or(Digest::default(), |numbered| numbered.digest);
        return flow.opposite_v6(&settings.secret, digest, protocol);
    }
    flow.opposite(protocol)
}

/// The other half, wherever it lies.
#[inline(always)]
pub(crate) fn find_opposite(flow: &FlowEntry, protocol: Protocol) -> Option<Entry<FlowEntry>> {
    let key = opposite(flow, protocol);
    maps::established(protocol, &key).or_else(|| maps::unproven(&key))
}

/// Where a half sends to; an IPv4 address as an IPv6 one.
#[inline(always)]
pub(crate) fn destination(flow: &FlowEntry) -> [u32; 4] {
    let flags = flow.flags();
    if !flags.has(FlowFlags::TO_V6) {
        return mapped(flow.translation().destination);
    }
    if flags.has(FlowFlags::EGRESS) {
        return flow.client_v6();
    }
    maps::numbered(flow.backend_v6()).map_or([0; 4], |backend| backend.address)
}

/// The own address that a half which sends IPv6 sends from.
#[inline(always)]
pub(crate) fn own_v6(flow: &FlowEntry) -> Option<&'static [u32; 4]> {
    maps::numbered(flow.own_v6()).map(|own| &own.address)
}

/// The sum of two addresses of the backend leg. `by_number`: they are IPv6 ones.
#[inline(always)]
pub(crate) fn inside(source: Address, endpoint: Address, by_number: bool) -> Option<u64> {
    if !by_number {
        return Some(pair(source, endpoint));
    }
    let (source, endpoint) = (maps::numbered(source.to_wire())?, maps::numbered(endpoint.to_wire())?);
    Some(pair_v6(&source.address, &endpoint.address))
}
