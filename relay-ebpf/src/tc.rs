//! The tc hook: rewriting a socket buffer in place, checksums by the kernel's helpers, segmentation offload kept.

use relay_common::checksum::fold_wide;
use relay_common::counters::DropReason;
use relay_common::flow::FlowEntry;
use relay_common::net::Protocol;

use crate::established::{self, Detour, Frame as _, Hit};
use crate::packet::{self, Ipv4Tcp, Ipv4Udp};
use crate::rewrite;
use crate::skb::{Failed, Skb};
use crate::{Outcome, count, slow, trace, user};

/// One packet at tc ingress.
#[inline(always)]
pub(crate) fn run<const L2: usize>(skb: Skb) -> Outcome {
    // On a parent interface tagged frames show up once more, on the VLAN's own interface: theirs is the second time.
    if !skb.is_for_this_host() || skb.is_vlan_tagged() {
        return Outcome::Miss;
    }
    match skb.protocol() {
        packet::IPV4 => {}
        packet::IPV6 => {
            user::incoming_v6(skb, L2 as u32);
            return Outcome::Miss;
        }
        _ => return Outcome::Miss,
    }
    match established::find::<Skb, L2>(&skb) {
        Ok(hit) => {
            trace::hot_path(skb, L2 as u32, hit.flow.rule());
            forward::<L2>(skb, hit)
        }
        Err(Detour::Slow) => slow::run(skb, L2 as u32, false),
        Err(Detour::Unknown) => slow::run(skb, L2 as u32, true),
        Err(Detour::Foreign) => Outcome::Miss,
    }
}

/// Rewrites a packet of a live flow and sends it on its way.
#[inline(always)]
fn forward<const L2: usize>(skb: Skb, hit: Hit) -> Outcome {
    let Hit { flow, next_hop, headers, protocol, length, header_length, segment_size } = hit;
    let rule = flow.rule();
    flow.bytes += count::traffic(flow, length, header_length, segment_size, skb.segments());
    let destination = flow.translation().destination;
    let direct = segment_size == 0 && fix_checksum_in_place::<L2>(skb, headers, protocol, flow);
    rewrite::headers(headers, flow);
    let checked = direct || fix_checksum(skb, L2 as u32 + 20, protocol, flow).is_ok();
    if !checked || (L2 == 0 && skb.push_ethernet().is_err()) {
        let outcome = count::refuse(rule, DropReason::Unwritable);
        trace::end();
        return outcome;
    }
    skb.redirect(next_hop, destination)
}

/// The transport checksum by the kernel's helpers, which know how far it has been computed.
#[inline(always)]
fn fix_checksum(skb: Skb, transport: u32, protocol: Protocol, flow: &FlowEntry) -> Result<(), Failed> {
    match protocol {
        Protocol::Tcp => skb.fix_tcp_checksum(transport, flow.address_delta(), flow.port_delta()),
        Protocol::Udp => skb.fix_udp_checksum(transport, flow.address_delta(), flow.port_delta()),
    }
}

/// The transport checksum by a plain store, which is several times cheaper than two helper calls. Only for a checksum
/// that is complete: one that the sender's offload has yet to complete holds the sum of the pseudo-header and nothing
/// else, so any other value is proof. (One in 65,536 complete ones has that value too, and goes the long way.)
///
/// Before the headers are rewritten.
#[inline(always)]
fn fix_checksum_in_place<const L2: usize>(
    skb: Skb,
    headers: &mut Ipv4Udp,
    protocol: Protocol,
    flow: &FlowEntry,
) -> bool {
    let ip = &headers.ip;
    let length = u16::from_be(ip.length).wrapping_sub(20).to_be();
    let begun = fold_wide(
        u64::from(ip.source)
            + u64::from(ip.destination)
            + u64::from(u16::from(ip.protocol).to_be())
            + u64::from(length),
    );
    let change = flow.address_delta().and(flow.port_delta());
    match protocol {
        Protocol::Tcp => {
            let Some(tcp) = skb.bytes().at::<Ipv4Tcp>(L2) else { return false };
            if tcp.checksum == begun {
                return false;
            }
            tcp.checksum = change.apply(tcp.checksum);
        }
        Protocol::Udp => {
            if headers.checksum == begun {
                return false;
            }
            headers.checksum = change.apply_udp(headers.checksum);
        }
    }
    skb.note_checksum_change(flow.address_delta());
    true
}
