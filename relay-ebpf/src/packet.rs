//! Header views with bounds checks: the only pointer casts into packets.

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// EtherType of IPv4 as it lies in the frame.
pub(crate) const IPV4: u16 = 0x0800u16.to_be();
pub(crate) const IPV6: u16 = 0x86ddu16.to_be();

pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Version 4 and a header of 20 bytes.
pub(crate) const PLAIN: u8 = 0x45;
/// Version 6, as it lies in the first word of a header.
pub(crate) const IPV6_PLAIN: u32 = 0x6000_0000u32.to_be();
/// A TCP header of 20 bytes, the least there is, in the byte that holds its length.
pub(crate) const TCP_PLAIN: u8 = 0x50;
/// "More fragments" and the fragment offset, as they lie in the header.
pub(crate) const FRAGMENT: u16 = 0x3fffu16.to_be();
pub(crate) const DONT_FRAGMENT: u16 = 0x4000u16.to_be();
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000u16.to_be();
pub(crate) const FRAGMENT_OFFSET: u16 = 0x1fffu16.to_be();

/// An Ethernet header (IEEE 802.3, type form).
#[repr(C)]
pub(crate) struct Ethernet {
    pub(crate) destination: [u16; 3],
    pub(crate) source: [u16; 3],
    pub(crate) kind: u16,
}

impl Ethernet {
    /// Where in the frame the last four bytes of the destination lie.
    pub(crate) const LINK: u32 = 2;

    /// Multicast or broadcast (the first bit on the wire), which no IP packet of ours comes in as.
    #[inline(always)]
    pub(crate) const fn is_for_many(&self) -> bool {
        self.destination[0].to_ne_bytes()[0] & 1 != 0
    }

    /// The last four bytes of the destination, as they lie in the frame.
    #[inline(always)]
    pub(crate) const fn link(&self) -> u32 {
        let ([a, b], [c, d]) = (self.destination[1].to_ne_bytes(), self.destination[2].to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// An IPv4 header without options (RFC 791 section 3.1). Fields in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub(crate) version_length: u8,
    pub(crate) service: u8,
    pub(crate) length: u16,
    pub(crate) identification: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

/// An IPv6 header (RFC 8200 section 3). Fields in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv6 {
    pub(crate) version_class_flow: u32,
    /// Of what follows this header.
    pub(crate) length: u16,
    pub(crate) next: u8,
    pub(crate) hops: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

/// A fragment header, which follows an IPv6 header (RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Fragment {
    pub(crate) next: u8,
    pub(crate) _reserved: u8,
    /// In network order; the lowest bit says that more follow.
    pub(crate) offset: u16,
    pub(crate) identification: u32,
}

impl Fragment {
    pub(crate) const BYTES: u32 = size_of::<Self>() as u32;
    /// The number that announces it.
    pub(crate) const NEXT: u8 = 44;
    pub(crate) const OFFSET: u16 = 0xfff8u16.to_be();
    pub(crate) const MORE: u16 = 1u16.to_be();
    /// Of a packet that has none.
    pub(crate) const NONE: Self = Self { next: 0, _reserved: 0, offset: 0, identification: 0 };
}

/// An IP header without options and the first 8 bytes behind it: all of a UDP header, where that comes next.
#[repr(C)]
pub(crate) struct WithUdp<Ip> {
    pub(crate) ip: Ip,
    pub(crate) ports: u32,
    pub(crate) length: u16,
    pub(crate) checksum: u16,
}

/// An IP header without options and a TCP header without options (RFC 9293 section 3.1).
#[repr(C)]
pub(crate) struct WithTcp<Ip> {
    pub(crate) ip: Ip,
    pub(crate) ports: u32,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) checksum: u16,
    pub(crate) urgent: u16,
}

impl Ipv6 {
    /// Whether it says that it is one.
    #[inline(always)]
    pub(crate) const fn is_v6(&self) -> bool {
        self.version_class_flow & 0xf000_0000u32.to_be() == IPV6_PLAIN
    }

    /// The traffic class, IPv4's type of service.
    #[inline(always)]
    pub(crate) const fn class(&self) -> u8 {
        (u32::from_be(self.version_class_flow) >> 20) as u8
    }
}

pub(crate) type Ipv4Udp = WithUdp<Ipv4>;
pub(crate) type Ipv4Tcp = WithTcp<Ipv4>;
pub(crate) type Ipv6Udp = WithUdp<Ipv6>;
pub(crate) type Ipv6Tcp = WithTcp<Ipv6>;

/// Types and codes of ICMP errors (RFC 792, RFC 1191, RFC 1812 section 5.2.7).
pub(crate) mod icmp {
    pub(crate) const UNREACHABLE: u8 = 3;
    pub(crate) const NET_UNREACHABLE: u8 = 0;
    pub(crate) const HOST_UNREACHABLE: u8 = 1;
    pub(crate) const PROTOCOL_UNREACHABLE: u8 = 2;
    pub(crate) const PORT_UNREACHABLE: u8 = 3;
    pub(crate) const FRAGMENTATION_NEEDED: u8 = 4;
    pub(crate) const SOURCE_ROUTE_FAILED: u8 = 5;
    pub(crate) const SOURCE_ISOLATED: u8 = 8;
    pub(crate) const NET_PROHIBITED: u8 = 9;
    pub(crate) const HOST_PROHIBITED: u8 = 10;
    pub(crate) const NET_UNREACHABLE_FOR_SERVICE: u8 = 11;
    pub(crate) const HOST_UNREACHABLE_FOR_SERVICE: u8 = 12;
    pub(crate) const FILTERED: u8 = 13;
    pub(crate) const PRECEDENCE_CUTOFF: u8 = 15;
    pub(crate) const TIME_EXCEEDED: u8 = 11;
    pub(crate) const PARAMETER_PROBLEM: u8 = 12;
    pub(crate) const BAD_FIELD: u8 = 0;
    pub(crate) const BAD_LENGTH: u8 = 2;
}

/// Types and codes of ICMPv6 errors (RFC 4443 section 3).
pub(crate) mod icmpv6 {
    pub(crate) const UNREACHABLE: u8 = 1;
    pub(crate) const NO_ROUTE: u8 = 0;
    pub(crate) const PROHIBITED: u8 = 1;
    pub(crate) const BEYOND_SCOPE: u8 = 2;
    pub(crate) const ADDRESS_UNREACHABLE: u8 = 3;
    pub(crate) const PORT_UNREACHABLE: u8 = 4;
    pub(crate) const TOO_BIG: u8 = 2;
    pub(crate) const TIME_EXCEEDED: u8 = 3;
    pub(crate) const PARAMETER_PROBLEM: u8 = 4;
    pub(crate) const BAD_FIELD: u8 = 0;
    pub(crate) const UNKNOWN_NEXT_HEADER: u8 = 1;
}

/// TCP control bits.
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;
}

/// The linear part of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    start: usize,
    end: usize,
}

impl Bytes {
    /// `start..end` must be what the context calls `data..data_end`; the verifier holds us to it.
    #[inline(always)]
    pub(crate) const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// A header at `offset`, or `None` where the linear part ends before it does.
    ///
    /// One form of comparison everywhere, "pointer plus size beyond the end": 5.10's verifier misjudges others.
    #[inline(always)]
    pub(crate) fn at<T>(self, offset: usize) -> Option<&'static mut T> {
        if self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the comparison above keeps the view inside the packet; `T` is plain integers, and the verifier
        // refuses the program if either is wrong. BPF targets allow unaligned loads.
        Some(unsafe { &mut *((self.start + offset) as *mut T) })
    }
}
