//! ICMP errors put together in scratch space, of either family (RFC 792, RFC 4443). Whoever makes one fills in who it is from
//! and for, and what it quotes; the rest is done here.

use core::mem::offset_of;

use relay_common::checksum::{fold_wide, pair_v6};
use relay_common::net::Protocol;

use crate::packet::{self, ETHERNET, Fragment, Ipv4, Ipv6};
use crate::skb::{Failed, Skb};
use crate::slow::Packet;

const TTL: u8 = 64;

/// Bytes of transport header that are quoted. Of TCP 20 instead of the 8 that must be, so that a checksum which the
/// kernel has only begun stays inside the packet.
const QUOTED_TCP: u32 = 20;
const QUOTED_UDP: u32 = 8;

/// The head of an ICMP error of either family.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Icmp {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) checksum: u16,
    /// Of IPv4's "fragmentation needed" the MTU is the second half, of IPv6's "packet too big" all of it.
    pub(crate) rest: u32,
}

impl Icmp {
    /// `rest`: as a number.
    #[inline(always)]
    pub(crate) const fn new(kind: u8, code: u8, rest: u32) -> Self {
        Self { kind, code, checksum: 0, rest: rest.to_be() }
    }

    #[inline(always)]
    fn sum(&self) -> u64 {
        u64::from(u16::from_ne_bytes([self.kind, self.code])) + u64::from(self.rest)
    }
}

/// A quoted transport header; of UDP the last 12 bytes are left out.
pub(crate) type Quoted = [u32; 5];

#[repr(C, packed)]
pub(crate) struct Error {
    ethernet: [u8; ETHERNET],
    ip: Ipv4,
    icmp: Icmp,
    pub(crate) quoted_ip: Ipv4,
    pub(crate) quoted: Quoted,
}

#[repr(C, packed)]
pub(crate) struct ErrorV6 {
    ethernet: [u8; ETHERNET],
    ip: Ipv6,
    icmp: Icmp,
    pub(crate) quoted_ip: Ipv6,
    pub(crate) quoted: Quoted,
}

/// The same frames without what a UDP quote leaves out.
#[repr(C, packed)]
struct Short([u8; size_of::<Error>() - 12]);
#[repr(C, packed)]
struct ShortV6([u8; size_of::<ErrorV6>() - 12]);

const _: () = assert!(offset_of!(Error, quoted) == 62 && size_of::<Short>() == 70);
const _: () = assert!(offset_of!(ErrorV6, quoted) == 102 && size_of::<ShortV6>() == 110);

/// Bytes before the quoted transport header.
pub(crate) const HEAD: u32 = offset_of!(Error, quoted) as u32;
pub(crate) const HEAD_V6: u32 = offset_of!(ErrorV6, quoted) as u32;

/// Bytes that are quoted of a transport header.
#[inline(always)]
pub(crate) const fn kept(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => QUOTED_TCP,
        Protocol::Udp => QUOTED_UDP,
    }
}

/// What a quoted transport header adds up to. A checksum that is still to be filled in holds only what it was begun with:
/// the device will sum the header with that value in it and put the complement in its place, after which the header sums
/// to the complement of the value.
#[inline(always)]
fn sum_quote(quoted: *const Quoted, protocol: Protocol, checksum_pending: bool) -> u64 {
    let words: *const u32 = quoted.cast();
    if checksum_pending {
        let (word, shift) = match protocol {
            Protocol::Tcp => (4, 0),
            Protocol::Udp => (1, 16),
        };
        // SAFETY: of the five words the last and the second hold the checksums of TCP and UDP.
        let begun = unsafe { words.wrapping_add(word).read_unaligned() };
        let begun = (begun >> shift) as u16;
        return u64::from(!begun);
    }
    sum_words::<5>(words)
}

/// The sum of what lies in scratch space, without a copy on the stack.
#[inline(always)]
fn sum_words<const N: usize>(words: *const u32) -> u64 {
    let mut sum = 0;
    let mut at = 0;
    while at < N {
        // SAFETY: callers point to `N` words of an error; BPF targets allow unaligned loads.
        sum += u64::from(unsafe { words.wrapping_add(at).read_unaligned() });
        at += 1;
    }
    sum
}

impl Error {
    /// Takes the quote from a packet.
    #[inline(always)]
    pub(crate) fn quote(&mut self, skb: Skb, packet: &Packet) -> Result<(), Failed> {
        skb.load_to(packet.l2, &raw mut self.quoted_ip)?;
        load_quoted(skb, packet, &raw mut self.quoted)
    }

    /// Writes the frame: from and to these addresses (as they lie in a packet), about what `quoted_ip` and `quoted` hold.
    #[inline(always)]
    pub(crate) fn write(
        &mut self,
        skb: Skb,
        (source, destination): (u32, u32),
        icmp: Icmp,
        protocol: Protocol,
        checksum_pending: bool,
    ) -> Result<(), Failed> {
        self.ethernet = ethernet(packet::IPV4);
        let length = (2 * size_of::<Ipv4>() + size_of::<Icmp>()) as u16 + kept(protocol) as u16;
        let mut ip = Ipv4 {
            version_length: packet::PLAIN,
            service: 0,
            length: length.to_be(),
            identification: 0,
            fragment: packet::DONT_FRAGMENT,
            ttl: TTL,
            protocol: packet::ICMP,
            checksum: 0,
            source,
            destination,
        };
        ip.checksum = !fold_wide(sum_ip(&ip));
        self.ip = ip;
        let quoted = sum_quote(&raw const self.quoted, protocol, checksum_pending);
        let sum = icmp.sum() + sum_words::<5>((&raw const self.quoted_ip).cast()) + quoted;
        self.icmp = Icmp { checksum: !fold_wide(sum), ..icmp };
        match protocol {
            Protocol::Tcp => skb.store(0, self),
            // SAFETY: a prefix of the error, which is packed and fully initialised.
            Protocol::Udp => skb.store(0, unsafe { &*core::ptr::from_ref(self).cast::<Short>() }),
        }
    }
}

/// The transport header of a packet, as far as it is quoted.
#[inline(always)]
fn load_quoted(skb: Skb, packet: &Packet, to: *mut Quoted) -> Result<(), Failed> {
    match packet.protocol {
        Protocol::Tcp => skb.load_to(packet.transport, to),
        Protocol::Udp => {
            // SAFETY: `to` is scratch space.
            unsafe { to.write_unaligned([0; 5]) };
            skb.load_to(packet.transport, to.cast::<[u32; 2]>())
        }
    }
}

impl ErrorV6 {
    /// Takes the quote from a packet.
    #[inline(always)]
    pub(crate) fn quote(&mut self, skb: Skb, packet: &Packet) -> Result<(), Failed> {
        skb.load_to(packet.l2, &raw mut self.quoted_ip)?;
        if packet.piece.is_marked {
            // quoted without the fragment header
            self.quoted_ip.next = packet.protocol.number();
            let length = packet.length - size_of::<Ipv6>() as u32 - Fragment::BYTES;
            self.quoted_ip.length = (length as u16).to_be();
        }
        load_quoted(skb, packet, &raw mut self.quoted)
    }

    /// The same for IPv6.
    #[inline(always)]
    pub(crate) fn write(
        &mut self,
        skb: Skb,
        (source, destination): (&[u32; 4], &[u32; 4]),
        icmp: Icmp,
        protocol: Protocol,
        checksum_pending: bool,
    ) -> Result<(), Failed> {
        self.ethernet = ethernet(packet::IPV6);
        let length = (size_of::<Ipv6>() + size_of::<Icmp>()) as u32 + kept(protocol);
        self.ip = Ipv6 {
            version_class_flow: packet::IPV6_PLAIN,
            length: (length as u16).to_be(),
            next: packet::ICMPV6,
            hops: TTL,
            source: *source,
            destination: *destination,
        };
        // unlike IPv4's it covers a pseudo-header (RFC 4443 section 2.3)
        let pseudo = pair_v6(source, destination)
            + u64::from(length.to_be())
            + u64::from(u32::from(packet::ICMPV6).to_be());
        let quoted = sum_quote(&raw const self.quoted, protocol, checksum_pending);
        let sum = pseudo + icmp.sum() + sum_words::<10>((&raw const self.quoted_ip).cast()) + quoted;
        self.icmp = Icmp { checksum: !fold_wide(sum), ..icmp };
        match protocol {
            Protocol::Tcp => skb.store(0, self),
            // SAFETY: a prefix of the error, which is packed and fully initialised.
            Protocol::Udp => skb.store(0, unsafe { &*core::ptr::from_ref(self).cast::<ShortV6>() }),
        }
    }
}

/// A link header that the redirect fills in, but for this.
#[inline(always)]
const fn ethernet(kind: u16) -> [u8; ETHERNET] {
    let mut bytes = [0; ETHERNET];
    [bytes[12], bytes[13]] = kind.to_ne_bytes();
    bytes
}

#[inline(always)]
pub(crate) fn sum_ip(ip: &Ipv4) -> u64 {
    let (length, checksum) = (ip.length.to_ne_bytes(), ip.checksum.to_ne_bytes());
    let (identification, fragment) = (ip.identification.to_ne_bytes(), ip.fragment.to_ne_bytes());
    let first = u32::from_ne_bytes([ip.version_length, ip.service, length[0], length[1]]);
    let second = u32::from_ne_bytes([identification[0], identification[1], fragment[0], fragment[1]]);
    let third = u32::from_ne_bytes([ip.ttl, ip.protocol, checksum[0], checksum[1]]);
    u64::from(first) + u64::from(second) + u64::from(third) + u64::from(ip.source) + u64::from(ip.destination)
}
