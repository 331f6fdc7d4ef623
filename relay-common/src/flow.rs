//! Flows: what a packet is looked up by, and what is then done to it.
//!
//! A flow has two halves, one entry per direction, each keyed by the packet that it matches. A half says everything
//! that a packet in its direction needs, so that the hot path does one lookup. The two halves find each other by
//! computation: [`FlowEntry::opposite`].

mod flags;
mod fragment;
mod key;
mod opening;

use crate::checksum::Delta;
use crate::digest::{Digest, Secret};
use crate::net::{Address, Direction, Port, Ports, Protocol};

pub use self::flags::FlowFlags;
pub use self::fragment::{FragmentEntry, FragmentKey};
pub use self::key::FlowKey;
pub use self::opening::{ClientV6, open, open_v6};

/// What a rewrite puts in place of a packet's addresses and ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Translation {
    pub source: Address,
    pub destination: Address,
    pub ports: Ports,
}

/// A route table index and the state of that entry when it was looked up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hop {
    pub index: u16,
    pub generation: u16,
}

/// One half of a flow (64 bytes: with the 16-byte key it fills two cache lines of a preallocated hash element, key in
/// one, value in the other).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FlowEntry {
    source: u32,
    destination: u32,
    ports: u32,
    address_delta: u16,
    port_delta: u16,
    rule: u32,
    hop_index: u16,
    hop_generation: u16,
    /// Tick of the last packet of this half.
    pub seen: u32,
    flags: u32,
    /// Generation of the rule that made the flow.
    pub generation: u32,
    endpoint: u32,
    /// Client half: the interface its packets come in on. Backend half: 0, or part of an IPv6 client's address.
    pub interface: u32,
    /// TCP: see [`FlowFlags::REPLIED`], [`FlowFlags::FIN`] and [`FlowFlags::TIMED`]. Host order.
    pub sequence: u32,
    /// IP bytes this half has carried; without a lock, so a flow spread over CPUs may lose some.
    pub bytes: u64,
    /// Tick of the first packet.
    pub created: u32,
    /// The last four bytes of the link address that its packets come in for, as they lie in the frame. 0: not seen yet,
    /// or a link without addresses.
    pub link: u32,
}

/// What both halves of a new flow have in common.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub rule: u32,
    pub generation: u32,
    pub endpoint: u32,
}

impl FlowEntry {
    /// The half that turns packets matching `key` into `to`.
    #[inline(always)]
    pub const fn new(
        key: &FlowKey,
        to: Translation,
        owner: Owner,
        hop: Hop,
        flags: FlowFlags,
        now: u32,
    ) -> Self {
        let addresses =
            Delta::address(key.source(), to.source).and(Delta::address(key.destination(), to.destination));
        let ports = Delta::port(key.ports().source(), to.ports.source())
            .and(Delta::port(key.ports().destination(), to.ports.destination()));
        Self {
            source: to.source.to_wire(),
            destination: to.destination.to_wire(),
            ports: to.ports.to_wire(),
            address_delta: addresses.raw(),
            port_delta: ports.raw(),
            rule: owner.rule,
            hop_index: hop.index,
            hop_generation: hop.generation,
            seen: now,
            flags: flags.0,
            generation: owner.generation,
            endpoint: owner.endpoint,
            interface: 0,
            sequence: 0,
            bytes: 0,
            created: now,
            link: 0,
        }
    }

    #[inline(always)]
    pub const fn translation(&self) -> Translation {
        Translation {
            source: Address::from_wire(self.source),
            destination: Address::from_wire(self.destination),
            ports: Ports::from_wire(self.ports),
        }
    }

    #[inline(always)]
    pub const fn address_delta(&self) -> Delta {
        Delta::from_raw(self.address_delta)
    }

    #[inline(always)]
    pub const fn port_delta(&self) -> Delta {
        Delta::from_raw(self.port_delta)
    }

    #[inline(always)]
    pub const fn rule(&self) -> u32 {
        self.rule
    }

    #[inline(always)]
    pub const fn endpoint(&self) -> u32 {
        self.endpoint
    }

    #[inline(always)]
    pub const fn hop(&self) -> Hop {
        Hop { index: self.hop_index, generation: self.hop_generation }
    }

    #[inline(always)]
    pub const fn set_hop(&mut self, hop: Hop) {
        self.hop_index = hop.index;
        self.hop_generation = hop.generation;
    }

    #[inline(always)]
    pub const fn flags(&self) -> FlowFlags {
        FlowFlags(self.flags)
    }

    #[inline(always)]
    pub const fn set_flags(&mut self, flags: FlowFlags) {
        self.flags = flags.0;
    }

    #[inline(always)]
    pub const fn direction(&self) -> Direction {
        if self.flags().has(FlowFlags::EGRESS) { Direction::Egress } else { Direction::Ingress }
    }

    /// Client half of a flow being opened: the port that its packets leave from.
    #[inline(always)]
    pub const fn send_from(&mut self, port: Port) {
        let ports = Ports::from_wire(self.ports);
        self.port_delta = self.port_delta().and(Delta::port(ports.source(), port)).raw();
        self.ports = Ports::new(port, ports.destination()).to_wire();
    }

    /// Backend half of a flow being opened: the port that its packets come in for, `old` until now.
    #[inline(always)]
    pub const fn answer_to(&mut self, old: Port, port: Port) {
        self.port_delta = self.port_delta().and(Delta::port(port, old)).raw();
    }

    /// Backend half of an IPv6 client: what comes in is sent to this client, from the host's own address with this number
    /// (see `NUMBERED`). Where IPv4 addresses would be lie parts of the client's, and where a client half keeps its
    /// interface and its age.
    #[inline(always)]
    pub const fn send_to_v6(&mut self, client: &[u32; 4], own: u32) {
        [self.source, self.destination, self.interface, self.link] = *client;
        self.created = own;
        self.flags |= FlowFlags::TO_V6.0;
    }

    /// The client's address of such a half.
    #[inline(always)]
    pub const fn client_v6(&self) -> [u32; 4] {
        [self.source, self.destination, self.interface, self.link]
    }

    /// The number of the own address that a half which sends IPv6 sends from.
    #[inline(always)]
    pub const fn own_v6(&self) -> u32 {
        if self.flags().has(FlowFlags::EGRESS) { self.created } else { self.source }
    }

    /// The number of a backend's address: of a client half that sends IPv6. Numbers lie there where IPv4 addresses would.
    #[inline(always)]
    pub const fn backend_v6(&self) -> u32 {
        self.destination
    }

    /// This is the other half, made anew: what it does to checksums undoes what that one does.
    #[inline(always)]
    pub const fn undo(&mut self, other: &Self) {
        self.address_delta = other.address_delta().inverse().raw();
    }

    /// The key of the flow's other half: an answer to the packet that this half sends out. Only of a half that sends IPv4;
    /// see [`FlowEntry::opposite_v6`].
    #[inline(always)]
    pub const fn opposite(&self, protocol: Protocol) -> FlowKey {
        let to = self.translation();
        FlowKey::new(to.destination, to.source, to.ports.swapped(), protocol)
    }

    /// The same of a half that sends IPv6. `digest`: of an address by its number.
    #[inline(always)]
    pub fn opposite_v6(
        &self,
        secret: &Secret,
        digest: impl Fn(u32) -> Digest,
        protocol: Protocol,
    ) -> FlowKey {
        let other = if self.flags().has(FlowFlags::EGRESS) {
            Digest::new(&self.client_v6(), secret)
        } else {
            digest(self.backend_v6())
        };
        let own = digest(self.own_v6());
        FlowKey::of_v6(other, own, Ports::from_wire(self.ports).swapped(), protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn address(last: u8) -> Address {
        Address::from_wire(u32::from_ne_bytes([10, 0, 0, last]))
    }

    #[test]
    fn deltas_match_what_is_rewritten() {
        let key = FlowKey::new(address(3), address(1), Ports::new(Port::new(1), Port::new(2)), Protocol::Tcp);
        let to = Translation {
            source: address(1),
            destination: address(77),
            ports: Ports::new(Port::new(30000), Port::new(443)),
        };
        let owner = Owner { rule: 0, generation: 0, endpoint: 0 };
        let half = FlowEntry::new(&key, to, owner, Hop::default(), FlowFlags::NONE, 0);
        let before = [10u8, 0, 0, 3, 10, 0, 0, 1];
        let after = [10u8, 0, 0, 1, 10, 0, 0, 77];
        let field = !crate::checksum::sum(&before);
        assert_eq!(half.address_delta().apply(field), !crate::checksum::sum(&after));
    }
}
