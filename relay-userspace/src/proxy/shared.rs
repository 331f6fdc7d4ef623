//! Rules that share sockets: whose a connection or datagram is that came in on any of their ports.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use relay_common::net::Protocol;
use socket2::{SockAddr, Socket};
use tokio::sync::watch;

use super::service::{Phase, Service};
use crate::rule::PortRange;

/// What the workers' shared sockets serve.
pub struct Shared {
    table: RwLock<Arc<Table>>,
    /// Binds a socket that listens for nobody.
    bind: Arc<Bind>,
}

pub type Bind = dyn Fn(&Socket, &SockAddr) -> io::Result<()> + Send + Sync;

/// A listener of a rule.
#[derive(Debug)]
pub struct Entry {
    pub service: Arc<Service>,
    /// From the first session on, or the first phase but to serve: most of many rules never have either.
    phase: OnceLock<watch::Sender<Phase>>,
}

impl Entry {
    pub const fn new(service: Arc<Service>) -> Self {
        Self { service, phase: OnceLock::new() }
    }

    /// What its sessions should be doing.
    pub fn phase(&self) -> Phase {
        self.phase.get().map_or(Phase::Serve, |phase| *phase.borrow())
    }

    /// For a session, which follows it.
    pub fn follow(&self) -> watch::Receiver<Phase> {
        self.orders().subscribe()
    }

    /// Tells its sessions what to do.
    pub fn turn(&self, phase: Phase) {
        if phase != Phase::Serve || self.phase.get().is_some() {
            self.orders().send_replace(phase);
        }
    }

    /// Where its sessions are told, and whether there are any.
    pub fn orders(&self) -> &watch::Sender<Phase> {
        self.phase.get_or_init(|| watch::Sender::new(Phase::Serve))
    }
}

/// Ports of a protocol that lead to an entry.
#[derive(Clone, Debug)]
pub struct Stretch {
    pub protocol: Protocol,
    /// Unspecified: every address of the family.
    pub address: IpAddr,
    pub ports: PortRange,
    pub entry: Arc<Entry>,
}

type Stretches = Vec<(PortRange, Arc<Entry>)>;

/// All entries by what leads to them.
#[derive(Debug, Default)]
pub struct Table {
    /// In order and apart from each other.
    serving: HashMap<(Protocol, IpAddr), Stretches>,
    /// What only has old clients left; somebody else may have the ports.
    draining: Vec<Stretch>,
}

impl Table {
    /// Of `serving`, no two want the same port of the same address.
    pub fn new(serving: impl IntoIterator<Item = Stretch>, draining: Vec<Stretch>) -> Self {
        let mut table = Self { serving: HashMap::new(), draining };
        for Stretch { protocol, address, ports, entry } in serving {
            table.serving.entry((protocol, address)).or_default().push((ports, entry));
        }
        for stretches in table.serving.values_mut() {
            stretches.sort_unstable_by_key(|(ports, _)| ports.first());
        }
        table
    }

    /// Whose a port of one of the host's addresses is.
    pub fn find(&self, protocol: Protocol, to: SocketAddr) -> Option<&Arc<Entry>> {
        let (address, port) = (to.ip(), to.port());
        let everywhere = everywhere(address);
        let serving = |on| {
            let stretches = self.serving.get(&(protocol, on))?;
            let after = stretches.partition_point(|(ports, _)| ports.first() <= port);
            stretches[..after].last().filter(|(ports, _)| ports.contains(port)).map(|(_, entry)| entry)
        };
        let drains = |stretch: &&Stretch| {
            stretch.protocol == protocol
                && (stretch.address == address || stretch.address == everywhere)
                && stretch.ports.contains(port)
        };
        let draining = || self.draining.iter().find(drains).map(|stretch| &stretch.entry);
        serving(address).or_else(|| serving(everywhere)).or_else(draining)
    }
}

/// Every address of the same family.
const fn everywhere(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(bind: Arc<Bind>) -> Self {
        Self { table: RwLock::default(), bind }
    }

    /// New clients are told by this table from now on.
    pub fn set(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    pub fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn bind(&self, socket: &Socket, address: &SockAddr) -> io::Result<()> {
        (self.bind)(socket, address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::pool::Pool;
    use crate::proxy::service::Target;
    use crate::rule::{RuleName, UdpNat, Usual};

    fn stretch(name: &str, address: &str, first: u16, last: u16) -> Stretch {
        let target = Target {
            ends: Pool::new(RuleName::parse(name).expect("name")).ends(),
            first_port: first,
            timeouts: Usual::default(),
            udp_nat: UdpNat::default(),
            accept: Usual::default(),
            connect: Usual::default(),
        };
        let service = Service::new(
            RuleName::parse(name).expect("name"),
            Arc::default(),
            Arc::default(),
            Arc::default(),
            target,
        );
        let entry = Arc::new(Entry::new(Arc::new(service)));
        let (address, ports) = (address.parse().expect("address"), PortRange::new(first, last));
        Stretch { protocol: Protocol::Udp, address, ports: ports.expect("range"), entry }
    }

    #[test]
    fn an_address_comes_before_every_address_and_who_serves_before_who_drains() {
        let serving = [
            stretch("wide", "0.0.0.0", 1000, 2000),
            stretch("far", "0.0.0.0", 60_000, 65_535),
            stretch("own", "192.0.2.1", 500, 3000),
            stretch("six", "::", 1, 65_535),
        ];
        let table = Table::new(serving, vec![stretch("old", "0.0.0.0", 1500, 2500)]);
        for (to, name) in [
            ("192.0.2.9:1000", Some("wide")),
            ("192.0.2.9:1700", Some("wide")),
            ("192.0.2.9:2001", Some("old")),
            ("192.0.2.9:2501", None),
            ("192.0.2.9:999", None),
            ("192.0.2.9:65535", Some("far")),
            ("192.0.2.1:999", Some("own")),
            ("192.0.2.1:1500", Some("own")),
            ("192.0.2.1:60000", Some("far")),
            ("[2001:db8::1]:1", Some("six")),
        ] {
            let found = table.find(Protocol::Udp, to.parse().expect(to));
            assert_eq!(found.map(|entry| entry.service.rule.as_str()), name, "{to}");
        }
        assert!(table.find(Protocol::Tcp, "192.0.2.9:1000".parse().expect("address")).is_none());
    }
}
