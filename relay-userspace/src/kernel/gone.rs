//! Flows that lead where their rule leads no more, for rules that end such flows (`on_down = "reset"`), and those that go in
//! clear beside a tunnel that the rule has now for datagrams.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_common::digest::{Digest, Secret};
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Address, Protocol, ipv6_to_wire};

use crate::rule::{Destination, PortRange, Staying};

/// Where flows of such rules may go, by slot. Written before the rule leads elsewhere.
#[derive(Debug, Default)]
pub struct Backends(Mutex<HashMap<u32, Bounds>>);

/// Where one rule's flows may go.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Bounds {
    /// `None`: anywhere.
    backends: Option<Arc<Staying>>,
    /// UDP nowhere.
    wraps_udp: bool,
}

/// A destination as backend halves' keys have it.
#[derive(Debug)]
struct Source {
    is_v6: bool,
    /// The address, or the part of its digest that a key has.
    address: u32,
    ports: PortRange,
}

/// By slot and protocol. `None`: whatever they are.
type Sources = HashMap<u32, [Option<Vec<Source>>; 2]>;

impl Backends {
    /// Returns whether that is news. `None`: anywhere. `wraps_udp`: UDP nowhere.
    pub(super) fn set(&self, slot: u32, backends: Option<&Arc<Staying>>, wraps_udp: bool) -> bool {
        let mut all = self.all();
        let bounds = Bounds { backends: backends.cloned(), wraps_udp };
        if backends.is_none() && !wraps_udp {
            return all.remove(&slot).is_some();
        }
        all.insert(slot, bounds.clone()) != Some(bounds)
    }

    /// The rule has gone, and its flows with it.
    pub(super) fn forget(&self, slot: u32) {
        self.all().remove(&slot);
    }

    /// As keys have them.
    fn sources(&self, secret: &Secret) -> Sources {
        let source = |&Destination { address, ports }: &Destination| match address {
            IpAddr::V4(address) => Source { is_v6: false, address: Address::from(address).to_wire(), ports },
            IpAddr::V6(address) => {
                Source { is_v6: true, address: Digest::new(&ipv6_to_wire(address), secret).low, ports }
            }
        };
        let sources = |protocol, Bounds { backends, wraps_udp }: &Bounds| match (protocol, backends) {
            (Protocol::Udp, _) if *wraps_udp => Some(Vec::new()),
            (_, backends) => Some(backends.as_ref()?.of(protocol).iter().map(source).collect()),
        };
        let by_protocol = |bounds| Protocol::ALL.map(|protocol| sources(protocol, bounds));
        self.all().iter().map(|(&slot, bounds)| (slot, by_protocol(bounds))).collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u32, Bounds>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a walk has met of such flows.
#[derive(Debug)]
pub(super) struct Gone {
    sources: Sources,
    secret: Secret,
    /// Backend halves, by their rules' slots.
    halves: HashMap<u32, Vec<FlowKey>>,
}

impl Gone {
    pub(super) fn begin(backends: &Backends, secret: Secret) -> Self {
        Self { sources: backends.sources(&secret), secret, halves: HashMap::new() }
    }

    /// A flow comes by. One that has ended by itself goes by itself.
    pub(super) fn meet(&mut self, key: &FlowKey, half: &FlowEntry) {
        let is_over = half.flags().has_any(FlowFlags::CLOSED.with(FlowFlags::RESET));
        if half.flags().has(FlowFlags::EGRESS) && !is_over && leads_elsewhere(&self.sources, half.rule(), key)
        {
            self.halves.entry(half.rule()).or_default().push(*key);
        }
    }

    /// Those that have to go, by slot. Flows that were opened during the walk may lead to addresses that came during it.
    pub(super) fn left(mut self, backends: &Backends) -> HashMap<u32, Vec<FlowKey>> {
        let now = backends.sources(&self.secret);
        for (&slot, halves) in &mut self.halves {
            halves.retain(|key| leads_elsewhere(&now, slot, key));
        }
        self.halves
    }
}

fn leads_elsewhere(sources: &Sources, slot: u32, backend_half: &FlowKey) -> bool {
    let Some((by_protocol, protocol)) = sources.get(&slot).zip(backend_half.protocol()) else { return false };
    let (is_v6, address) = (backend_half.is_v6(), backend_half.source().to_wire());
    let port = backend_half.ports().source().number();
    let is_there =
        |source: &Source| (source.is_v6, source.address) == (is_v6, address) && source.ports.contains(port);
    let sources = by_protocol[protocol.index() as usize].as_ref();
    sources.is_some_and(|sources| !sources.iter().any(is_there))
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_common::flow::{Hop, Owner};
    use relay_common::net::{Port, Ports};
    use std::net::{Ipv4Addr, Ipv6Addr};

    const SECRET: Secret = Secret { words: [1, 2, 3, 4, 5, 6, 7, 8] };

    fn address_v6(last: u8) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())
    }

    /// The backend half of a flow to an IPv6 address.
    fn half_v6(rule: u32, backend: u8) -> (FlowKey, FlowEntry) {
        let (_, half) = half(rule, backend, FlowFlags::EGRESS);
        let digest = |last| Digest::new(&ipv6_to_wire(address_v6(last)), &SECRET);
        let ports = Ports::new(Port::new(80), Port::new(5000));
        (FlowKey::of_v6(digest(backend), digest(1), ports, Protocol::Tcp), half)
    }

    fn half(rule: u32, backend: u8, flags: FlowFlags) -> (FlowKey, FlowEntry) {
        half_at(rule, (backend, 80), flags)
    }

    fn half_at(rule: u32, (backend, port): (u8, u16), flags: FlowFlags) -> (FlowKey, FlowEntry) {
        let ports = Ports::new(Port::new(port), Port::new(5000));
        let address = |last| Address::from(Ipv4Addr::new(203, 0, 113, last));
        let key = FlowKey::new(address(backend), address(1), ports, Protocol::Tcp);
        let to = relay_common::flow::Translation { source: address(1), destination: address(9), ports };
        let owner = Owner { rule, generation: 1, endpoint: 0 };
        (key, FlowEntry::new(&key, to, owner, Hop::default(), flags, 0))
    }

    fn staying(list: &[(IpAddr, u16)]) -> Arc<Staying> {
        let tcp = list.iter().map(|&(address, port)| Destination::at((address, port).into())).collect();
        Arc::new(Staying { tcp, ..Staying::default() })
    }

    fn address_v4(last: u8) -> IpAddr {
        Ipv4Addr::new(203, 0, 113, last).into()
    }

    #[test]
    fn only_flows_to_other_addresses_have_to_go() {
        let list =
            |last: &[u8]| staying(&last.iter().map(|&last| (address_v4(last), 80)).collect::<Vec<_>>());
        let backends = Backends::default();
        assert!(backends.set(3, Some(&list(&[2])), false) && !backends.set(3, Some(&list(&[2])), false));
        assert!(!backends.set(4, None, false));
        let mut gone = Gone::begin(&backends, SECRET);
        let over = FlowFlags::EGRESS.with(FlowFlags::CLOSED);
        for (rule, backend, flags) in [
            (3, 2, FlowFlags::EGRESS),
            (3, 7, FlowFlags::NONE),
            (3, 7, over),
            (3, 7, FlowFlags::EGRESS),
            (3, 8, FlowFlags::EGRESS),
            (4, 7, FlowFlags::EGRESS),
        ] {
            let (key, half) = half(rule, backend, flags);
            gone.meet(&key, &half);
        }
        // during the walk the name gets another address
        assert!(backends.set(3, Some(&list(&[2, 8])), false));
        assert_eq!(gone.left(&backends), HashMap::from([(3, vec![half(3, 7, FlowFlags::EGRESS).0])]));
    }

    #[test]
    fn two_ports_of_one_address_are_told_apart() {
        let backends = Backends::default();
        let both = [(address_v4(2), 80), (address_v4(2), 81)];
        backends.set(3, Some(&staying(&both[..1])), false);
        let mut gone = Gone::begin(&backends, SECRET);
        for port in [80, 81] {
            let (key, half) = half_at(3, (2, port), FlowFlags::EGRESS);
            gone.meet(&key, &half);
        }
        let (down, _) = half_at(3, (2, 81), FlowFlags::EGRESS);
        assert_eq!(gone.left(&backends), HashMap::from([(3, vec![down])]));
    }

    #[test]
    fn datagrams_that_have_a_tunnel_go_nowhere_else() {
        let backends = Backends::default();
        assert!(backends.set(3, None, true) && !backends.set(3, None, true));
        let mut gone = Gone::begin(&backends, SECRET);
        let (tcp, entry) = half(3, 7, FlowFlags::EGRESS);
        let ports = Ports::new(Port::new(80), Port::new(5000));
        let udp = FlowKey::new(tcp.source(), tcp.destination(), ports, Protocol::Udp);
        gone.meet(&tcp, &entry);
        gone.meet(&udp, &entry);
        assert_eq!(gone.left(&backends), HashMap::from([(3, vec![udp])]));
        assert!(backends.set(3, None, false));
    }

    #[test]
    fn of_ipv6_addresses_too() {
        let backends = Backends::default();
        backends.set(3, Some(&staying(&[(address_v6(2).into(), 80)])), false);
        let mut gone = Gone::begin(&backends, SECRET);
        for backend in [2, 7] {
            let (key, half) = half_v6(3, backend);
            gone.meet(&key, &half);
        }
        assert_eq!(gone.left(&backends), HashMap::from([(3, vec![half_v6(3, 7).0])]));
    }
}
