//! New flows: does a rule want this packet, and can it be carried?

use relay_common::counters::DropReason;
use relay_common::flow::{Hop, Owner};
use relay_common::net::Protocol;
use relay_common::rule::{RuleEntry, RuleState};
use relay_common::trace::Decision;

use crate::claim::{self, Wanted};
use crate::established::Frame as _;
use crate::listening::{self, Address as _, Listening};
use crate::skb::Skb;
use crate::slow::{Action, Packet, refuse};
use crate::{answer, count, limit, maps, route, trace};

/// The first packet of a flow, or one that no rule knows.
#[inline(never)]
pub(crate) fn run(skb: Skb, packet: &mut Packet) -> Action {
    let (destination, port) = (packet.key.destination().to_wire(), packet.key.ports().destination());
    let Some(listening) = listening::find(packet.protocol, &destination, port, skb.interface()) else {
        return Action::Pass;
    };
    packet.rule = listening.rule;
    let Some(rule) = maps::rule(listening.rule) else { return Action::Pass };
    // segments of unknown connections are the stack's: a local session's, or it answers with a RST
    let is_unknown = packet.protocol == Protocol::Tcp && !packet.is_syn();
    match (rule.state(), packet.protocol) {
        (RuleState::Off, _) => pass(packet, Decision::Off),
        (RuleState::User, _) => leave(packet, rule, Decision::User),
        (_, Protocol::Tcp) if rule.tcp_of_user != 0 => leave(packet, rule, Decision::User),
        _ if is_unknown => leave(packet, rule, Decision::NoFlow),
        (RuleState::Draining, Protocol::Tcp) => leave(packet, rule, Decision::Draining),
        _ => offer(skb, packet, &listening, rule),
    }
}

/// A first packet that the kernel plane may carry, unless somebody on this host has it already.
#[inline(always)]
fn offer(skb: Skb, packet: &mut Packet, listening: &Listening, rule: &RuleEntry) -> Action {
    // a session stays where it is: its backend knows it by the user plane's port
    let declined = packet.protocol == Protocol::Udp && maps::is_declined(&packet.key);
    if (declined || rule.yields != 0) && skb.has_local_socket(&packet.key, packet.protocol, declined) {
        return if declined {
            leave(packet, rule, Decision::User)
        } else {
            pass(packet, Decision::LocalSocket)
        };
    }
    if rule.state() == RuleState::Draining {
        return refuse(packet, DropReason::Draining);
    }
    admit(skb, packet, listening, rule)
}

/// Leaves a packet to the stack, where the user plane carries it or nobody does.
#[inline(always)]
fn leave(packet: &Packet, rule: &RuleEntry, why: Decision) -> Action {
    trace::decide(packet.rule, why);
    if u32::is_left_to_user(rule) { Action::Leave } else { Action::Pass }
}

/// Leaves a packet to the stack that is not the rule's, though it listens there.
#[inline(always)]
fn pass(packet: &Packet, why: Decision) -> Action {
    trace::decide(packet.rule, why);
    Action::Pass
}

#[inline(always)]
fn admit(skb: Skb, packet: &mut Packet, listening: &Listening, rule: &RuleEntry) -> Action {
    let Some(endpoint) = maps::endpoint(rule.endpoint) else { return Action::Pass };
    if !packet.key.source().is_valid_source() || maps::own_address(packet.key.source().to_wire()).is_some() {
        return refuse(packet, DropReason::BadSource);
    }
    if let Some(reason) = limit::refusal(packet, rule) {
        return refuse(packet, reason);
    }
    if is_full(packet) {
        return refuse(packet, DropReason::TableFull);
    }
    let interface = skb.interface();
    let Some(next_hop) = route::usable(endpoint.hop_index) else {
        return refuse(packet, DropReason::NoRoute);
    };
    let Some(to_client) = route::towards(interface, packet.key.source()) else {
        return refuse(packet, DropReason::NoRoute);
    };
    packet.mtu = next_hop.mtu;
    if answer::is_due(skb, packet) {
        return Action::Answer;
    }
    let wanted = Wanted {
        owner: Owner { rule: packet.rule, generation: rule.generation, endpoint: rule.endpoint },
        source: endpoint.source(),
        endpoint: endpoint.address(),
        endpoint_port: endpoint.port_for(packet.key.ports().destination(), listening.first),
        to_backend: Hop { index: endpoint.hop_index, generation: next_hop.generation },
        to_client,
    };
    if !claim::take(packet, &wanted, interface) {
        return refuse(packet, DropReason::PortsExhausted);
    }
    count::flow(packet.rule);
    Action::Forward
}

/// Whether the established table was full within the last tick: then a handshake would only end in silence.
#[inline(always)]
fn is_full(packet: &Packet) -> bool {
    maps::pressure(packet.protocol)
        .is_some_and(|pressure| pressure.full_at != 0 && packet.now.wrapping_sub(pressure.full_at) <= 1)
}
