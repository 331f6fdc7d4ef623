//! ICMP errors made here, in the program: time exceeded and fragmentation needed (RFC 792, RFC 1191).
//!
//! The offending packet is turned around in place: cut to what the error quotes, headers put in front, sent back to
//! where it came from. No daemon, no raw socket, and nothing of ours reaches the host's own stack.

use core::mem::offset_of;

use relay_common::checksum::fold_wide;
use relay_common::counters::DropReason;
use relay_common::net::Protocol;
use relay_common::trace::Decision;

use crate::established::Frame as _;
use crate::packet::{self, ETHERNET, Ipv4};
use crate::skb::{Failed, Skb};
use crate::slow::Packet;
use crate::{Outcome, count, maps, route, trace};

const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const TIME_EXCEEDED: u8 = 11;
const TTL: u8 = 64;

/// Whether a packet cannot go on and its sender is owed a word about it.
#[inline(always)]
pub(crate) fn is_due(skb: Skb, packet: &Packet) -> bool {
    packet.ttl <= 1 || packet.on_wire(skb) > packet.mtu
}

/// Bytes of transport header that are quoted. Of TCP 20 instead of the 8 that must be, so that a checksum which the
/// kernel has only begun stays inside the packet.
const QUOTED_TCP: u32 = 20;
const QUOTED_UDP: u32 = 8;

/// The error as it leaves, put together in scratch space; of a UDP quote the last 12 bytes are left out.
#[repr(C, packed)]
pub(crate) struct Error {
    ethernet: [u8; ETHERNET],
    ip: Ipv4,
    icmp: Icmp,
    quoted_ip: Ipv4,
    quoted: [u32; 5],
}

/// The same frame without what a UDP quote leaves out.
#[repr(C, packed)]
struct ShortError([u8; size_of::<Error>() - 12]);

#[repr(C)]
#[derive(Clone, Copy)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    unused: u16,
    mtu: u16,
}

/// Turns a packet into the error about it.
#[inline(never)]
pub(crate) fn run(skb: Skb, packet: &Packet) -> Outcome {
    let rule = packet.rule;
    let (kind, code, mtu, reason) = if packet.ttl <= 1 {
        (TIME_EXCEEDED, 0, 0, DropReason::TtlExceeded)
    } else {
        (UNREACHABLE, FRAGMENTATION_NEEDED, packet.mtu as u16, DropReason::TooBig)
    };
    // counted even though an answer goes out: the packet itself was refused
    count::refuse(rule, reason);
    if !within_budget(packet.now) {
        return count::refuse(rule, DropReason::IcmpLimited);
    }
    let sender = packet.key.source();
    let Some(hop) = route::towards(skb.interface(), sender) else {
        return count::refuse(rule, DropReason::NoRoute);
    };
    let Some(next_hop) = route::usable(hop.index) else { return count::refuse(rule, DropReason::NoRoute) };
    // quoting header options would make every size variable, for packets that hardly exist
    if packet.transport - packet.l2 != 20 {
        return count::refuse(rule, DropReason::BadHeader);
    }
    let icmp = Icmp { kind, code, checksum: 0, unused: 0, mtu: mtu.to_be() };
    trace::decide(rule, Decision::Answered);
    if turn(skb, packet, icmp).is_err() {
        return count::refuse(rule, DropReason::Unwritable);
    }
    skb.redirect(next_hop, sender)
}

/// Each CPU may make so many errors a tick.
#[inline(always)]
fn within_budget(now: u32) -> bool {
    let (Some(settings), Some(budget)) = (maps::settings(), maps::icmp_budget()) else { return false };
    if budget.tick != now {
        budget.tick = now;
        budget.spent = 0;
    }
    budget.spent += 1;
    budget.spent <= settings.icmp_per_tick
}

/// Cuts the packet down to the quote and puts the error's headers in front.
#[inline(never)]
fn turn(skb: Skb, packet: &Packet, icmp: Icmp) -> Result<(), Failed> {
    let scratch = maps::scratch().ok_or(Failed)?;
    let error = &mut scratch.error;
    error.quoted_ip = skb.load(packet.l2)?;
    let (quoted, short) = match packet.protocol {
        Protocol::Tcp => (skb.load::<[u32; 5]>(packet.transport)?, false),
        Protocol::Udp => {
            let [ports, rest] = skb.load::<[u32; 2]>(packet.transport)?;
            ([ports, rest, 0, 0, 0], true)
        }
    };
    error.quoted = quoted;
    let kept = if short { QUOTED_UDP } else { QUOTED_TCP };
    let checksum_pending = skb.resize(packet.transport).is_err();
    skb.resize(packet.transport + kept)?;
    skb.grow_head((ETHERNET + size_of::<Ipv4>() + size_of::<Icmp>()) as u32 - packet.l2)?;
    write_headers(error, icmp, kept);
    let begun = checksum_pending.then(|| match packet.protocol {
        Protocol::Tcp => quoted[4] as u16,
        Protocol::Udp => (quoted[1] >> 16) as u16,
    });
    error.icmp.checksum =
        !fold_wide(sum_icmp(&icmp) + sum_ip(&{ error.quoted_ip }) + sum_quote(&quoted, begun));
    if short {
        // SAFETY: a prefix of the error, which is packed and fully initialised.
        let error = unsafe { &*core::ptr::from_ref(error).cast::<ShortError>() };
        return skb.store(0, error);
    }
    skb.store(0, error)
}

#[inline(always)]
fn write_headers(error: &mut Error, icmp: Icmp, kept: u32) {
    error.ethernet = [0; ETHERNET];
    [error.ethernet[12], error.ethernet[13]] = packet::IPV4.to_ne_bytes();
    let length = (2 * size_of::<Ipv4>() + size_of::<Icmp>()) as u16 + kept as u16;
    let mut ip = Ipv4 {
        version_length: packet::PLAIN,
        service: 0,
        length: length.to_be(),
        identification: 0,
        fragment: packet::DONT_FRAGMENT,
        ttl: TTL,
        protocol: packet::ICMP,
        checksum: 0,
        source: error.quoted_ip.destination,
        destination: error.quoted_ip.source,
    };
    ip.checksum = !fold_wide(sum_ip(&ip));
    error.ip = ip;
    error.icmp = icmp;
}

#[inline(always)]
fn sum_ip(ip: &Ipv4) -> u64 {
    let (length, checksum) = (ip.length.to_ne_bytes(), ip.checksum.to_ne_bytes());
    let (identification, fragment) = (ip.identification.to_ne_bytes(), ip.fragment.to_ne_bytes());
    let first = u32::from_ne_bytes([ip.version_length, ip.service, length[0], length[1]]);
    let second = u32::from_ne_bytes([identification[0], identification[1], fragment[0], fragment[1]]);
    let third = u32::from_ne_bytes([ip.ttl, ip.protocol, checksum[0], checksum[1]]);
    u64::from(first) + u64::from(second) + u64::from(third) + u64::from(ip.source) + u64::from(ip.destination)
}

#[inline(always)]
fn sum_icmp(icmp: &Icmp) -> u64 {
    u64::from(u16::from_ne_bytes([icmp.kind, icmp.code])) + u64::from(icmp.mtu)
}

/// The quoted transport header. A checksum that is still to be filled in holds only what it was begun with: the
/// device will sum the header with that value in it and put the complement in its place, after which the header sums
/// to the complement of the value.
#[inline(always)]
fn sum_quote(quoted: &[u32; 5], begun: Option<u16>) -> u64 {
    if let Some(begun) = begun {
        return u64::from(!begun);
    }
    quoted.iter().map(|&word| u64::from(word)).sum()
}

const _: () = assert!(offset_of!(Error, quoted) == 62 && size_of::<ShortError>() == 70);
