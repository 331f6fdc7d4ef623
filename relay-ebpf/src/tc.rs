//! The tc hook: rewriting a socket buffer in place, checksums by the kernel's helpers, segmentation offload kept.

use relay_common::counters::DropReason;
use relay_common::net::Protocol;

use crate::established::{self, Detour, Hit};
use crate::packet;
use crate::rewrite;
use crate::skb::Skb;
use crate::{Outcome, count, slow, trace};

/// One packet at tc ingress.
#[inline(always)]
pub(crate) fn run<const L2: usize>(skb: Skb) -> Outcome {
    // On a parent interface tagged frames show up once more, on the VLAN's own interface: theirs is the second time.
    if !skb.is_for_this_host() || skb.protocol() != packet::IPV4 || skb.is_vlan_tagged() {
        return Outcome::Miss;
    }
    match established::find::<Skb, L2>(&skb) {
        Ok(hit) => forward::<L2>(skb, hit),
        Err(Detour::Slow) => slow::run(skb, L2 as u32),
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
    rewrite::headers(headers, flow);
    let transport = L2 as u32 + 20;
    let fixed = match protocol {
        Protocol::Tcp => skb.fix_tcp_checksum(transport, flow.address_delta(), flow.port_delta()),
        Protocol::Udp => skb.fix_udp_checksum(transport, flow.address_delta(), flow.port_delta()),
    };
    if fixed.is_err() {
        return count::refuse(rule, DropReason::Unwritable);
    }
    trace::packet(skb, rule, "established");
    skb.send::<L2>(next_hop, destination, rule)
}
