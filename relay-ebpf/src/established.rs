//! The hot path's decision, the same for both hooks: is this a plain packet of a live flow, and where does it go?
//!
//! One flow lookup, one next hop, nothing written. Whatever is out of the ordinary is a [`Detour`].

use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Address, Ports, Protocol};
use relay_common::route::NextHop;

use crate::maps::{self, Entry};
use crate::packet::{self, Bytes, Ipv4Tcp, Ipv4Udp, tcp};
use crate::translate::GROWTH;

/// What the hot path asks of a hook.
pub(crate) trait Frame {
    fn bytes(&self) -> Bytes;
    /// Bytes of the whole frame, link header included.
    fn length(&self) -> u32;
    fn interface(&self) -> u32;
    /// Payload bytes per segment of a super-packet; 0 for a plain packet.
    fn segment_size(&self) -> u32;
    /// Whether the frame is for this host, as far as the hook has to find that out from the flow.
    fn is_addressed(&self, flow: &FlowEntry) -> bool;
    /// Notes in the flow what the hook knows and others ask for; once a tick.
    fn refresh<const L2: usize>(&self, flow: &mut FlowEntry);
}

/// Why the hot path leaves a packet alone.
#[derive(Clone, Copy)]
pub(crate) enum Detour {
    /// Not TCP or UDP over IPv4.
    Foreign,
    /// Needs the slow path.
    Slow,
    /// Needs the slow path, and no flow knows it.
    Unknown,
}

/// A packet that may be rewritten and sent.
pub(crate) struct Hit {
    pub(crate) flow: Entry<FlowEntry>,
    pub(crate) next_hop: &'static NextHop,
    pub(crate) headers: &'static mut Ipv4Udp,
    pub(crate) protocol: Protocol,
    /// IP bytes; of a super-packet, all of it.
    pub(crate) length: u32,
    /// IP and transport header bytes, which every segment of a super-packet repeats.
    pub(crate) header_length: u32,
    pub(crate) segment_size: u32,
}

/// Finds the live flow that a packet belongs to. `L2`: bytes of link header before the IP header.
#[inline(always)]
pub(crate) fn find<F: Frame, const L2: usize>(frame: &F) -> Result<Hit, Detour> {
    let bytes = frame.bytes();
    let headers: &mut Ipv4Udp = bytes.at(L2).ok_or(Detour::Slow)?;
    let ip = &headers.ip;
    if ip.version_length != packet::PLAIN || ip.fragment & packet::FRAGMENT != 0 || ip.ttl <= 1 {
        return Err(Detour::Slow);
    }
    let key = |protocol| {
        FlowKey::new(
            Address::from_wire(ip.source),
            Address::from_wire(ip.destination),
            Ports::from_wire(headers.ports),
            protocol,
        )
    };
    // `claimed`: what the transport header says there is, IP header included
    let (flow, protocol, header_length, claimed) = match ip.protocol {
        packet::TCP => {
            let headers: &Ipv4Tcp = bytes.at(L2).ok_or(Detour::Slow)?;
            if headers.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 || headers.offset < packet::TCP_PLAIN {
                return Err(Detour::Slow);
            }
            let flow = maps::established(Protocol::Tcp, &key(Protocol::Tcp));
            let header_length = 20 + u32::from(headers.offset >> 4) * 4;
            (flow, Protocol::Tcp, header_length, header_length)
        }
        packet::UDP => {
            let flow = udp(&key(Protocol::Udp)).ok_or(Detour::Unknown)?;
            (Some(flow), Protocol::Udp, 28, 20 + u32::from(u16::from_be(headers.length)))
        }
        packet::ICMP => return Err(Detour::Slow),
        _ => return Err(Detour::Foreign),
    };
    let flow = flow.ok_or(Detour::Slow)?;
    refresh::<F, L2>(frame, flow)?;
    let next_hop = maps::next_hop(flow.hop().index).ok_or(Detour::Slow)?;
    if next_hop.generation != flow.hop().generation {
        return Err(Detour::Slow);
    }
    let segment_size = frame.segment_size();
    let (length, on_wire) = if segment_size == 0 {
        let length = u32::from(u16::from_be(ip.length));
        (length, length)
    } else {
        (frame.length() - L2 as u32, segment_size + header_length)
    };
    // IPv6 knows no datagrams without a checksum
    if flow.flags().has(FlowFlags::TO_V6) && protocol == Protocol::Udp && headers.checksum == 0 {
        return Err(Detour::Slow);
    }
    let growth = if flow.flags().has(FlowFlags::TO_V6) { GROWTH } else { 0 };
    let whole = length >= claimed && claimed >= header_length;
    if !whole || on_wire + growth > next_hop.mtu || length + L2 as u32 > frame.length() {
        return Err(Detour::Slow);
    }
    Ok(Hit { flow, next_hop, headers, protocol, length, header_length, segment_size })
}

/// Whether a packet may take the hot path of its flow, which is alive by that.
#[inline(always)]
pub(crate) fn refresh<F: Frame, const L2: usize>(frame: &F, flow: &mut FlowEntry) -> Result<(), Detour> {
    let flags = flow.flags();
    let elsewhere = !flags.has(FlowFlags::EGRESS) && flow.interface != frame.interface();
    if flags.has(FlowFlags::SLOW) || elsewhere {
        return Err(Detour::Slow);
    }
    if !frame.is_addressed(flow) {
        return Err(Detour::Slow);
    }
    let now = maps::now();
    if flow.seen != now {
        // once a tick an unproven flow goes to the slow path, which makes sure of its claim
        if !flow.flags().has(FlowFlags::PROVEN) {
            return Err(Detour::Slow);
        }
        flow.seen = now;
        if !flags.has(FlowFlags::TO_V6) {
            frame.refresh::<L2>(flow);
        }
    }
    Ok(())
}

/// A UDP flow may be proven or not: the table that the last packet was found in is looked at first, so that a busy
/// stream costs one lookup either way.
#[inline(always)]
pub(crate) fn udp(key: &FlowKey) -> Option<Entry<FlowEntry>> {
    let unproven_first = maps::unproven_first()?;
    if *unproven_first == 0 {
        let found = maps::established(Protocol::Udp, key);
        if found.is_some() {
            return found;
        }
        let found = maps::unproven(key)?;
        *unproven_first = 1;
        return Some(found);
    }
    let found = maps::unproven(key);
    if found.is_some() {
        return found;
    }
    let found = maps::established(Protocol::Udp, key)?;
    *unproven_first = 0;
    Some(found)
}
