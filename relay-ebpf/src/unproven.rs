//! Flows whose client has not yet proven that it gets our answers, and flows that have ended.
//!
//! Proof is what a forged source address cannot give: for TCP an acknowledgment of the backend's own sequence number,
//! for UDP a packet after the backend's answer. Only then does a flow get a place that a flood cannot take.

use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey, Owner, Translation};
use relay_common::net::Protocol;
use relay_common::observe::Sight;

use crate::maps::{self, Refused};
use crate::packet::tcp;
use crate::slow::{self, Action, Packet};
use crate::{claim, ended, half, limit, observe, round_trip, route, signal, track};

/// An acknowledgment this far above the backend's first sequence number counts as proof: data may ride on the SYN-ACK.
const PROOF_WINDOW: u32 = 65_536;

/// A packet of a flow in the unproven table.
#[inline(always)]
pub(crate) fn step(packet: &Packet, flow: &mut FlowEntry) -> Action {
    let action = decide(packet, flow);
    match action {
        Action::Forward => flow.seen = packet.now,
        Action::Open => track::forget(packet, flow),
        Action::Pass | Action::Leave | Action::Drop | Action::Answer => {}
    }
    action
}

#[inline(always)]
fn decide(packet: &Packet, flow: &mut FlowEntry) -> Action {
    let from_client = !flow.flags().has(FlowFlags::EGRESS);
    match (packet.protocol, from_client) {
        (Protocol::Tcp, true) => tcp_client(packet, flow),
        (Protocol::Tcp, false) => tcp_backend(packet, flow),
        (Protocol::Udp, true) => udp_client(packet, flow),
        (Protocol::Udp, false) => udp_backend(flow),
    }
}

#[inline(always)]
fn tcp_client(packet: &Packet, flow: &mut FlowEntry) -> Action {
    let flags = flow.flags();
    if packet.is_syn() {
        if flags.has(FlowFlags::CLOSED) || !is_current(flow) || !claim::hold(packet, flow) {
            return Action::Open;
        }
        if !flags.has(FlowFlags::REPLIED) {
            signal::unanswered(flow);
            if is_deserted(flow, Protocol::Tcp) {
                return Action::Open;
            }
        }
        return Action::Forward;
    }
    if flags.has(FlowFlags::CLOSED) {
        return Action::Forward;
    }
    if packet.has(tcp::RST) {
        mark(packet, flow, FlowFlags::CLOSED);
        return Action::Forward;
    }
    let ahead = packet.acknowledgment.wrapping_sub(flow.sequence);
    if !packet.has(tcp::ACK) || !flags.has(FlowFlags::REPLIED) || ahead == 0 || ahead > PROOF_WINDOW {
        return slow::refuse(packet, DropReason::NotProven);
    }
    promote(packet, flow)
}

#[inline(always)]
fn tcp_backend(packet: &Packet, flow: &mut FlowEntry) -> Action {
    if flow.flags().has(FlowFlags::CLOSED) {
        return Action::Forward;
    }
    if packet.has(tcp::RST) {
        if !flow.flags().has(FlowFlags::REPLIED) {
            signal::refused(flow, Protocol::Tcp);
            ended::refused(packet, flow);
        }
        mark(packet, flow, FlowFlags::CLOSED);
    } else if packet.has(tcp::SYN) && packet.has(tcp::ACK) {
        if let Some(client) = maps::unproven(&half::opposite(flow, Protocol::Tcp)) {
            client.sequence = packet.sequence;
        }
        round_trip::answered(flow);
        mark(packet, flow, FlowFlags::REPLIED);
    }
    Action::Forward
}

#[inline(always)]
fn udp_client(packet: &Packet, flow: &mut FlowEntry) -> Action {
    if !is_current(flow) {
        return Action::Open;
    }
    if flow.flags().has(FlowFlags::REPLIED) {
        return promote(packet, flow);
    }
    if flow.seen != packet.now && (is_deserted(flow, Protocol::Udp) || !claim::hold(packet, flow)) {
        return Action::Open;
    }
    Action::Forward
}

/// Whether a flow that was never answered waits for a backend that does not answer anybody, while others do.
#[inline(always)]
fn is_deserted(flow: &FlowEntry, protocol: Protocol) -> bool {
    maps::endpoint(flow.endpoint())
        .is_some_and(|endpoint| endpoint.rule == flow.rule() && endpoint.is_deserted(protocol))
}

#[inline(always)]
fn udp_backend(flow: &mut FlowEntry) -> Action {
    if !flow.flags().has(FlowFlags::REPLIED) {
        // the client's next packet is the proof, and must not slip by on the hot path
        if let Some(client) = maps::unproven(&half::opposite(flow, Protocol::Udp)) {
            client.set_flags(client.flags().with(FlowFlags::REPLIED).with(FlowFlags::SLOW));
        }
        flow.set_flags(flow.flags().with(FlowFlags::REPLIED).without(FlowFlags::SLOW));
    }
    Action::Forward
}

/// Whether the rule that made the flow still stands.
#[inline(always)]
fn is_current(flow: &FlowEntry) -> bool {
    maps::rule(flow.rule()).is_some_and(|rule| rule.generation == flow.generation)
}

/// Sets a flag on both halves.
#[inline(always)]
fn mark(packet: &Packet, flow: &mut FlowEntry, flag: FlowFlags) {
    flow.set_flags(flow.flags().with(flag));
    let other = maps::unproven(&half::opposite(flow, packet.protocol));
    if let Some(other) = other.filter(|other| half::opposite(other, packet.protocol) == packet.key) {
        other.set_flags(other.flags().with(flag));
    }
}

/// Moves both halves to the established table, backend half first: it is the claim on the source port.
#[inline(always)]
fn promote(packet: &Packet, flow: &FlowEntry) -> Action {
    let protocol = packet.protocol;
    let key = half::opposite(flow, protocol);
    let (Some(scratch), Some(backend)) = (maps::scratch(), maps::unproven(&key)) else {
        return lost(packet);
    };
    if half::opposite(backend, protocol) != packet.key {
        return lost(packet);
    }
    fill(&mut scratch.client, flow, packet.now);
    fill(&mut scratch.backend, backend, packet.now);
    if let Err(reason) = limit::enter(&packet.sender, &mut scratch.backend) {
        return slow::refuse(packet, reason);
    }
    if let Err(refused) = maps::establish(protocol, &key, &scratch.backend) {
        limit::give_back((flow.rule(), flow.endpoint()), scratch.backend.flags(), &packet.sender);
        return match refused {
            Refused::Full => full(packet),
            // another CPU may have been faster with the same flow
            Refused::Taken if maps::established(protocol, &packet.key).is_some() => Action::Forward,
            Refused::Taken => lost(packet),
        };
    }
    if maps::establish(protocol, &packet.key, &scratch.client) == Err(Refused::Full) {
        let _gone = limit::leave(protocol, &key, &scratch.backend);
        return full(packet);
    }
    signal::answered(flow, protocol);
    round_trip::proven(packet, backend);
    observe::flow(packet, Sight::Proven);
    maps::forget_unproven(&packet.key);
    maps::forget_unproven(&key);
    Action::Forward
}

#[inline(always)]
fn fill(to: &mut FlowEntry, from: &FlowEntry, now: u32) {
    *to = *from;
    to.seen = now;
    to.set_flags(from.flags().with(FlowFlags::PROVEN).without(FlowFlags::SLOW.with(FlowFlags::TIMED)));
}

/// The claim was lost to a flood; the client's next SYN or datagram makes another.
#[inline(always)]
fn lost(packet: &Packet) -> Action {
    maps::forget_unproven(&packet.key);
    slow::refuse(packet, DropReason::NotProven)
}

#[inline(always)]
fn full(packet: &Packet) -> Action {
    if let Some(pressure) = maps::pressure(packet.protocol) {
        pressure.full_at = packet.now;
    }
    slow::refuse(packet, DropReason::TableFull)
}

/// The backend half that belongs to a client half, made anew. `own`: of IPv6, the number of the address that it is for.
#[inline(always)]
pub(crate) fn backend_half(packet: &Packet, key: &FlowKey, client: &FlowEntry, own: u32) -> FlowEntry {
    let to = Translation {
        source: packet.key.destination(),
        destination: packet.key.source(),
        ports: packet.key.ports().swapped(),
    };
    let owner = Owner { rule: client.rule(), generation: client.generation, endpoint: client.endpoint() };
    let hop = route::towards(client.interface, &packet.sender).unwrap_or_default();
    let mut half = FlowEntry::new(key, to, owner, hop, FlowFlags::EGRESS.with(FlowFlags::SLOW), packet.now);
    half.undo(client);
    if packet.key.is_v6() {
        half.send_to_v6(&packet.sender, own);
    }
    half
}
