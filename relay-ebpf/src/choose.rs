//! Which of a rule's backends gets a new flow.

use relay_common::balance::{Method, place_of};
use relay_common::choice::{Choice, LOOKED_AT, Place};
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
        Method::Least => return least(packet, choice).is_some(),
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

/// The one with the fewest flows for its weight, this one counted in: of idle ones the heaviest. Each flow begins to look one place further on, so equal ones take turns.
///
/// Without branches: the verifier would follow each of them by itself, from place to place.
#[inline(always)]
fn least(packet: &mut Packet, choice: Choice) -> Option<()> {
    let (first, count) = (choice.first(), choice.count());
    let begin = turn(packet, count);
    let (mut best, mut fewest) = look(first + begin)?;
    for step in 1..LOOKED_AT {
        if step >= count {
            break;
        }
        let at = (begin + step).checked_rem(count)?;
        let (next, flows) = look(first + at)?;
        // fewer for its weight, without a division
        let is_fewer = below_zero(flows * i64::from(best.weight()) - fewest * i64::from(next.weight()));
        best = Place::from_word(best.to_word() ^ ((best.to_word() ^ next.to_word()) & is_fewer as u32));
        fewest ^= (fewest ^ flows) & is_fewer;
    }
    packet.endpoint = best.endpoint();
    Some(())
}

/// All bits where a number is below zero, none otherwise.
#[inline(always)]
const fn below_zero(number: i64) -> i64 {
    number >> 63
}

/// A place, and the flows that its endpoint would have with one more: below one for a moment where a flow's end overtakes
/// its beginning.
#[inline(always)]
fn look(place: u32) -> Option<(Place, i64)> {
    let place = maps::place(place)?;
    Some((place, maps::endpoint_usage(place.endpoint())?.active().get() + 1))
}
