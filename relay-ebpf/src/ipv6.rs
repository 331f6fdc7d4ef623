//! IPv6 packets on the slow path.

use relay_common::digest::Digest;
use relay_common::flow::FlowKey;

use crate::packet::{self, Fragment, Ipv6};
use crate::skb::{Failed, Skb};
use crate::slow::{Packet, Read, parse_transport};
use crate::translate::Piece;
use crate::{Outcome, across, extension, fragment, maps};

/// Bytes of an IPv6 header.
pub(crate) const HEADER: u32 = 40;

/// Reads a packet whose TCP or UDP header follows the IPv6 header at once, or a fragment header.
#[inline(always)]
pub(crate) fn read(packet: &mut Packet, skb: Skb, l2: u32) -> Read {
    let Ok(ip) = skb.load::<Ipv6>(l2) else { return Read::Done(Outcome::Miss) };
    if !ip.is_v6() {
        return Read::Done(Outcome::Miss);
    }
    if ip.next == packet::ICMPV6 {
        return across::read_v6(packet, skb, l2, &ip);
    }
    if ip.next == Fragment::NEXT
        && let Ok(header) = skb.load::<Fragment>(l2 + HEADER)
        && header.offset & Fragment::OFFSET != 0
    {
        return Read::Done(fragment::follow_v6(skb, l2, &ip, &header));
    }
    match parse(packet, skb, l2, &ip) {
        Ok(()) => Read::Packet,
        Err(Failed) => {
            // these have headers that contradict themselves
            if matches!(ip.next, packet::TCP | packet::UDP) {
                return Read::Done(Outcome::Miss);
            }
            Read::Done(extension::read(skb, l2, &ip))
        }
    }
}

#[inline(never)]
fn parse(packet: &mut Packet, skb: Skb, l2: u32, ip: &Ipv6) -> Result<(), Failed> {
    let (mut next, mut header) = (ip.next, HEADER);
    packet.piece = Piece::WHOLE;
    packet.fragment = 0;
    packet.identification = 0;
    if next == Fragment::NEXT {
        let fragment = skb.load::<Fragment>(l2 + HEADER)?;
        next = fragment.next;
        header += Fragment::BYTES;
        packet.piece = Piece::of_v6(&fragment);
        packet.fragment = if fragment.offset & Fragment::MORE != 0 { packet::MORE_FRAGMENTS } else { 0 };
        packet.identification = fragment.identification;
    }
    if !matches!(next, packet::TCP | packet::UDP) {
        return Err(Failed);
    }
    let length = skb.ip_length(l2, HEADER + u32::from(u16::from_be(ip.length)))?;
    let whole = packet.fragment == 0;
    let ports = parse_transport(packet, skb, (l2, header, length), next, whole)?;
    let settings = maps::settings().ok_or(Failed)?;
    let digest = |address| Digest::new(address, &settings.secret);
    packet.key = FlowKey::of_v6(digest(&ip.source), digest(&ip.destination), ports, packet.protocol);
    packet.sender = ip.source;
    packet.destination_v6 = ip.destination;
    packet.own_number = 0;
    packet.ip_checksum = 0;
    packet.ttl = ip.hops;
    packet.service = ip.class();
    Ok(())
}
