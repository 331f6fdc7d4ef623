//! Reading IPv4 packets, and the transport headers of both families.

use relay_common::counters::NO_RULE;
use relay_common::flow::FlowKey;
use relay_common::net::{Address, Ports, Protocol, mapped};

use super::Packet;
use crate::packet::{self, Ipv4};
use crate::skb::{Failed, Skb};
use crate::translate::Piece;
use crate::{Outcome, fragment, icmp, maps};

/// The part of a TCP header behind its first 8 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpRest {
    acknowledgment: u32,
    offset: u8,
    flags: u8,
    window: u16,
}

/// What reading a packet led to.
pub(crate) enum Read {
    /// TCP or UDP with its ports.
    Packet,
    /// An error about a flow, to be told in the other family.
    Error,
    /// Something else, which is finished with.
    Done(Outcome),
}

#[inline(always)]
pub(super) fn read(packet: &mut Packet, skb: Skb, l2: u32) -> Read {
    let done = Read::Done(Outcome::Miss);
    let Ok(ip) = skb.load::<Ipv4>(l2) else { return done };
    let header = u32::from(ip.version_length & 0xf) * 4;
    if ip.version_length >> 4 != 4 || header < 20 {
        return done;
    }
    let Ok(length) = skb.ip_length(l2, u16::from_be(ip.length).into()) else { return done };
    if length < header {
        return done;
    }
    if ip.fragment & packet::FRAGMENT_OFFSET != 0 {
        return Read::Done(fragment::follow(skb, l2, &ip));
    }
    match ip.protocol {
        packet::ICMP => icmp::translate(packet, skb, l2, &ip),
        packet::TCP | packet::UDP => match parse(packet, skb, l2, &ip, length) {
            Ok(()) => Read::Packet,
            Err(Failed) => done,
        },
        _ => done,
    }
}

/// A function of its own: its share of the stack must be free again when the next stage runs.
#[inline(never)]
fn parse(packet: &mut Packet, skb: Skb, l2: u32, ip: &Ipv4, length: u32) -> Result<(), Failed> {
    let header = u32::from(ip.version_length & 0xf) * 4;
    let whole = ip.fragment & packet::MORE_FRAGMENTS == 0;
    let ports = parse_transport(packet, skb, (l2, header, length), ip.protocol, whole)?;
    let (source, destination) = (Address::from_wire(ip.source), Address::from_wire(ip.destination));
    packet.key = FlowKey::new(source, destination, ports, packet.protocol);
    packet.sender = mapped(source);
    packet.ip_checksum = ip.checksum;
    packet.identification = ip.identification.into();
    packet.fragment = ip.fragment;
    packet.piece = Piece::of_v4(ip);
    packet.ttl = ip.ttl;
    packet.service = ip.service;
    Ok(())
}

/// The part that both families have in common. `(l2, header, length)`: bytes of link header, of IP header, and of the IP
/// packet. `whole`: it is no fragment.
#[inline(always)]
pub(crate) fn parse_transport(
    packet: &mut Packet,
    skb: Skb,
    (l2, header, length): (u32, u32, u32),
    protocol: u8,
    whole: bool,
) -> Result<Ports, Failed> {
    let transport = l2 + header;
    // ports, then TCP's sequence number or UDP's length and checksum
    let [ports, second] = skb.load::<[u32; 2]>(transport)?;
    let ports = Ports::from_wire(ports);
    let (protocol, transport_header, sequence, acknowledgment, flags) = if protocol == packet::TCP {
        let rest = skb.load::<TcpRest>(transport + 8)?;
        let size = u32::from(rest.offset >> 4) * 4;
        if size < 20 {
            return Err(Failed);
        }
        (Protocol::Tcp, size, u32::from_be(second), u32::from_be(rest.acknowledgment), rest.flags)
    } else {
        let claimed = u32::from_be(second) >> 16;
        // of a datagram in fragments the first one holds only a part
        if claimed < 8 || (whole && header + claimed > length) {
            return Err(Failed);
        }
        (Protocol::Udp, 8, 0, 0, 0)
    };
    if header + transport_header > length {
        return Err(Failed);
    }
    // field by field: a whole `Packet` would be put together on the stack first
    packet.protocol = protocol;
    packet.l2 = l2;
    packet.transport = transport;
    packet.length = length;
    packet.header_length = header + transport_header;
    packet.sequence = sequence;
    packet.acknowledgment = acknowledgment;
    packet.now = maps::now();
    packet.rule = NO_RULE;
    packet.mtu = 0;
    packet.told_mtu = 0;
    packet.is_untranslatable = false;
    packet.lacks_sum = false;
    packet.is_unsummed = protocol == Protocol::Udp && u32::from_be(second) & 0xffff == 0;
    packet.flags = flags;
    Ok(ports)
}
