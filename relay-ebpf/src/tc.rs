//! The tc hook: rewriting a socket buffer in place, checksums by the kernel's helpers, segmentation offload kept.

use relay_common::checksum::fold_wide;
use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags};
use relay_common::net::Protocol;
use relay_common::route::NextHop;

use crate::established::{self, Detour, Frame as _, Hit};
use crate::ipv6::HEADER;
use crate::note::Where;
use crate::packet::{self, Ipv4, Ipv4Tcp, Ipv4Udp};
use crate::rewrite;
use crate::skb::{Failed, Skb};
use crate::translate::{self, GROWTH, Head, Piece, Segment};
use crate::{Outcome, count, established_v6, observe, slow, trace};

/// One packet at tc ingress.
#[inline(always)]
pub(crate) fn run<const L2: usize>(skb: Skb) -> Outcome {
    // On a parent interface tagged frames show up once more, on the VLAN's own interface: theirs is the second time.
    if !skb.is_for_this_host() || skb.is_vlan_tagged() {
        return Outcome::Miss;
    }
    let detour = match skb.protocol() {
        packet::IPV4 => match established::find::<Skb, L2>(&skb) {
            Ok(hit) => {
                trace::hot_path(skb, L2 as u32, hit.flow.rule());
                return told::<L2>(skb, forward::<L2>(skb, hit));
            }
            Err(detour) => detour,
        },
        packet::IPV6 => match run_v6::<L2>(skb) {
            Ok(outcome) => return told::<L2>(skb, outcome),
            Err(detour) => detour,
        },
        _ => Detour::Foreign,
    };
    match detour {
        Detour::Slow => slow::run(skb, L2 as u32, false),
        Detour::Unknown => slow::run(skb, L2 as u32, true),
        Detour::Foreign => Outcome::Miss,
    }
}

/// What became of a packet on the hot path.
#[inline(always)]
fn told<const L2: usize>(skb: Skb, outcome: Outcome) -> Outcome {
    if outcome == Outcome::Dropped {
        observe::refused(skb, L2 as u32);
    }
    outcome
}

/// The hot path of IPv6: translates a packet of a live flow and sends it on its way. A function of its own: its share of the
/// stack must be free again for the slow path.
#[inline(never)]
fn run_v6<const L2: usize>(skb: Skb) -> Result<Outcome, Detour> {
    let established_v6::Hit { flow, next_hop, head, length, header_length, segment_size } =
        established_v6::find::<L2>(skb)?;
    trace::hot_path(skb, L2 as u32, flow.rule());
    let lengths = translate::on_client_leg(flow, true, GROWTH, (length, header_length));
    let Some(bytes) =
        count::traffic(skb, L2 as u32, flow, Where::at(L2 as u32 + HEADER), lengths, segment_size)
    else {
        trace::end();
        return Ok(Outcome::Dropped);
    };
    flow.bytes += bytes;
    Ok(translate::forward(skb, L2 as u32, true, head, flow, next_hop))
}

/// Rewrites a packet of a live flow and sends it on its way.
#[inline(always)]
fn forward<const L2: usize>(skb: Skb, hit: Hit) -> Outcome {
    let Hit { flow, next_hop, headers, protocol, length, header_length, segment_size } = hit;
    let rule = flow.rule();
    if flow.flags().has(FlowFlags::TO_V6) {
        return forward_as_v6::<L2>(skb, flow, next_hop, &headers.ip, (length, header_length).into());
    }
    let Some(bytes) = count::traffic(
        skb,
        L2 as u32,
        flow,
        Where::at(L2 as u32 + translate::IPV4_HEADER),
        (length, header_length),
        segment_size,
    ) else {
        trace::end();
        return Outcome::Dropped;
    };
    flow.bytes += bytes;
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

/// The same where the packet leaves as IPv6. By itself, for its share of the stack.
#[inline(never)]
fn forward_as_v6<const L2: usize>(
    skb: Skb,
    flow: &mut FlowEntry,
    next_hop: &NextHop,
    ip: &Ipv4,
    lengths: Lengths,
) -> Outcome {
    let (length, header_length) = lengths.into();
    let on_leg = translate::on_client_leg(flow, false, GROWTH, (length, header_length));
    let Some(bytes) = count::traffic(
        skb,
        L2 as u32,
        flow,
        Where::at(L2 as u32 + translate::IPV4_HEADER),
        on_leg,
        skb.segment_size(),
    ) else {
        trace::end();
        return Outcome::Dropped;
    };
    flow.bytes += bytes;
    let head = Head {
        protocol: ip.protocol,
        service: ip.service,
        ttl: ip.ttl - 1,
        payload: length - translate::IPV4_HEADER,
        piece: Piece::WHOLE,
        segment: Segment::UNASKED,
    };
    translate::forward(skb, L2 as u32, false, head, flow, next_hop)
}

/// IP bytes, and those of the headers, in one register: a function of BPF takes five.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Lengths(u64);

impl From<(u32, u32)> for Lengths {
    #[inline(always)]
    fn from((all, headers): (u32, u32)) -> Self {
        Self(u64::from(all) << 32 | u64::from(headers))
    }
}

impl From<Lengths> for (u32, u32) {
    #[inline(always)]
    fn from(lengths: Lengths) -> Self {
        ((lengths.0 >> 32) as u32, lengths.0 as u32)
    }
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
