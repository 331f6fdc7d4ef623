//! What an ICMP error is called in the other family: the tables of RFC 7915, sections 4.2 and 5.2.

use relay_common::net::Protocol;

use crate::answer::mtu_v6;
use crate::error::Icmp;
use crate::packet::{icmp, icmpv6};
use crate::translate::{GROWTH, GROWTH_OF_FRAGMENTS};

/// An IPv6 error that stays one. What comes behind a longer quote than ours (RFC 4884) goes with it, and so does the word that
/// says where.
#[inline(always)]
pub(super) const fn without_extensions(from: &Icmp) -> Icmp {
    let rest = match from.kind {
        icmpv6::UNREACHABLE | icmpv6::TIME_EXCEEDED => 0,
        _ => from.rest,
    };
    Icmp { checksum: 0, rest, ..*from }
}

/// The IPv6 error that says what an IPv4 one does; `None`: there is none. `quoted`: how long the packet was that it is about.
#[inline(always)]
pub(super) fn to_icmpv6(from: &Icmp, quoted: u32) -> Option<Icmp> {
    let rest = u32::from_be(from.rest);
    Some(match (from.kind, from.code) {
        (icmp::UNREACHABLE, icmp::PROTOCOL_UNREACHABLE) => {
            Icmp::new(icmpv6::PARAMETER_PROBLEM, icmpv6::UNKNOWN_NEXT_HEADER, NEXT_HEADER)
        }
        (icmp::UNREACHABLE, icmp::PORT_UNREACHABLE) => {
            Icmp::new(icmpv6::UNREACHABLE, icmpv6::PORT_UNREACHABLE, 0)
        }
        (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED) => {
            let mtu = match rest & 0xffff {
                0 => plateau(quoted),
                mtu => mtu + GROWTH,
            };
            Icmp::new(icmpv6::TOO_BIG, 0, mtu_v6(mtu))
        }
        (
            icmp::UNREACHABLE,
            icmp::NET_PROHIBITED | icmp::HOST_PROHIBITED | icmp::FILTERED | icmp::PRECEDENCE_CUTOFF,
        ) => Icmp::new(icmpv6::UNREACHABLE, icmpv6::PROHIBITED, 0),
        (
            icmp::UNREACHABLE,
            icmp::NET_UNREACHABLE
            | icmp::HOST_UNREACHABLE
            | icmp::SOURCE_ROUTE_FAILED..=icmp::SOURCE_ISOLATED
            | icmp::NET_UNREACHABLE_FOR_SERVICE
            | icmp::HOST_UNREACHABLE_FOR_SERVICE,
        ) => Icmp::new(icmpv6::UNREACHABLE, icmpv6::NO_ROUTE, 0),
        (icmp::TIME_EXCEEDED, code) => Icmp::new(icmpv6::TIME_EXCEEDED, code, 0),
        (icmp::PARAMETER_PROBLEM, icmp::BAD_FIELD | icmp::BAD_LENGTH) => {
            Icmp::new(icmpv6::PARAMETER_PROBLEM, icmpv6::BAD_FIELD, pointer_v6(rest >> 24)?)
        }
        _ => return None,
    })
}

/// The IPv4 error that says what an IPv6 one does.
#[inline(always)]
pub(super) fn to_icmp(from: &Icmp, protocol: Protocol) -> Option<Icmp> {
    let unreachable = |code| Icmp::new(icmp::UNREACHABLE, code, 0);
    Some(match (from.kind, from.code) {
        (icmpv6::UNREACHABLE, icmpv6::PROHIBITED) => unreachable(icmp::HOST_PROHIBITED),
        (icmpv6::UNREACHABLE, icmpv6::PORT_UNREACHABLE) => unreachable(icmp::PORT_UNREACHABLE),
        (icmpv6::UNREACHABLE, icmpv6::NO_ROUTE | icmpv6::BEYOND_SCOPE | icmpv6::ADDRESS_UNREACHABLE) => {
            unreachable(icmp::HOST_UNREACHABLE)
        }
        (icmpv6::TOO_BIG, _) => {
            let growth = match protocol {
                Protocol::Tcp => GROWTH,
                Protocol::Udp => GROWTH_OF_FRAGMENTS,
            };
            let mtu = mtu_v6(u32::from_be(from.rest)) - growth;
            Icmp::new(icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, mtu & 0xffff)
        }
        (icmpv6::TIME_EXCEEDED, code) => Icmp::new(icmp::TIME_EXCEEDED, code, 0),
        (icmpv6::PARAMETER_PROBLEM, icmpv6::BAD_FIELD) => {
            let pointer = pointer_v4(u32::from_be(from.rest))?;
            Icmp::new(icmp::PARAMETER_PROBLEM, icmp::BAD_FIELD, pointer << 24)
        }
        (icmpv6::PARAMETER_PROBLEM, icmpv6::UNKNOWN_NEXT_HEADER) => unreachable(icmp::PROTOCOL_UNREACHABLE),
        _ => return None,
    })
}

/// Where an IPv6 header says what comes next, and how far it may go.
const NEXT_HEADER: u32 = 6;
const HOPS: u32 = 7;

/// What a packet of so many bytes was likely too large for, where a router does not say (RFC 1191 section 7.1): of the usual
/// sizes the largest below.
#[inline(always)]
const fn plateau(bytes: u32) -> u32 {
    match bytes {
        32_001.. => 32_000,
        17_915.. => 17_914,
        8_167.. => 8_166,
        4_353.. => 4_352,
        2_003.. => 2_002,
        1_493.. => 1_492,
        _ => 0,
    }
}

/// Where the field of an IPv4 header lies in an IPv6 one, if there is such a one (figure 3).
#[inline(always)]
const fn pointer_v6(pointer: u32) -> Option<u32> {
    Some(match pointer {
        // version, type of service
        0 | 1 => pointer,
        // length
        2 | 3 => 4,
        8 => HOPS,
        9 => NEXT_HEADER,
        12..=15 => 8,
        16..=19 => 24,
        _ => return None,
    })
}

/// The other way round (figure 6).
#[inline(always)]
const fn pointer_v4(pointer: u32) -> Option<u32> {
    Some(match pointer {
        0 | 1 => pointer,
        4 | 5 => 2,
        NEXT_HEADER => 9,
        HOPS => 8,
        8..=23 => 12,
        24..=39 => 16,
        _ => return None,
    })
}
