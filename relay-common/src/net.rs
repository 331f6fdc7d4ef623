//! Addresses, ports and protocols in network order, as they lie in a packet.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

/// An IPv4 address in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Address(u32);

impl Address {
    pub const UNSPECIFIED: Self = Self(0);

    /// From the four bytes as a native load of the packet reads them.
    #[inline(always)]
    pub const fn from_wire(raw: u32) -> Self {
        Self(raw)
    }

    /// The four bytes as a native store puts them into a packet.
    #[inline(always)]
    pub const fn to_wire(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.0 == 0
    }

    /// Whether a host may send from this address: not 0.0.0.0/8, 127.0.0.0/8, multicast, reserved or broadcast.
    #[inline(always)]
    pub const fn is_valid_source(self) -> bool {
        let first = self.0.to_ne_bytes()[0];
        first != 0 && first != 127 && first < 224
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Address> for Ipv4Addr {
    fn from(address: Address) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

/// The four words of an IPv6 address as native loads of the packet read them.
pub fn ipv6_to_wire(address: Ipv6Addr) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(address.octets().as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

/// An IPv4 address as an IPv6 one (RFC 4291 section 2.5.5.2), where both share a table.
#[inline(always)]
pub const fn mapped(address: Address) -> [u32; 4] {
    [0, 0, 0xffffu32.to_be(), address.to_wire()]
}

/// The highest bit, for IPv6 addresses: added to a word that a trie matches whole, it keeps networks such as `::/0`, which has
/// [`mapped`] addresses in it, from being found for IPv4.
#[inline(always)]
pub const fn family_bit(address: &[u32; 4]) -> u32 {
    let is_mapped = address[0] | address[1] == 0 && address[2] == 0xffffu32.to_be();
    if is_mapped { 0 } else { FAMILY_BIT }
}

/// See [`family_bit`].
pub const FAMILY_BIT: u32 = 1 << 31;

/// Whom a limit of a single client takes an address for: an IPv6 one for its /64, which is what one subscriber has at least
/// (RFC 6177), an IPv4 one for itself.
#[inline(always)]
pub const fn subscriber(address: &[u32; 4]) -> [u32; 4] {
    if address[0] | address[1] == 0 { *address } else { [address[0], address[1], 0, 0] }
}

/// The address of four words as they lie in a packet.
pub fn ipv6_from_wire(words: [u32; 4]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(words.map(u32::to_ne_bytes).as_flattened());
    Ipv6Addr::from(octets)
}

/// Whether an IPv6 host beyond the link may send from this address: not unspecified, loopback or mapped (::/80), link-local
/// (fe80::/10) or multicast (ff00::/8).
#[inline(always)]
pub const fn is_global_unicast(address: &[u32; 4]) -> bool {
    let [first, second, ..] = address[0].to_ne_bytes();
    let low = address[0] == 0 && address[1] == 0 && address[2] & 0xffff_0000u32.to_be() == 0;
    !low && first != 0xff && !(first == 0xfe && second & 0xc0 == 0x80)
}

/// Whether an IPv6 address means something on one link only (fe80::/10).
#[inline(always)]
pub const fn is_link_local(address: &[u32; 4]) -> bool {
    address[0] & 0xffc0_0000u32.to_be() == 0xfe80_0000u32.to_be()
}

/// Bits of a mapped address before those of IPv4.
pub const MAPPED_BITS: u32 = 96;

/// A TCP or UDP port in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Port(u16);

impl Port {
    /// From a port number in host order.
    #[inline(always)]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    #[inline(always)]
    pub const fn from_wire(raw: u16) -> Self {
        Self(raw)
    }

    #[inline(always)]
    pub const fn to_wire(self) -> u16 {
        self.0
    }

    /// The port number in host order.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// Source and destination port, as the first four bytes of a TCP or UDP header.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Ports(u32);

impl Ports {
    #[inline(always)]
    pub const fn new(source: Port, destination: Port) -> Self {
        let (s, d) = (source.0.to_ne_bytes(), destination.0.to_ne_bytes());
        Self(u32::from_ne_bytes([s[0], s[1], d[0], d[1]]))
    }

    #[inline(always)]
    pub const fn from_wire(raw: u32) -> Self {
        Self(raw)
    }

    #[inline(always)]
    pub const fn to_wire(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub const fn source(self) -> Port {
        let bytes = self.0.to_ne_bytes();
        Port(u16::from_ne_bytes([bytes[0], bytes[1]]))
    }

    #[inline(always)]
    pub const fn destination(self) -> Port {
        let bytes = self.0.to_ne_bytes();
        Port(u16::from_ne_bytes([bytes[2], bytes[3]]))
    }

    #[inline(always)]
    pub const fn swapped(self) -> Self {
        Self(self.0.rotate_left(16))
    }
}

/// The transport protocols a rule can carry, by their IP protocol number.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
}

impl Protocol {
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    #[inline(always)]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// 0 for TCP and 1 for UDP: the half of the port table, the slot of the pressure table.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Tcp => 0,
            Self::Udp => 1,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which way a packet of a flow goes, whatever the interface or hook.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// Client to backend.
    Ingress,
    /// Backend to client.
    Egress,
}

impl Direction {
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_network_order() {
        let address = Address::from(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(address.to_wire().to_ne_bytes(), [192, 0, 2, 1]);
        assert_eq!(Ipv4Addr::from(address), Ipv4Addr::new(192, 0, 2, 1));
    }

    #[test]
    fn ipv6_addresses_lie_as_in_a_header() {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 2, 3, 4, 5);
        let bytes = ipv6_to_wire(address).map(u32::to_ne_bytes);
        assert_eq!(bytes.as_flattened(), address.octets());
        assert_eq!(ipv6_from_wire(ipv6_to_wire(address)), address);
    }

    #[test]
    fn networks_of_ipv6_are_not_ipv4s() {
        let wire = |text: &str| ipv6_to_wire(text.parse().expect(text));
        for text in ["::", "2001:db8::", "::ffff", "fe80::1"] {
            assert_eq!(family_bit(&wire(text)), FAMILY_BIT, "{text}");
        }
        for text in ["::ffff:0.0.0.0", "::ffff:192.0.2.1"] {
            assert_eq!(family_bit(&wire(text)), 0, "{text}");
        }
    }

    #[test]
    fn subscribers_have_a_64() {
        let wire = |text: &str| ipv6_to_wire(text.parse().expect(text));
        assert_eq!(subscriber(&wire("2001:db8:1:2:3:4:5:6")), wire("2001:db8:1:2::"));
        let mapped = mapped(Address::from(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(subscriber(&mapped), mapped);
    }

    #[test]
    fn ports_lie_as_in_a_header() {
        let ports = Ports::new(Port::new(0x1234), Port::new(0x5678));
        assert_eq!(ports.to_wire().to_ne_bytes(), [0x12, 0x34, 0x56, 0x78]);
        assert_eq!(ports.source().number(), 0x1234);
        assert_eq!(ports.destination().number(), 0x5678);
        assert_eq!(ports.swapped(), Ports::new(Port::new(0x5678), Port::new(0x1234)));
    }

    #[test]
    fn no_host_sends_from_these() {
        for bad in [[0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
            assert!(!Address::from(Ipv4Addr::from(bad)).is_valid_source(), "{bad:?}");
        }
        assert!(Address::from(Ipv4Addr::new(10, 0, 0, 1)).is_valid_source());
    }
}
