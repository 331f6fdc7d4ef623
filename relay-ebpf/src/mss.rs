//! MSS clamping: no end may ask for segments that the smaller of the two legs cannot take (RFC 9293 section 3.7.1).

use relay_common::checksum::Delta;
use relay_common::flow::{FlowEntry, FlowFlags};
use relay_common::route::NextHop;

use crate::skb::Skb;
use crate::slow::Packet;
use crate::{half, route};

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Options looked at before the one we want; it is the first one in practice.
const OPTIONS: u32 = 10;
/// IP and TCP header without options, of either family.
const HEADERS: u32 = 40;
const HEADERS_V6: u32 = 60;

/// Lowers the MSS option of a SYN where a leg needs it.
#[inline(never)]
pub(crate) fn clamp(skb: Skb, packet: &Packet, flow: &FlowEntry, next_hop: &NextHop) {
    let other = half::find_opposite(flow, packet.protocol)
        .and_then(|other| route::usable(other.hop().index))
        .map_or(next_hop.mtu, |hop| hop.mtu);
    let there = segment(next_hop.mtu, flow.flags().has(FlowFlags::TO_V6));
    let back = segment(other, packet.key.is_v6());
    let limit = if back < there { back } else { there };
    if limit == 0 {
        return;
    }
    let end = packet.l2 + packet.header_length;
    let mut at = packet.transport + 20;
    for _ in 0..OPTIONS {
        if at + 4 > end {
            return;
        }
        let Ok([kind, length, high, low]) = skb.load::<[u8; 4]>(at) else { return };
        match kind {
            END => return,
            NO_OPERATION => at += 1,
            MAXIMUM_SEGMENT_SIZE => {
                if length == 4 && u32::from(u16::from_be_bytes([high, low])) > limit {
                    write(skb, packet, at + 2, [high, low], limit as u16);
                }
                return;
            }
            _ if length < 2 => return,
            _ => at += u32::from(length),
        }
    }
}

/// What a leg takes of a stream in one packet.
#[inline(always)]
const fn segment(mtu: u32, is_v6: bool) -> u32 {
    mtu.saturating_sub(if is_v6 { HEADERS_V6 } else { HEADERS })
}

/// Writes the value and takes it into the checksum, whose 16-bit words it may straddle.
#[inline(always)]
fn write(skb: Skb, packet: &Packet, at: u32, old: [u8; 2], limit: u16) {
    let new = limit.to_be_bytes();
    let delta = if (at - packet.transport) & 1 == 0 {
        Delta::word(u16::from_ne_bytes(old), u16::from_ne_bytes(new))
    } else {
        Delta::word(u16::from_ne_bytes([old[1], old[0]]), u16::from_ne_bytes([new[1], new[0]]))
    };
    if skb.store(at, &new).is_ok() {
        let _kept = skb.fix_checksum(packet.transport + 16, delta, 0);
    }
}
