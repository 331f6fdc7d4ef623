//! Which of a rule's backends gets a new flow.

use relay_common::balance::{FEW, Load, Method, place_at, place_beside, place_of};
use relay_common::choice::{Choice, Place};
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
        Method::Turns => place_at(turn(packet), count),
        Method::Hash => place_of(&packet.sender, count),
        Method::Least => return least(packet, choice).is_some(),
    };
    let Some(place) = maps::place(first + place) else { return false };
    packet.endpoint = place.endpoint();
    true
}

/// The number of a flow that takes turns.
#[inline(always)]
fn turn(packet: &Packet) -> u64 {
    maps::usage(packet.rule).map_or(0, |usage| usage.turn(packet.protocol))
}

/// Who has the fewest flows for its weight: of few places all are looked at, of more than that two.
#[inline(always)]
fn least(packet: &mut Packet, choice: Choice) -> Option<()> {
    let (first, count) = (choice.first(), choice.count());
    let turn = turn(packet);
    let begin = place_at(turn, count);
    let mut best = look(first + begin, count)?;
    if count > FEW {
        best = lighter(best, look(first + place_beside(turn, count), count)?);
    } else {
        for step in 1..FEW {
            if step >= count {
                break;
            }
            let at = (begin + step).checked_rem(count)?;
            best = lighter(best, look(first + at, count)?);
        }
    }
    packet.endpoint = best.0.endpoint();
    Some(())
}

type Look = (Place, Load);

/// The first one, unless the other has fewer.
#[inline(always)]
fn lighter(one: Look, other: Look) -> Look {
    if other.1.against(one.1) < 0 { other } else { one }
}

#[inline(always)]
fn look(place: u32, count: u32) -> Option<Look> {
    let place = maps::place(place)?;
    let flows = maps::endpoint_usage(place.endpoint())?.active().get();
    Some((place, Load::new(flows, place.weight(), count)))
}
