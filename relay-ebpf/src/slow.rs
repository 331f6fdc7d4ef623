//! The slow path: first packets, connection state, options, fragments, stale routes, and packets for other programs.
//!
//! It reads and writes through helpers at computed offsets, so header options and non-linear buffers need no cases of
//! their own. Each packet passes through once, forward: parse, find the flow, check it against the way out, step the
//! flow's state, finish.

mod packet;
mod read;

use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags};
use relay_common::net::Protocol;
use relay_common::trace::Decision;

pub(crate) use self::packet::Packet;
pub(crate) use self::read::{Read, parse_transport};
use crate::established::Frame as _;
use crate::note::Where;
use crate::packet::{Ethernet, IPV6, MORE_FRAGMENTS, tcp};
use crate::rewrite::TTL_DELTA;
use crate::skb::{Failed, Skb};
use crate::{
    Outcome, across, answer, count, fragment, ipv6, maps, mss, observe, open, route, sum, trace, track,
    translate, unproven, user,
};

/// One packet that the hot path left alone. `unknown`: it has looked, and no flow knows the packet.
#[inline(never)]
pub(crate) fn run(skb: Skb, l2: u32, unknown: bool) -> Outcome {
    let Some(packet) = maps::packet() else { return Outcome::Miss };
    trace::begin(skb, l2);
    let is_v6 = skb.protocol() == IPV6;
    let read = if is_v6 { ipv6::read(packet, skb, l2) } else { read::read(packet, skb, l2) };
    let outcome = match read {
        Read::Packet => carry(skb, packet, unknown),
        Read::Error => across::pass_on(skb, packet),
        Read::Done(outcome) => outcome,
    };
    trace::end();
    observe::end();
    outcome
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
            if packet.is_untranslatable || (packet.lacks_sum && sum::fill_in(skb, packet).is_err()) {
                return count::refuse(packet.rule, DropReason::BadHeader);
            }
            finish(skb, packet)
        }
        Action::Answer => answer::run(skb, packet),
        Action::Drop => Outcome::Dropped,
        Action::Leave => {
            if user::incoming(skb, packet) {
                Outcome::Miss
            } else {
                Outcome::Dropped
            }
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
    packet.leave_by(next_hop.mtu, flow.flags().has(FlowFlags::TO_V6));
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
    let to_v6 = flow.flags().has(FlowFlags::TO_V6);
    if packet.l2 != 0
        && !to_v6
        && let Ok(link) = skb.load(Ethernet::LINK)
    {
        flow.link = link;
    }
    if !count_leg(skb, packet, flow) {
        return Outcome::Dropped;
    }
    if packet.fragment & MORE_FRAGMENTS != 0 {
        fragment::remember(packet, flow);
    }
    if packet.key.is_v6() || to_v6 {
        return translate::finish(skb, packet, flow, next_hop);
    }
    let destination = flow.translation().destination;
    if rewrite(skb, packet, flow).is_err() || (packet.l2 == 0 && skb.push_ethernet().is_err()) {
        return count::refuse(packet.rule, DropReason::Unwritable);
    }
    skb.redirect(next_hop, destination)
}

/// Counts a packet for what it is on the client's side. `false`: it is refused. By itself, for its share of the stack.
#[inline(never)]
fn count_leg(skb: Skb, packet: &Packet, flow: &mut FlowEntry) -> bool {
    let lengths = translate::on_client_leg(
        flow,
        packet.key.is_v6(),
        packet.piece.growth(),
        (packet.length, packet.header_length),
    );
    let Some(bytes) =
        count::traffic(skb, packet.l2, flow, Where::at(packet.transport), lengths, skb.segment_size())
    else {
        return false;
    };
    flow.bytes += bytes;
    true
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
