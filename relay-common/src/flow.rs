//! Flows: what a packet is looked up by, and what is then done to it.
//!
//! A flow has two halves, one entry per direction, each keyed by the packet that it matches. A half says everything
//! that a packet in its direction needs, so that the hot path does one lookup. The two halves find each other by
//! computation: [`FlowEntry::opposite`].

use crate::checksum::Delta;
use crate::net::{Address, Direction, Port, Ports, Protocol};

/// Addresses, ports and protocol of a packet as it arrives (16 bytes, no padding).
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

/// State bits of one half of a flow.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowFlags(u32);

impl FlowFlags {
    pub const NONE: Self = Self(0);
    /// This half carries packets from the backend to the client.
    pub const EGRESS: Self = Self(1 << 0);
    /// The client has proven that it gets our answers; the half lies in an established table.
    pub const PROVEN: Self = Self(1 << 1);
    /// The backend has answered. For TCP `sequence` is then the first sequence number of the backend.
    pub const REPLIED: Self = Self(1 << 2);
    /// The sender of this half has sent a FIN; `sequence` is the number that acknowledges it.
    pub const FIN: Self = Self(1 << 3);
    /// That FIN has been acknowledged.
    pub const FIN_ACKED: Self = Self(1 << 4);
    /// A RST went by, either way.
    pub const RESET: Self = Self(1 << 5);
    /// Both ends are done; the half waits in the unproven table for late segments, and its claim may be taken.
    pub const CLOSED: Self = Self(1 << 6);
    /// The sweeper means to delete this half; any packet clears the mark.
    pub const DYING: Self = Self(1 << 7);
    /// Every packet of this half must take the slow path.
    pub const SLOW: Self = Self(1 << 8);
    /// Established backend half: it counts for its rule's limit.
    pub const COUNTED: Self = Self(1 << 9);
    /// And for its client address's.
    pub const SOURCE_COUNTED: Self = Self(1 << 10);

    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[inline(always)]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[inline(always)]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline(always)]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

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
    /// Client half: the interface its packets come in on. Backend half: 0.
    pub interface: u32,
    /// TCP: see [`FlowFlags::REPLIED`] and [`FlowFlags::FIN`]. Host order.
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

    /// The key of the flow's other half: an answer to the packet that this half sends out.
    #[inline(always)]
    pub const fn opposite(&self, protocol: Protocol) -> FlowKey {
        let to = self.translation();
        FlowKey::new(to.destination, to.source, to.ports.swapped(), protocol)
    }
}

/// Fills in both halves of a new flow from the client's `key` to `endpoint`, sent from `source`, but for the source
/// port: [`FlowEntry::send_from`] and [`FlowEntry::answer_to`] add it.
///
/// In place, because two entries by value would crowd a BPF stack.
#[inline(always)]
pub const fn open(
    halves: (&mut FlowEntry, &mut FlowEntry),
    key: &FlowKey,
    protocol: Protocol,
    source: Address,
    endpoint: (Address, Port),
    owner: Owner,
    hops: (Hop, Hop),
    now: u32,
) {
    let (client_flags, backend_flags) = match protocol {
        Protocol::Tcp => (FlowFlags::SLOW, FlowFlags::SLOW.with(FlowFlags::EGRESS)),
        Protocol::Udp => (FlowFlags::NONE, FlowFlags::SLOW.with(FlowFlags::EGRESS)),
    };
    let unclaimed = Port::new(0);
    let to_backend =
        Translation { source, destination: endpoint.0, ports: Ports::new(unclaimed, endpoint.1) };
    *halves.0 = FlowEntry::new(key, to_backend, owner, hops.0, client_flags, now);
    let to_client =
        Translation { source: key.destination(), destination: key.source(), ports: key.ports().swapped() };
    let reply = FlowKey::new(endpoint.0, source, to_backend.ports.swapped(), protocol);
    *halves.1 = FlowEntry::new(&reply, to_client, owner, hops.1, backend_flags, now);
}

/// The addresses, identification and protocol that the fragments of one datagram share (RFC 791 section 3.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FragmentKey<A = u32> {
    pub source: A,
    pub destination: A,
    pub identification: u32,
    pub protocol: u32,
}

/// What later fragments of a datagram need: they carry no ports and no transport checksum.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FragmentEntry {
    pub source: u32,
    pub destination: u32,
    pub rule: u32,
    pub seen: u32,
    /// 1: from the backend to the client.
    pub egress: u32,
    pub hop_index: u16,
    pub hop_generation: u16,
    pub address_delta: u16,
    /// 1: the user plane's, only counted.
    pub user: u16,
    pub _reserved: [u16; 2],
}

impl FragmentEntry {
    /// For a datagram that comes from the user plane or goes to it.
    #[inline(always)]
    pub const fn of_user(rule: u32, egress: bool, seen: u32) -> Self {
        Self {
            source: 0,
            destination: 0,
            rule,
            seen,
            egress: egress as u32,
            hop_index: 0,
            hop_generation: 0,
            address_delta: 0,
            user: 1,
            _reserved: [0; 2],
        }
    }

    /// Whether it is for such a datagram, on this way.
    #[inline(always)]
    pub const fn is_of_user(&self, egress: bool) -> bool {
        self.user != 0 && self.egress == egress as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    const fn address(last: u8) -> Address {
        Address::from_wire(u32::from_ne_bytes([10, 0, 0, last]))
    }

    #[test]
    fn the_halves_find_each_other() {
        let key = FlowKey::new(
            Address::from(Ipv4Addr::new(198, 51, 100, 7)),
            address(1),
            Ports::new(Port::new(40000), Port::new(8388)),
            Protocol::Udp,
        );
        let owner = Owner { rule: 3, generation: 9, endpoint: 5 };
        let blank = FlowEntry::new(
            &key,
            Translation { source: address(0), destination: address(0), ports: key.ports() },
            owner,
            Hop::default(),
            FlowFlags::NONE,
            0,
        );
        let (mut client, mut backend) = (blank, blank);
        let endpoint = (address(9), Port::new(443));
        let hops = (Hop::default(), Hop::default());
        open((&mut client, &mut backend), &key, Protocol::Udp, address(2), endpoint, owner, hops, 7);
        client.send_from(Port::new(1500));
        backend.answer_to(Port::new(0), Port::new(1500));
        let reply_key =
            FlowKey::new(address(9), address(2), Ports::new(Port::new(443), Port::new(1500)), Protocol::Udp);
        assert_eq!(client.opposite(Protocol::Udp), reply_key);
        assert_eq!(backend.opposite(Protocol::Udp), key);
        assert_eq!(client.direction(), Direction::Ingress);
        assert_eq!(backend.direction(), Direction::Egress);
        assert_eq!((backend.rule(), backend.endpoint(), backend.seen), (3, 5, 7));
        let whole = |key: &FlowKey, half: &FlowEntry| {
            FlowEntry::new(key, half.translation(), owner, Hop::default(), FlowFlags::NONE, 0)
        };
        assert_eq!(client.port_delta().apply(77), whole(&key, &client).port_delta().apply(77));
        assert_eq!(backend.port_delta().apply(77), whole(&reply_key, &backend).port_delta().apply(77));
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
