//! ICMP errors about a flow, translated so that they reach the end that sent the packet they quote (RFC 5508).

use relay_common::checksum::Delta;
use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Address, Ports, Protocol};
use relay_common::trace::Decision;

use crate::across::Incoming;
use crate::packet::icmp::{PARAMETER_PROBLEM, TIME_EXCEEDED, UNREACHABLE};
use crate::packet::{self, Ipv4};
use crate::rewrite::TTL_DELTA;
use crate::skb::{Failed, Skb};
use crate::slow::{Ipv4Tail, Packet, Read};
use crate::translate::Piece;
use crate::{Outcome, count, error, maps, route, signal, trace};

/// A quoted packet and where its parts lie.
struct Quote {
    ip: Ipv4,
    /// Offset of its IP header.
    at: u32,
    /// Offset of its transport header.
    transport: u32,
    /// Where the ICMP packet ends; a frame may go on with padding.
    end: u32,
    ports: Ports,
    protocol: Protocol,
}

/// An ICMP packet: errors about our flows are translated, everything else is the stack's.
#[inline(never)]
pub(crate) fn translate(packet: &mut Packet, skb: Skb, l2: u32, ip: &Ipv4) -> Read {
    let done = Read::Done(Outcome::Miss);
    let at = l2 + u32::from(ip.version_length & 0xf) * 4;
    let Ok(icmp) = skb.load::<error::Icmp>(at) else { return done };
    if !matches!(icmp.kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
        || ip.fragment & packet::FRAGMENT != 0
    {
        return done;
    }
    let end = l2 + u32::from(u16::from_be(ip.length));
    let Ok(quote) = quoted(skb, at + 8, end) else { return done };
    // the quoted packet left here as the one that answers to this key
    let sent = FlowKey::new(
        Address::from_wire(quote.ip.source),
        Address::from_wire(quote.ip.destination),
        quote.ports,
        quote.protocol,
    );
    let key = sent.swapped();
    let found = maps::established(quote.protocol, &key).or_else(|| maps::unproven(&key));
    let Some(flow) = found else { return done };
    if ip.destination != quote.ip.source {
        return done;
    }
    signal::error(flow, quote.protocol, signal::is_unreachable(icmp.kind, icmp.code));
    packet.key = key;
    packet.protocol = quote.protocol;
    packet.l2 = l2;
    packet.transport = at;
    packet.length = u16::from_be(ip.length).into();
    packet.header_length = at - l2 + 8;
    packet.sequence = 0;
    packet.acknowledgment = 0;
    packet.now = maps::now();
    packet.rule = flow.rule();
    packet.mtu = 0;
    packet.ip_checksum = ip.checksum;
    packet.identification = ip.identification.into();
    packet.fragment = ip.fragment;
    packet.piece = Piece::WHOLE;
    packet.ttl = ip.ttl;
    packet.flags = 0;
    if flow.flags().has(FlowFlags::TO_V6) {
        // it is told in another header
        if quote.at + u32::from(u16::from_be(quote.ip.length)) < quote.transport + 8 {
            return done;
        }
        packet.incoming = Incoming { icmp, quoted: quote.at, transport: quote.transport, end };
        return Read::Error;
    }
    Read::Done(pass_on(skb, ip, packet, &quote, flow))
}

#[inline(always)]
fn quoted(skb: Skb, at: u32, end: u32) -> Result<Quote, Failed> {
    let ip = skb.load::<Ipv4>(at)?;
    let header = u32::from(ip.version_length & 0xf) * 4;
    let protocol = Protocol::from_number(ip.protocol).ok_or(Failed)?;
    if ip.version_length >> 4 != 4 || header < 20 || ip.fragment & packet::FRAGMENT_OFFSET != 0 {
        return Err(Failed);
    }
    let transport = at + header;
    if transport + 8 > end {
        return Err(Failed);
    }
    let ports = Ports::from_wire(skb.load::<u32>(transport)?);
    Ok(Quote { ip, at, transport, end, ports, protocol })
}

#[inline(always)]
fn pass_on(skb: Skb, ip: &Ipv4, packet: &Packet, quote: &Quote, flow: &mut FlowEntry) -> Outcome {
    let rule = flow.rule();
    let Some(next_hop) = route::of_error(flow, packet) else {
        return count::refuse(rule, DropReason::NoRoute);
    };
    // no errors about errors (RFC 1122 section 3.2.2)
    if ip.ttl <= 1 {
        return count::refuse(rule, DropReason::TtlExceeded);
    }
    if packet.length > next_hop.mtu {
        return count::refuse(rule, DropReason::TooBig);
    }
    let destination = flow.translation().destination;
    // the client's rate is for what it sends and gets, which this is about
    if !count::one(rule, flow.flags().has(FlowFlags::EGRESS), packet.length, false) {
        return Outcome::Dropped;
    }
    trace::decide(rule, Decision::Error);
    if rewrite(skb, ip, packet, quote, flow).is_err() || (packet.l2 == 0 && skb.push_ethernet().is_err()) {
        return count::refuse(rule, DropReason::Unwritable);
    }
    skb.redirect(next_hop, destination)
}

/// The outer packet goes the flow's way, under the address the receiver talked to; the quote becomes the packet that
/// the receiver had sent.
#[inline(always)]
fn rewrite(skb: Skb, ip: &Ipv4, packet: &Packet, quote: &Quote, flow: &FlowEntry) -> Result<(), Failed> {
    let to = flow.translation();
    let outer = Delta::address(Address::from_wire(ip.source), to.source)
        .and(Delta::address(Address::from_wire(ip.destination), to.destination));
    let tail = Ipv4Tail {
        ttl: ip.ttl - 1,
        protocol: packet::ICMP,
        checksum: outer.and(TTL_DELTA).apply(ip.checksum),
        source: to.source.to_wire(),
        destination: to.destination.to_wire(),
    };
    skb.store(packet.l2 + 8, &tail)?;
    let inside = requote(skb, quote, flow)?;
    skb.fix_checksum(packet.transport + 2, inside, 0)
}

/// Rewrites the quoted packet; returns what that does to the ICMP checksum, which covers it.
#[inline(always)]
fn requote(skb: Skb, quote: &Quote, flow: &FlowEntry) -> Result<Delta, Failed> {
    let to = flow.translation();
    let addresses = Delta::address(Address::from_wire(quote.ip.source), to.destination)
        .and(Delta::address(Address::from_wire(quote.ip.destination), to.source));
    let checksum = addresses.apply(quote.ip.checksum);
    let tail = Ipv4Tail {
        ttl: quote.ip.ttl,
        protocol: quote.ip.protocol,
        checksum,
        source: to.destination.to_wire(),
        destination: to.source.to_wire(),
    };
    skb.store(quote.at + 8, &tail)?;
    let new_ports = to.ports.swapped();
    skb.store(quote.transport, &new_ports.to_wire())?;
    let ports = Delta::port(quote.ports.source(), new_ports.source())
        .and(Delta::port(quote.ports.destination(), new_ports.destination()));
    let ip_checksum = Delta::word(quote.ip.checksum, checksum);
    let transport_checksum = transport_checksum(skb, quote, addresses.and(ports))?;
    Ok(addresses.and(ip_checksum).and(ports).and(transport_checksum))
}

/// Only 8 bytes of the quoted transport header are certain to be there: UDP's checksum is among them, TCP's is not.
#[inline(always)]
fn transport_checksum(skb: Skb, quote: &Quote, change: Delta) -> Result<Delta, Failed> {
    let at = quote.transport
        + match quote.protocol {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
        };
    if at + 2 > quote.end {
        return Ok(Delta::NONE);
    }
    let old = skb.load::<u16>(at)?;
    let new = match quote.protocol {
        Protocol::Tcp => change.apply(old),
        Protocol::Udp => change.apply_udp(old),
    };
    skb.store(at, &new)?;
    Ok(Delta::word(old, new))
}
