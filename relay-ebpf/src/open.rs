//! New flows: does a rule want this packet, and can it be carried?

use relay_common::counters::DropReason;
use relay_common::flow::{Hop, Owner};
use relay_common::net::{Protocol, is_global_unicast, is_link_local};
use relay_common::observe::Sight;
use relay_common::rule::{RuleEntry, RuleState};
use relay_common::trace::Decision;

use crate::claim::{self, Wanted};
use crate::established::Frame as _;
use crate::listening::{self, Address as _, Listening};
use crate::skb::Skb;
use crate::slow::{Action, Packet, refuse};
use crate::{answer, choose, count, limit, maps, observe, route, socket, trace};

/// The first packet of a flow, or one that no rule knows.
#[inline(never)]
pub(crate) fn run(skb: Skb, packet: &mut Packet) -> Action {
    let Some(listening) = find(packet, skb.interface()) else { return Action::Pass };
    packet.rule = listening.rule;
    let Some(rule) = maps::rule(listening.rule) else { return Action::Pass };
    // segments of unknown connections are the stack's: a local session's, or it answers with a RST
    let is_unknown = packet.protocol == Protocol::Tcp && !packet.is_syn();
    let state = if packet.key.is_v6() { rule.state_v6() } else { rule.state() };
    match (state, packet.protocol) {
        (RuleState::Off, _) => pass(packet, Decision::Off),
        (RuleState::User, _) => leave(packet, rule, Decision::User),
        (_, Protocol::Tcp) if rule.tcp_of_user != 0 => leave(packet, rule, Decision::User),
        _ if is_unknown => leave(packet, rule, Decision::NoFlow),
        _ if is_of_one_link(packet) => leave(packet, rule, Decision::User),
        (RuleState::Draining, Protocol::Tcp) => leave(packet, rule, Decision::Draining),
        _ => offer(skb, packet, &listening, rule, state),
    }
}

/// Whether an end's address means nothing beyond the link that it came by, which sockets know and flows do not.
#[inline(always)]
const fn is_of_one_link(packet: &Packet) -> bool {
    packet.key.is_v6() && (is_link_local(&packet.sender) || is_link_local(&packet.destination_v6))
}

/// A first packet that the kernel plane may carry, unless somebody on this host has it already.
#[inline(always)]
fn offer(skb: Skb, packet: &mut Packet, listening: &Listening, rule: &RuleEntry, state: RuleState) -> Action {
    // a session stays where it is: its backend knows it by the user plane's port
    let declined = packet.protocol == Protocol::Udp && maps::is_declined(&packet.key);
    if (declined || rule.yields != 0) && socket::is_there(skb, packet, declined) {
        return if declined {
            leave(packet, rule, Decision::User)
        } else {
            pass(packet, Decision::LocalSocket)
        };
    }
    if state == RuleState::Draining {
        return refuse(packet, DropReason::Draining);
    }
    admit(skb, packet, listening, rule)
}

/// Who listens for a packet.
#[inline(always)]
fn find(packet: &mut Packet, interface: u32) -> Option<Listening> {
    let (protocol, port) = (packet.protocol, packet.key.ports().destination());
    if packet.key.is_v6() {
        return listening::find(protocol, &packet.destination_v6, port, interface);
    }
    listening::find(protocol, &packet.key.destination().to_wire(), port, interface)
}

/// Leaves a packet to the stack, where the user plane carries it or nobody does.
#[inline(always)]
fn leave(packet: &Packet, rule: &RuleEntry, why: Decision) -> Action {
    trace::decide(packet.rule, why);
    let is_users =
        if packet.key.is_v6() { <[u32; 4]>::is_left_to_user(rule) } else { u32::is_left_to_user(rule) };
    if is_users { Action::Leave } else { Action::Pass }
}

/// Leaves a packet to the stack that is not the rule's, though it listens there.
#[inline(always)]
fn pass(packet: &Packet, why: Decision) -> Action {
    trace::decide(packet.rule, why);
    Action::Pass
}

#[inline(always)]
fn admit(skb: Skb, packet: &mut Packet, listening: &Listening, rule: &RuleEntry) -> Action {
    if !has_valid_source(packet) {
        return refuse(packet, DropReason::BadSource);
    }
    if packet.key.is_v6() {
        let Some(own) = maps::own_address_v6(&packet.destination_v6) else { return Action::Pass };
        packet.own_number = own.number;
    }
    if let Some(reason) = limit::refusal(packet, rule) {
        return refuse(packet, reason);
    }
    if is_full(packet) {
        return refuse(packet, DropReason::TableFull);
    }
    if !choose::run(packet, rule) {
        return turn_away(packet, rule);
    }
    // an endpoint that is another rule's by now was this one's until a moment ago
    let chosen = maps::endpoint(packet.endpoint);
    let Some(endpoint) = chosen.filter(|endpoint| endpoint.rule == packet.rule) else {
        return refuse(packet, DropReason::NoBackend);
    };
    let interface = skb.interface();
    let Some(next_hop) = route::usable(endpoint.hop_index) else {
        return refuse(packet, DropReason::NoRoute);
    };
    let Some(to_client) = route::towards(interface, &packet.sender) else {
        return refuse(packet, DropReason::NoRoute);
    };
    packet.leave_by(next_hop.mtu, endpoint.is_v6());
    if answer::is_due(skb, packet) {
        return Action::Answer;
    }
    let wanted = Wanted {
        owner: Owner { rule: packet.rule, generation: rule.generation, endpoint: packet.endpoint },
        source: endpoint.source(),
        endpoint: endpoint.address(),
        endpoint_port: endpoint.port_for(packet.key.ports().destination(), listening.first),
        to_v6: endpoint.is_v6(),
        to_backend: Hop { index: endpoint.hop_index, generation: next_hop.generation },
        to_client,
    };
    if !claim::take(packet, &wanted, interface) {
        return refuse(packet, DropReason::PortsExhausted);
    }
    count::flow(packet);
    observe::flow(packet, Sight::Opened);
    Action::Forward
}

/// A first packet that no backend takes. The stack's reset tells a TCP client at once.
#[inline(always)]
fn turn_away(packet: &Packet, rule: &RuleEntry) -> Action {
    let refused = refuse(packet, DropReason::NoBackend);
    if packet.protocol == Protocol::Tcp { leave(packet, rule, Decision::NoBackend) } else { refused }
}

/// Whether somebody else may send from the packet's source.
#[inline(always)]
fn has_valid_source(packet: &Packet) -> bool {
    if packet.key.is_v6() {
        return is_global_unicast(&packet.sender) && maps::own_address_v6(&packet.sender).is_none();
    }
    let source = packet.key.source();
    source.is_valid_source() && maps::own_address(source.to_wire()).is_none()
}

/// Whether the established table was full within the last tick: then a handshake would only end in silence.
#[inline(always)]
fn is_full(packet: &Packet) -> bool {
    maps::pressure(packet.protocol)
        .is_some_and(|pressure| pressure.full_at != 0 && packet.now.wrapping_sub(pressure.full_at) <= 1)
}
