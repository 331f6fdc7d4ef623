//! Rules as the programs see them: ports, listeners, rules, endpoints.
//!
//! A new flow goes port table → (listener table, where several addresses share the port) → rule → (a place, where several
//! backends take turns or the like) → endpoint.

use crate::choice::Choice;
use crate::digest::Digest;
use crate::net::{Address, FAMILY_BIT, Port, Protocol, family_bit};

/// Entries in the port table: TCP ports, then UDP ports.
pub const PORT_TABLE: u32 = 2 << 16;

/// Where `port` lies in the port table.
#[inline(always)]
pub const fn port_index(protocol: Protocol, port: Port) -> u32 {
    (protocol.index() << 16) | port.number() as u32
}

/// How the listeners of one port are found.
#[repr(u16)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PortKind {
    /// No rule listens here.
    None = 0,
    /// One rule listens on every address of the host: `id` is its slot.
    Everywhere = 1,
    /// Rules listen on single addresses or interfaces: `id` is the first word of their [`ListenerKey`].
    ByAddress = 2,
}

/// One port of the port table (8 bytes, so that a store replaces it whole).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortEntry {
    id: u32,
    first: u16,
    kind: u16,
}

impl PortEntry {
    pub const NONE: Self = Self { id: 0, first: 0, kind: PortKind::None as u16 };

    /// A listener on every address; `first` is where its port range starts.
    #[inline(always)]
    pub const fn everywhere(rule: u32, first: u16) -> Self {
        Self { id: rule, first, kind: PortKind::Everywhere as u16 }
    }

    #[inline(always)]
    pub const fn by_address(segment: u32) -> Self {
        Self { id: segment, first: 0, kind: PortKind::ByAddress as u16 }
    }

    #[inline(always)]
    pub const fn kind(&self) -> PortKind {
        match self.kind {
            1 => PortKind::Everywhere,
            2 => PortKind::ByAddress,
            _ => PortKind::None,
        }
    }

    /// Rule slot or port segment, as [`PortEntry::kind`] says.
    #[inline(always)]
    pub const fn id(&self) -> u32 {
        self.id
    }

    #[inline(always)]
    pub const fn first(&self) -> u16 {
        self.first
    }
}

/// A listener among several on one stretch of ports (a segment): by its address, or by its interface with no address.
///
/// `A` is an address as it lies in a packet: `u32` for IPv4, `[u32; 4]` for IPv6, whose ports and listeners have tables
/// of their own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ListenerKey<A = u32> {
    pub segment: u32,
    pub address: A,
    pub interface: u32,
}

/// The rule behind a [`ListenerKey`], and where its port range starts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListenerEntry {
    pub rule: u32,
    pub first: u16,
    pub _reserved: u16,
}

/// What a rule does with new flows of one address family.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleState {
    /// The slot is free, or its rule is not carried.
    Off = 0,
    Active = 1,
    /// Flows that exist go on; new ones are refused.
    Draining = 2,
    /// The user plane carries it. Flows from before that go on.
    User = 3,
}

impl RuleState {
    #[inline(always)]
    const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Active,
            2 => Self::Draining,
            3 => Self::User,
            _ => Self::Off,
        }
    }
}

/// A rule (72 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RuleEntry {
    /// Grows whenever the slot changes hands; flows of an older generation are swept.
    pub generation: u32,
    /// For IPv4 clients.
    state: u32,
    /// Who gets new flows.
    pub tcp: Choice,
    pub udp: Choice,
    /// Idle limits, in ticks.
    pub tcp_idle: u32,
    pub tcp_half_closed: u32,
    pub udp_idle: u32,
    /// 1: a local socket that listens on a new flow's destination gets it instead.
    pub yields: u32,
    /// For IPv6 clients.
    state_v6: u32,
    /// 0: everybody is let in. Otherwise only who is in the table of allowed networks; another number whenever the list
    /// changes.
    pub guarded: u32,
    pub limits: Limits,
    /// 1: the user plane has no socket on each of its ports, so that other programs may have sockets there.
    pub shared: u32,
    /// 1: the kernel opens flows for UDP alone; TCP of its IPv4 clients is the user plane's.
    pub tcp_of_user: u32,
}

/// What a rule allows at most; 0: any number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Proven flows, and sessions of the user plane.
    pub connections: u32,
    /// The same, of one client address.
    pub connections_per_ip: u32,
    /// Nanoseconds between new flows.
    pub interval: u32,
    /// The same, of one client address.
    pub interval_per_ip: u32,
}

impl Limits {
    pub const NONE: Self = Self { connections: 0, connections_per_ip: 0, interval: 0, interval_per_ip: 0 };

    #[inline(always)]
    pub const fn are_none(&self) -> bool {
        self.connections | self.connections_per_ip | self.interval | self.interval_per_ip == 0
    }
}

/// One of the host's own IPv6 addresses: where it is, and its number in `NUMBERED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OwnAddress {
    pub interface: u32,
    pub number: u32,
}

/// An IPv6 address of the host's or a backend's by number, which keeps its meaning as long as a flow may hold it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Numbered {
    pub address: [u32; 4],
    pub digest: Digest,
}

/// A rule's slot and the address of a client (which, in the table of allowed networks, is a network's). The slot is matched
/// whole, so prefixes there are [`SourceKey::RULE_BITS`] longer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SourceKey {
    /// With a bit for the address's family.
    rule: u32,
    /// IPv4 ones as IPv6 ([`crate::net::mapped`]).
    pub address: [u32; 4],
}

impl SourceKey {
    pub const RULE_BITS: u32 = 32;
    pub const BITS: u32 = 160;

    #[inline(always)]
    pub const fn new(rule: u32, address: [u32; 4]) -> Self {
        Self { rule: rule | family_bit(&address), address }
    }

    pub const fn rule(&self) -> u32 {
        self.rule & !FAMILY_BIT
    }
}

impl RuleEntry {
    pub const OFF: Self = Self::off(0);

    /// A slot whose next rule will be of a later generation.
    pub const fn off(generation: u32) -> Self {
        Self::new(generation, RuleState::Off)
    }

    #[inline(always)]
    pub const fn new(generation: u32, state: RuleState) -> Self {
        Self {
            generation,
            state: state as u32,
            tcp: Choice::NONE,
            udp: Choice::NONE,
            tcp_idle: 0,
            tcp_half_closed: 0,
            udp_idle: 0,
            yields: 0,
            state_v6: RuleState::Off as u32,
            guarded: 0,
            limits: Limits::NONE,
            shared: 0,
            tcp_of_user: 0,
        }
    }

    /// The same rule without new flows; the ones it has go on.
    pub const fn without_new_flows(self) -> Self {
        if self.state == RuleState::Off as u32 {
            return self;
        }
        Self { state: RuleState::Draining as u32, ..self }
    }

    /// The same rule, carried by the user plane from now on; the flows that it has go on.
    pub const fn left_to_user(self) -> Self {
        Self { state: RuleState::User as u32, yields: 0, ..self }
    }

    /// The same rule with this state for IPv6 clients.
    pub const fn with_v6(self, state: RuleState) -> Self {
        Self { state_v6: state as u32, ..self }
    }

    /// The same rule, switched off; its flows belong to the generation before.
    pub const fn switched_off(self) -> Self {
        let off = RuleState::Off as u32;
        if self.state == off && self.state_v6 == off {
            return self;
        }
        Self { generation: self.generation.wrapping_add(1), state: off, state_v6: off, ..self }
    }

    /// What it does with IPv4 clients.
    #[inline(always)]
    pub const fn state(&self) -> RuleState {
        RuleState::from_number(self.state)
    }

    /// Whether it is switched off for clients of both families.
    #[inline(always)]
    pub const fn is_off(&self) -> bool {
        matches!((self.state(), self.state_v6()), (RuleState::Off, RuleState::Off))
    }

    /// What it does with IPv6 clients.
    #[inline(always)]
    pub const fn state_v6(&self) -> RuleState {
        RuleState::from_number(self.state_v6)
    }
}

/// A backend resolved to one address (32 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EndpointEntry {
    address: u32,
    /// The host's address that its flows are sent from.
    source: u32,
    /// Where the rule's first port goes, host order; 0: the port stays as it is.
    pub port: u16,
    pub hop_index: u16,
    pub generation: u32,
    /// The interface that its packets must leave by; 0: any. For relayd, which knows its endpoints by that too.
    pub interface: u32,
    /// 1: both addresses are IPv6 ones, by their numbers in `NUMBERED`.
    v6: u32,
    /// The slot of the rule that it belongs to.
    pub rule: u32,
    /// Protocols of which it gets no new flows since it does not answer, as bits.
    deserted: u32,
}

impl EndpointEntry {
    #[inline(always)]
    pub const fn new(address: Address, source: Address, port: u16, hop_index: u16, generation: u32) -> Self {
        Self {
            address: address.to_wire(),
            source: source.to_wire(),
            port,
            hop_index,
            generation,
            interface: 0,
            v6: 0,
            rule: 0,
            deserted: 0,
        }
    }

    /// As one that gets no new flows of these protocols since it does not answer.
    pub fn deserted_for(self, protocols: impl Iterator<Item = Protocol>) -> Self {
        let deserted = protocols.fold(0, |bits, protocol| bits | 1 << protocol.index());
        Self { deserted, ..self }
    }

    /// The same for whom `other` is.
    pub const fn deserted_like(self, other: &Self) -> Self {
        Self { deserted: other.deserted, ..self }
    }

    /// Whether flows that it has never answered are to choose anew.
    #[inline(always)]
    pub const fn is_deserted(&self, protocol: Protocol) -> bool {
        self.deserted & 1 << protocol.index() != 0
    }

    /// With numbers of IPv6 addresses in the addresses' places.
    pub const fn by_numbers(self) -> Self {
        Self { v6: 1, ..self }
    }

    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.v6 != 0
    }

    #[inline(always)]
    pub const fn address(&self) -> Address {
        Address::from_wire(self.address)
    }

    #[inline(always)]
    pub const fn source(&self) -> Address {
        Address::from_wire(self.source)
    }

    /// Where a packet for `listen` goes, when the listener's range starts at `first`.
    #[inline(always)]
    pub const fn port_for(&self, listen: Port, first: u16) -> Port {
        if self.port == 0 {
            return listen;
        }
        Port::new(self.port.wrapping_add(listen.number().wrapping_sub(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_shifts_by_a_constant() {
        let endpoint = EndpointEntry::new(Address::UNSPECIFIED, Address::UNSPECIFIED, 20000, 0, 0);
        assert_eq!(endpoint.port_for(Port::new(10000), 10000).number(), 20000);
        assert_eq!(endpoint.port_for(Port::new(19000), 10000).number(), 29000);
    }

    #[test]
    fn without_a_port_the_listeners_port_stays() {
        let endpoint = EndpointEntry::new(Address::UNSPECIFIED, Address::UNSPECIFIED, 0, 0, 0);
        assert_eq!(endpoint.port_for(Port::new(443), 80).number(), 443);
    }

    #[test]
    fn tcp_and_udp_halves_do_not_meet() {
        assert_eq!(port_index(Protocol::Tcp, Port::new(65535)) + 1, port_index(Protocol::Udp, Port::new(0)));
        assert_eq!(port_index(Protocol::Udp, Port::new(65535)) + 1, PORT_TABLE);
    }
}
