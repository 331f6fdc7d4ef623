//! Which of a rule's backends gets a new flow.

use relay_common::balance::{Method, place_of};
use relay_common::choice::{Choice, LOOKED_AT};
use relay_common::net::Protocol;
use relay_common::rule::RuleEntry;

use crate::maps;
use crate::slow::Packet;

/// Puts the number of the endpoint into the packet. `false`: nobody gets it.
#[inline(never)]
pub(crate) fn run(packet: &mut Packet, rule: &RuleEntry) -> bool {
    let (tcp, udp) = (rule.tcp.load(), rule.udp.load());
    let choice = if packet.protocol == Protocol::Tcp { tcp } else { udp };
    let (first, count) = (choice.first(), choice.count());
    if count == 0 {
        return false;
    }
    let place = match choice.method() {
        Method::One => {
            packet.endpoint = first;
            return true;
        }
        Method::Turns => turn(packet, count),
        Method::Hash => place_of(&packet.sender, count),
        Method::Least => return least(packet, choice),
    };
    let Some(place) = maps::place(first + place) else { return false };
    packet.endpoint = place.endpoint();
    true
}

/// The place whose turn it is, of so many.
#[inline(always)]
fn turn(packet: &Packet, count: u32) -> u32 {
    let turn = maps::usage(packet.rule).map_or(0, |usage| usage.turn(packet.protocol));
    // there is no panicking here
    turn.checked_rem(count.into()).unwrap_or(0) as u32
}

/// The one with the fewest flows for its weight. Each flow begins to look one place further on, so equal ones take turns.
#[inline(always)]
fn least(packet: &mut Packet, choice: Choice) -> bool {
    let (first, count) = (choice.first(), choice.count());
    let begin = turn(packet, count);
    // less than nothing, so that whoever comes first is better
    let (mut fewest, mut weight) = (1, 0);
    for step in 0..LOOKED_AT {
        if step >= count {
            break;
        }
        let at = begin + step;
        let at = if at < count { at } else { at - count };
        let (endpoint, flows, own) = look(first + at);
        // fewer for its weight, without a division
        if flows * weight < fewest * own {
            packet.endpoint = endpoint;
            (fewest, weight) = (flows, own);
        }
    }
    weight != 0
}

/// The endpoint at a place, its flows and its weight.
#[inline(always)]
fn look(place: u32) -> (u32, u64, u64) {
    let Some(place) = maps::place(place) else { return (0, 0, 0) };
    let flows = maps::endpoint_usage(place.endpoint()).map_or(0, |usage| usage.active().get());
    // below zero for a moment, where a flow's end overtakes its beginning
    let flows = if flows < 0 { 0 } else { flows as u64 };
    (place.endpoint(), flows, place.weight().into())
}
