//! The hot path's decision for IPv6 packets, at tc only: see [`established`](crate::established).

use relay_common::digest::Digest;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Ports, Protocol};
use relay_common::route::NextHop;

use crate::established::{self, Detour, Frame as _};
use crate::ipv6::HEADER;
use crate::maps::{self, Entry};
use crate::packet::{self, Ipv6Tcp, Ipv6Udp, tcp};
use crate::skb::Skb;
use crate::translate::{GROWTH, Head, Piece, Segment};

/// A packet that may be translated and sent.
pub(crate) struct Hit {
    pub(crate) flow: Entry<FlowEntry>,
    pub(crate) next_hop: &'static NextHop,
    pub(crate) head: Head,
    /// IP bytes; of a super-packet, all of it.
    pub(crate) length: u32,
    /// IP and transport header bytes, which every segment of a super-packet repeats.
    pub(crate) header_length: u32,
    pub(crate) segment_size: u32,
}

/// Finds the live flow that a packet belongs to. `L2`: bytes of link header before the IP header.
#[inline(always)]
pub(crate) fn find<const L2: usize>(skb: Skb) -> Result<Hit, Detour> {
    let bytes = skb.bytes();
    let headers: &mut Ipv6Udp = bytes.at(L2).ok_or(Detour::Slow)?;
    let ip = &headers.ip;
    if ip.hops <= 1 || !ip.is_v6() {
        return Err(Detour::Slow);
    }
    let secret = &maps::settings().ok_or(Detour::Slow)?.secret;
    let key = |protocol| {
        let (source, destination) = (Digest::new(&ip.source, secret), Digest::new(&ip.destination, secret));
        FlowKey::of_v6(source, destination, Ports::from_wire(headers.ports), protocol)
    };
    let (flow, protocol, header_length, claimed, sequence) = match ip.next {
        packet::TCP => {
            let headers: &Ipv6Tcp = bytes.at(L2).ok_or(Detour::Slow)?;
            if headers.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 || headers.offset < packet::TCP_PLAIN {
                return Err(Detour::Slow);
            }
            let flow = maps::established(Protocol::Tcp, &key(Protocol::Tcp));
            let header_length = HEADER + u32::from(headers.offset >> 4) * 4;
            (flow, Protocol::Tcp, header_length, header_length, u32::from_be(headers.sequence))
        }
        packet::UDP => {
            let flow = established::udp(&key(Protocol::Udp)).ok_or(Detour::Unknown)?;
            (Some(flow), Protocol::Udp, HEADER + 8, HEADER + u32::from(u16::from_be(headers.length)), 0)
        }
        // extension headers, neighbour discovery
        _ => return Err(Detour::Slow),
    };
    let flow = flow.ok_or(Detour::Slow)?;
    established::refresh::<Skb, L2>(&skb, flow)?;
    let next_hop = maps::next_hop(flow.hop().index).ok_or(Detour::Slow)?;
    if next_hop.generation != flow.hop().generation {
        return Err(Detour::Slow);
    }
    let segment_size = skb.segment_size();
    let (length, on_wire) = if segment_size == 0 {
        let length = HEADER + u32::from(u16::from_be(ip.length));
        (length, length)
    } else {
        (skb.length() - L2 as u32, segment_size + header_length)
    };
    let growth = if flow.flags().has(FlowFlags::TO_V6) { 0 } else { GROWTH };
    let whole = length >= claimed && claimed >= header_length;
    if !whole || on_wire > next_hop.mtu + growth || length + L2 as u32 > skb.length() {
        return Err(Detour::Slow);
    }
    let segment = Segment { header: header_length - HEADER, sequence };
    let (protocol, piece, payload) = (protocol.number(), Piece::WHOLE, length - HEADER);
    let head = Head { protocol, service: ip.class(), ttl: ip.hops - 1, payload, piece, segment };
    Ok(Hit { flow, next_hop, head, length, header_length, segment_size })
}
