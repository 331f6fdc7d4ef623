//! Whose packet it is that is about to be counted, and which of the rule's ports it belongs to: noted where a rule asks for it, before
//! the packet's addresses change.

use core::mem::offset_of;

use relay_common::counters::PortKey;
use relay_common::flow::{FlowEntry, FlowFlags};
use relay_common::meter::Meter;
use relay_common::net::{Port, mapped, subscriber};
use relay_common::rule::SourceKey;

use crate::maps::{self, Room};
use crate::packet::{self, Ipv4, Ipv6};
use crate::skb::Skb;

/// Where the ports of a packet are to be found.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Where(u32);

impl Where {
    const KNOWN: u32 = 1 << 31;

    /// At this offset in the packet.
    #[inline(always)]
    pub(crate) const fn at(transport: u32) -> Self {
        Self(transport)
    }

    /// Nowhere: the host's port was in the first fragment.
    #[inline(always)]
    pub(crate) const fn known(port: Port) -> Self {
        Self(Self::KNOWN | port.number() as u32)
    }
}

/// Notes what a packet's rule asks for, and says whether it could. `flow`: the half that a packet of the kernel plane belongs to.
#[inline(always)]
pub(crate) fn if_asked(
    rule: u32,
    egress: bool,
    (skb, l2): (Skb, u32),
    flow: Option<&FlowEntry>,
    ports: Where,
) -> bool {
    maps::meter(rule).is_some_and(Meter::asks_whose)
        && match flow {
            Some(flow) => of_flow(skb, l2, flow, ports),
            None => of_packet(skb, l2, rule, egress, ports),
        }
}

/// The same of the kernel plane's, for a rule that asks.
#[inline(always)]
pub(crate) fn of_flow(skb: Skb, l2: u32, flow: &FlowEntry, ports: Where) -> bool {
    if flow.flags().has(FlowFlags::EGRESS) {
        of_answer(flow)
    } else {
        of_packet(skb, l2, flow.rule(), false, ports)
    }
}

#[inline(never)]
fn of_answer(flow: &FlowEntry) -> bool {
    put(flow.rule(), &crate::half::destination(flow), flow.translation().ports.source())
}

/// The same of the user plane's, which name the client: who has sent them, or at egress whom they go to.
#[inline(never)]
pub(crate) fn of_packet(skb: Skb, l2: u32, rule: u32, egress: bool, ports: Where) -> bool {
    let address = match skb.protocol() {
        packet::IPV4 => {
            let at = if egress { offset_of!(Ipv4, destination) } else { offset_of!(Ipv4, source) };
            skb.load(l2 + at as u32).map(mapped)
        }
        _ => {
            let at = if egress { offset_of!(Ipv6, destination) } else { offset_of!(Ipv6, source) };
            skb.load(l2 + at as u32)
        }
    };
    let Ok(address) = address else { return false };
    let port = if ports.0 & Where::KNOWN != 0 {
        Port::new(ports.0 as u16)
    } else {
        let Ok(port) = skb.load::<u16>(ports.0 + if egress { 0 } else { 2 }) else { return false };
        Port::from_wire(port)
    };
    put(rule, &address, port)
}

#[inline(always)]
fn put(rule: u32, client: &[u32; 4], port: Port) -> bool {
    let Some(scratch) = maps::room(Room::Packets) else { return false };
    let clients_of = maps::meter(rule).map_or(rule, |meter| meter.clients_of(rule));
    scratch.payer = SourceKey::new(clients_of, subscriber(client));
    scratch.port = PortKey { rule, port: port.number().into() };
    true
}
