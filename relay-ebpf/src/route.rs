//! The way out of a live flow, looked up again when relayd says that routes have changed.

use relay_common::flow::{FlowEntry, FlowFlags, Hop};
use relay_common::net::Protocol;
use relay_common::route::NextHop;

use crate::slow::Packet;
use crate::{half, maps};

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
    let egress = flow.flags().has(FlowFlags::EGRESS);
    let from = if egress {
        half::find_opposite(flow, packet.protocol).map_or(0, |client| client.interface)
    } else if flow.flags().has(FlowFlags::TO_V6) {
        half::own_v6(flow).and_then(maps::own_address_v6).map_or(0, |own| own.interface)
    } else {
        maps::own_address(flow.translation().source.to_wire()).unwrap_or(0)
    };
    let hop = endpoint_hop(flow).or_else(|| towards(from, &half::destination(flow)))?;
    flow.set_hop(hop);
    usable(hop.index)
}

/// The same for an error about the flow, which anybody may have sent from anywhere: the client stays where it is.
#[inline(always)]
pub(crate) fn of_error(flow: &mut FlowEntry, packet: &Packet) -> Option<&'static NextHop> {
    let interface = flow.interface;
    of(flow, packet, interface)
}

/// The way from `interface` to `address`: replies leave where the client came in, if that leads there at all.
#[inline(always)]
pub(crate) fn towards(interface: u32, address: &[u32; 4]) -> Option<Hop> {
    let index = maps::route(interface, *address).or_else(|| maps::route(0, *address))?;
    let next_hop = usable(index)?;
    Some(Hop { index, generation: next_hop.generation })
}

/// The next hop at `index`, if it leads anywhere.
#[inline(always)]
pub(crate) fn usable(index: u16) -> Option<&'static NextHop> {
    maps::next_hop(index).filter(|next_hop| next_hop.interface != 0)
}

/// The client's packets come in on another interface now; the answers must leave there.
#[inline(always)]
fn follow_client(flow: &mut FlowEntry, protocol: Protocol, interface: u32) {
    flow.interface = interface;
    if let Some(backend) = half::find_opposite(flow, protocol)
        && let Some(hop) = towards(interface, &half::destination(backend))
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
    let is_v6 = flow.flags().has(FlowFlags::TO_V6);
    if endpoint.is_v6() != is_v6 || endpoint.address() != to.destination || endpoint.source() != to.source {
        return None;
    }
    let next_hop = usable(endpoint.hop_index)?;
    Some(Hop { index: endpoint.hop_index, generation: next_hop.generation })
}
