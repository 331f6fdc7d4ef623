//! Next hops: where a packet leaves the host. relayd keeps them from netlink; the programs never ask the routing table.

use crate::net::{FAMILY_BIT, family_bit};

/// What a next hop's gateway is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gateway {
    /// The destination itself is a neighbour.
    OnLink = 0,
    /// An IPv4 router (`AF_INET`).
    V4 = 2,
    /// An IPv6 router (`AF_INET6`), as in `via inet6 fe80::1`.
    V6 = 10,
}

/// An entry of the next hop table (32 bytes). `interface` 0: there is no way out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct NextHop {
    pub interface: u32,
    /// Largest IP packet that the way takes.
    pub mtu: u32,
    /// Changes whenever flows that hold this entry must look their way up again.
    pub generation: u16,
    /// Index into the XDP device map plus one; 0: XDP must leave these packets to tc.
    pub device: u16,
    family: u32,
    gateway: [u32; 4],
}

impl NextHop {
    #[inline(always)]
    pub const fn new(interface: u32, mtu: u32, gateway: Gateway, address: [u32; 4]) -> Self {
        Self { interface, mtu, generation: 0, device: 0, family: gateway as u32, gateway: address }
    }

    /// The same way under another generation.
    pub const fn with_generation(self, generation: u16) -> Self {
        Self { generation, ..self }
    }

    #[inline(always)]
    pub const fn family(&self) -> u32 {
        self.family
    }

    #[inline(always)]
    pub const fn gateway(&self) -> [u32; 4] {
        self.gateway
    }
}

/// Data of a key in the route table (a longest-prefix trie): the interface that a client came in on (0: any), then its
/// address. The interface is matched whole, so prefixes are [`RouteKey::INTERFACE_BITS`] longer than the route's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RouteKey {
    /// With a bit for the address's family.
    interface: u32,
    /// IPv4 ones as IPv6 ([`crate::net::mapped`]).
    pub address: [u32; 4],
}

impl RouteKey {
    pub const INTERFACE_BITS: u32 = 32;
    pub const BITS: u32 = 160;

    #[inline(always)]
    pub const fn new(interface: u32, address: [u32; 4]) -> Self {
        Self { interface: interface | family_bit(&address), address }
    }

    pub const fn interface(&self) -> u32 {
        self.interface & !FAMILY_BIT
    }
}
