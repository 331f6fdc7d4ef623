//! What a packet is looked up by.

use crate::digest::Digest;
use crate::net::{Address, Ports, Protocol};

/// Addresses, ports and protocol of a packet as it arrives (16 bytes, no padding). Of IPv6 addresses it holds digests:
/// their lower halves in the addresses' places, and both upper ones, mixed, beside the protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FlowKey {
    source: u32,
    destination: u32,
    ports: u32,
    protocol: u32,
}

impl FlowKey {
    #[inline(always)]
    pub const fn new(source: Address, destination: Address, ports: Ports, protocol: Protocol) -> Self {
        Self {
            source: source.to_wire(),
            destination: destination.to_wire(),
            ports: ports.to_wire(),
            protocol: protocol.number() as u32,
        }
    }

    /// Of an IPv6 packet between two addresses.
    #[inline(always)]
    pub const fn of_v6(source: Digest, destination: Digest, ports: Ports, protocol: Protocol) -> Self {
        Self {
            source: source.low,
            destination: destination.low,
            ports: ports.to_wire(),
            protocol: protocol.number() as u32
                | Self::V6
                | (source.high ^ destination.high) << Self::DIGEST_SHIFT,
        }
    }

    /// Of no packet.
    pub(super) const NOBODY: Self = Self { source: 0, destination: 0, ports: 0, protocol: 0 };
    const V6: u32 = 1 << 8;
    const DIGEST_SHIFT: u32 = 9;

    /// Whether the packet comes as IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.protocol & Self::V6 != 0
    }

    /// Of an IPv6 packet, what stands for its source.
    #[inline(always)]
    pub const fn source(&self) -> Address {
        Address::from_wire(self.source)
    }

    #[inline(always)]
    pub const fn destination(&self) -> Address {
        Address::from_wire(self.destination)
    }

    #[inline(always)]
    pub const fn ports(&self) -> Ports {
        Ports::from_wire(self.ports)
    }

    /// `None` only for bytes that no program of this version wrote.
    #[inline(always)]
    pub const fn protocol(&self) -> Option<Protocol> {
        Protocol::from_number(self.protocol as u8)
    }

    /// As it lies in a map.
    pub fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (at, word) in [self.source, self.destination, self.ports, self.protocol].into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The key of a packet the other way.
    #[inline(always)]
    pub const fn swapped(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ports: self.ports().swapped().to_wire(),
            protocol: self.protocol,
        }
    }
}
