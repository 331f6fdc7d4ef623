//! The way out of a live flow, looked up again when relayd says that routes have changed.

use relay_common::flow::{FlowEntry, FlowFlags, Hop};
use relay_common::net::{Address, Protocol};
use relay_common::route::NextHop;

use crate::maps::{self, Entry};
use crate::slow::Packet;

/// The next hop of a flow's half for a packet that came in on `interface`.
#[inline(never)]
pub(crate) fn of(flow: &mut FlowEntry, packet: &Packet, interface: u32) -> Option<&'static NextHop> {
    if !flow.flags().has(FlowFlags::EGRESS) && flow.interface != interface {
        follow_client(flow, packet.protocol, interface);
    }
    let hop = flow.hop();
    if let Some(next_hop) = usable(hop.index)
        && next_hop.generation == hop.generation
    {
        return Some(next_hop);
    }
    let to = flow.translation();
    let from = if flow.flags().has(FlowFlags::EGRESS) {
        opposite(flow, packet.protocol).map_or(0, |client| client.interface)
    } else {
        maps::own_address(to.source.to_wire()).unwrap_or(0)
    };
    let hop = endpoint_hop(flow).or_else(|| towards(from, to.destination))?;
    flow.set_hop(hop);
    usable(hop.index)
}

/// The way from `interface` to `address`: replies leave where the client came in, if that leads there at all.
#[inline(always)]
pub(crate) fn towards(interface: u32, address: Address) -> Option<Hop> {
    let address = address.to_wire();
    let index = maps::route(interface, address).or_else(|| maps::route(0, address))?;
    let next_hop = usable(index)?;
    Some(Hop { index, generation: next_hop.generation })
}

/// The next hop at `index`, if it leads anywhere.
#[inline(always)]
pub(crate) fn usable(index: u16) -> Option<&'static NextHop> {
    maps::next_hop(index).filter(|next_hop| next_hop.interface != 0)
}

/// The flow's other half, wherever it lies.
#[inline(always)]
pub(crate) fn opposite(flow: &FlowEntry, protocol: Protocol) -> Option<Entry<FlowEntry>> {
    let key = flow.opposite(protocol);
    maps::established(protocol, &key).or_else(|| maps::unproven(&key))
}

/// The client's packets come in on another interface now; the answers must leave there.
#[inline(always)]
fn follow_client(flow: &mut FlowEntry, protocol: Protocol, interface: u32) {
    flow.interface = interface;
    if let Some(backend) = opposite(flow, protocol)
        && let Some(hop) = towards(interface, backend.translation().destination)
    {
        backend.set_hop(hop);
    }
}

/// The hop that relayd keeps for the flow's endpoint, if the endpoint is still what the flow was made for.
#[inline(always)]
fn endpoint_hop(flow: &FlowEntry) -> Option<Hop> {
    if flow.flags().has(FlowFlags::EGRESS) {
        return None;
    }
    let endpoint = maps::endpoint(flow.endpoint())?;
    let to = flow.translation();
    if endpoint.address() != to.destination || endpoint.source() != to.source {
        return None;
    }
    let next_hop = usable(endpoint.hop_index)?;
    Some(Hop { index: endpoint.hop_index, generation: next_hop.generation })
}
