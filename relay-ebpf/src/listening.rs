//! Who listens on an address and port of the host, for both address families.

use relay_common::net::{Port, Ports, Protocol};
use relay_common::rule::{ListenerEntry, ListenerKey, PortEntry, PortKind, RuleEntry, RuleState, port_index};

use crate::maps::{self, Entry};
use crate::socket::Ends;

/// A rule that listens on a packet's destination.
pub(crate) struct Listening {
    pub(crate) rule: u32,
    /// Where the listener's port range starts.
    pub(crate) first: u16,
}

/// An address as it lies in a packet: which tables it is looked for in.
pub(crate) trait Address: Copy {
    const ANY: Self;

    /// Whether it is the host's own, and unicast.
    fn is_own(&self) -> bool;
    fn port(index: u32) -> Option<&'static PortEntry>;
    fn listener(key: &ListenerKey<Self>) -> Option<Entry<ListenerEntry>>;
    /// Whether what the rule listens for, and no flow of the kernel's carries, may be the user plane's. Where it has no
    /// sockets and does not hold its ports one by one, it is another program's.
    fn is_left_to_user(rule: &RuleEntry) -> bool;
    /// Both ends of a packet that comes in from `self`.
    fn ends(&self, local: &Self, ports: Ports) -> Ends;
}

impl Address for u32 {
    const ANY: Self = 0;

    #[inline(always)]
    fn is_own(&self) -> bool {
        maps::own_address(*self).is_some()
    }

    #[inline(always)]
    fn port(index: u32) -> Option<&'static PortEntry> {
        maps::port(index)
    }

    #[inline(always)]
    fn listener(key: &ListenerKey) -> Option<Entry<ListenerEntry>> {
        maps::listener(key)
    }

    #[inline(always)]
    fn is_left_to_user(rule: &RuleEntry) -> bool {
        rule.state() != RuleState::Off && (rule.yields == 0 || rule.shared != 0)
    }

    #[inline(always)]
    fn ends(&self, local: &Self, ports: Ports) -> Ends {
        Ends::v4(*self, *local, ports)
    }
}

impl Address for [u32; 4] {
    const ANY: Self = [0; 4];

    #[inline(always)]
    fn is_own(&self) -> bool {
        maps::own_address_v6(self).is_some()
    }

    #[inline(always)]
    fn port(index: u32) -> Option<&'static PortEntry> {
        maps::port_v6(index)
    }

    #[inline(always)]
    fn listener(key: &ListenerKey<Self>) -> Option<Entry<ListenerEntry>> {
        maps::listener_v6(key)
    }

    #[inline(always)]
    fn is_left_to_user(rule: &RuleEntry) -> bool {
        rule.state_v6() != RuleState::Off && (rule.yields == 0 || rule.shared != 0)
    }

    #[inline(always)]
    fn ends(&self, local: &Self, ports: Ports) -> Ends {
        Ends::v6(*self, *local, ports)
    }
}

/// The rule that listens there.
#[inline(always)]
pub(crate) fn find<A: Address>(
    protocol: Protocol,
    address: &A,
    port: Port,
    interface: u32,
) -> Option<Listening> {
    let entry = A::port(port_index(protocol, port))?;
    match entry.kind() {
        PortKind::None => None,
        PortKind::Everywhere => {
            address.is_own().then(|| Listening { rule: entry.id(), first: entry.first() })
        }
        PortKind::ByAddress => by_address(entry, address, interface),
    }
}

/// The listener on this address, or else the one on this interface.
#[inline(always)]
fn by_address<A: Address>(entry: &PortEntry, address: &A, interface: u32) -> Option<Listening> {
    // even a listener on one address only gets what the host would: the address may have moved away
    if !address.is_own() {
        return None;
    }
    let segment = entry.id();
    let exact = ListenerKey { segment, address: *address, interface: 0 };
    let on_interface = ListenerKey { segment, address: A::ANY, interface };
    let found = A::listener(&exact).or_else(|| A::listener(&on_interface))?;
    Some(Listening { rule: found.rule, first: found.first })
}
