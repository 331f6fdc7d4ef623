//! The slow path: first packets, connection state, options, fragments, stale routes, and packets for other programs.
//!
//! It reads and writes through helpers at computed offsets, so header options and non-linear buffers need no cases of
//! their own. Each packet passes through once, forward: parse, find the flow, check it against the way out, step the
//! flow's state, finish.

use relay_common::counters::{DropReason, NO_RULE};
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Address, Ports, Protocol};
use relay_common::trace::Decision;

use crate::established::Frame as _;
use crate::packet::{self, Ethernet, Ipv4, tcp};
use crate::rewrite::TTL_DELTA;
use crate::skb::{Failed, Skb};
use crate::{Outcome, answer, count, fragment, icmp, maps, mss, open, route, trace, track, unproven, user};

/// What the slow path needs to know of a TCP or UDP packet. Lies in a per-CPU map: the stack is needed elsewhere.
#[repr(C)]
pub(crate) struct Packet {
    pub(crate) key: FlowKey,
    pub(crate) protocol: Protocol,
    /// Bytes of link header.
    pub(crate) l2: u32,
    /// Offset of the transport header.
    pub(crate) transport: u32,
    /// IP bytes.
    pub(crate) length: u32,
    /// IP and transport header bytes.
    pub(crate) header_length: u32,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) now: u32,
    /// Slot of the rule, once known.
    pub(crate) rule: u32,
    /// What the way out takes, once known.
    pub(crate) mtu: u32,
    pub(crate) ip_checksum: u16,
    pub(crate) identification: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    /// TCP control bits.
    pub(crate) flags: u8,
}

impl Packet {
    /// The first packet of a TCP connection.
    #[inline(always)]
    pub(crate) const fn is_syn(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
    }

    #[inline(always)]
    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// TCP: the sequence number behind the segment, a FIN included.
    #[inline(always)]
    pub(crate) const fn end(&self) -> u32 {
        let payload = self.length - self.header_length;
        self.sequence.wrapping_add(payload).wrapping_add(self.has(tcp::FIN) as u32)
    }

    /// TCP: whether the segment carries data from `sequence` on or later.
    #[inline(always)]
    pub(crate) const fn is_beyond(&self, sequence: u32) -> bool {
        self.length > self.header_length && self.end().wrapping_sub(sequence) as i32 > 0
    }

    /// What the packet needs of a link, as one segment.
    #[inline(always)]
    pub(crate) fn on_wire(&self, skb: Skb) -> u32 {
        match skb.segment_size() {
            0 => self.length,
            size => size + self.header_length,
        }
    }
}

/// The part of a TCP header behind its first 8 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpRest {
    acknowledgment: u32,
    offset: u8,
    flags: u8,
    window: u16,
}

/// One packet that the hot path left alone. `unknown`: it has looked, and no flow knows the packet.
#[inline(never)]
pub(crate) fn run(skb: Skb, l2: u32, unknown: bool) -> Outcome {
    trace::begin(skb, l2);
    let outcome = dispatch(skb, l2, unknown);
    trace::end();
    outcome
}

#[inline(always)]
fn dispatch(skb: Skb, l2: u32, unknown: bool) -> Outcome {
    let Ok(ip) = skb.load::<Ipv4>(l2) else { return Outcome::Miss };
    let header = u32::from(ip.version_length & 0xf) * 4;
    if ip.version_length >> 4 != 4 || header < 20 {
        return Outcome::Miss;
    }
    let Ok(length) = skb.ip_length(l2, u16::from_be(ip.length).into()) else { return Outcome::Miss };
    if length < header {
        return Outcome::Miss;
    }
    if ip.fragment & packet::FRAGMENT_OFFSET != 0 {
        return fragment::follow(skb, l2, &ip);
    }
    match ip.protocol {
        packet::ICMP => icmp::translate(skb, l2, &ip),
        packet::TCP | packet::UDP => {
            let Some(packet) = maps::packet() else { return Outcome::Miss };
            match parse(packet, skb, l2, &ip, length) {
                Ok(()) => carry(skb, packet, unknown),
                Err(Failed) => Outcome::Miss,
            }
        }
        _ => Outcome::Miss,
    }
}

/// A function of its own: its share of the stack must be free again when the next stage runs.
#[inline(never)]
fn parse(packet: &mut Packet, skb: Skb, l2: u32, ip: &Ipv4, length: u32) -> Result<(), Failed> {
    let header = u32::from(ip.version_length & 0xf) * 4;
    let transport = l2 + header;
    // ports, then TCP's sequence number or UDP's length and checksum
    let [ports, second] = skb.load::<[u32; 2]>(transport)?;
    let ports = Ports::from_wire(ports);
    let (protocol, transport_header, sequence, acknowledgment, flags) = if ip.protocol == packet::TCP {
        let rest = skb.load::<TcpRest>(transport + 8)?;
        let size = u32::from(rest.offset >> 4) * 4;
        if size < 20 {
            return Err(Failed);
        }
        (Protocol::Tcp, size, u32::from_be(second), u32::from_be(rest.acknowledgment), rest.flags)
    } else {
        let claimed = u32::from_be(second) >> 16;
        // of a datagram in fragments the first one holds only a part
        let whole = ip.fragment & packet::MORE_FRAGMENTS == 0;
        if claimed < 8 || (whole && header + claimed > length) {
            return Err(Failed);
        }
        (Protocol::Udp, 8, 0, 0, 0)
    };
    if header + transport_header > length {
        return Err(Failed);
    }
    let (source, destination) = (Address::from_wire(ip.source), Address::from_wire(ip.destination));
    // field by field: a whole `Packet` would be put together on the stack first
    packet.key = FlowKey::new(source, destination, ports, protocol);
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
    packet.ip_checksum = ip.checksum;
    packet.identification = ip.identification;
    packet.fragment = ip.fragment;
    packet.ttl = ip.ttl;
    packet.flags = flags;
    Ok(())
}

/// What the slow path has decided about a packet.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Action {
    /// Not ours.
    Pass = 0,
    /// Refused and counted.
    Drop = 1,
    /// It belongs to a flow, which says how to rewrite it.
    Forward = 2,
    /// No flow knows it.
    Open = 3,
    /// It cannot go on; its sender is owed an ICMP error.
    Answer = 4,
    /// The user plane's: counted, and left to the stack.
    Leave = 5,
}

/// Each stage is called from one place only: the verifier walks a function once per call.
#[inline(always)]
fn carry(skb: Skb, packet: &mut Packet, unknown: bool) -> Outcome {
    let mut action = if unknown { Action::Open } else { step(skb, packet) };
    let mut decision = Decision::SlowPath;
    if action == Action::Open {
        action = open::run(skb, packet);
        decision = Decision::Opened;
    }
    match action {
        Action::Forward => {
            trace::decide(packet.rule, decision);
            finish(skb, packet)
        }
        Action::Answer => answer::run(skb, packet),
        Action::Drop => Outcome::Dropped,
        Action::Leave => {
            user::incoming_v4(skb, packet);
            Outcome::Miss
        }
        Action::Pass | Action::Open => Outcome::Miss,
    }
}

/// Finds the flow of a packet and steps its state.
#[inline(never)]
fn step(skb: Skb, packet: &mut Packet) -> Action {
    let established = maps::established(packet.protocol, &packet.key);
    let live = established.is_some();
    let Some(flow) = established.or_else(|| maps::unproven(&packet.key)) else { return Action::Open };
    packet.rule = flow.rule();
    let Some(next_hop) = route::of(flow, packet, skb.interface()) else {
        return refuse(packet, DropReason::NoRoute);
    };
    packet.mtu = next_hop.mtu;
    if answer::is_due(skb, packet) {
        return Action::Answer;
    }
    if !live {
        return unproven::step(packet, flow);
    }
    match packet.protocol {
        Protocol::Tcp => track::step(packet, flow),
        Protocol::Udp => {
            flow.seen = packet.now;
            flow.set_flags(flow.flags().without(FlowFlags::DYING.with(FlowFlags::SLOW)));
            Action::Forward
        }
    }
}

/// Refuses a packet whose rule is known.
#[inline(always)]
pub(crate) fn refuse(packet: &Packet, reason: DropReason) -> Action {
    count::refuse(packet.rule, reason);
    Action::Drop
}

/// Rewrites a packet as its flow says, counts it and sends it.
#[inline(never)]
fn finish(skb: Skb, packet: &Packet) -> Outcome {
    let flow = maps::established(packet.protocol, &packet.key).or_else(|| maps::unproven(&packet.key));
    // gone again: the table of unproven flows is under pressure
    let Some(flow) = flow else { return count::refuse(packet.rule, DropReason::NotProven) };
    let Some(next_hop) = route::usable(flow.hop().index) else {
        return count::refuse(packet.rule, DropReason::NoRoute);
    };
    if packet.has(tcp::SYN) && packet.protocol == Protocol::Tcp {
        mss::clamp(skb, packet, flow, next_hop);
    }
    if packet.l2 != 0
        && let Ok(link) = skb.load(Ethernet::LINK)
    {
        flow.link = link;
    }
    flow.bytes +=
        count::traffic(flow, packet.length, packet.header_length, skb.segment_size(), skb.segments());
    if packet.fragment & packet::MORE_FRAGMENTS != 0 {
        fragment::remember(packet, flow);
    }
    let destination = flow.translation().destination;
    if rewrite(skb, packet, flow).is_err() || (packet.l2 == 0 && skb.push_ethernet().is_err()) {
        return count::refuse(packet.rule, DropReason::Unwritable);
    }
    skb.redirect(next_hop, destination)
}

/// The last twelve bytes of an IPv4 header.
#[repr(C)]
pub(crate) struct Ipv4Tail {
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

#[inline(always)]
fn rewrite(skb: Skb, packet: &Packet, flow: &FlowEntry) -> Result<(), Failed> {
    let to = flow.translation();
    let tail = Ipv4Tail {
        ttl: packet.ttl - 1,
        protocol: packet.protocol.number(),
        checksum: flow.address_delta().and(TTL_DELTA).apply(packet.ip_checksum),
        source: to.source.to_wire(),
        destination: to.destination.to_wire(),
    };
    skb.store(packet.l2 + 8, &tail)?;
    skb.store(packet.transport, &to.ports.to_wire())?;
    match packet.protocol {
        Protocol::Tcp => skb.fix_tcp_checksum(packet.transport, flow.address_delta(), flow.port_delta()),
        Protocol::Udp => skb.fix_udp_checksum(packet.transport, flow.address_delta(), flow.port_delta()),
    }
}
