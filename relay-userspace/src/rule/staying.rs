//! Where a rule's flows and sessions may go on going.

use std::net::{IpAddr, SocketAddr};

use relay_common::net::Protocol;

use super::{Backend, Listener, PortRange};

/// The destinations that flows and sessions may go to, others end: `on_down = "reset"`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Staying {
    pub tcp: Box<[Destination]>,
    pub udp: Box<[Destination]>,
}

/// An address, and those of its ports that a rule's backend has. Another backend may have others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Destination {
    pub address: IpAddr,
    pub ports: PortRange,
}

impl Staying {
    pub const fn of(&self, protocol: Protocol) -> &[Destination] {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    pub fn contains(&self, protocol: Protocol, to: SocketAddr) -> bool {
        self.of(protocol).iter().any(|destination| destination.contains(to))
    }
}

impl Destination {
    /// Wherever a backend's flows may go that has this address.
    pub fn of<'a>(
        to: &'a Backend,
        address: IpAddr,
        listen: &'a [Listener],
    ) -> impl Iterator<Item = Self> + 'a {
        let mut ports: Vec<PortRange> =
            listen.iter().filter_map(|listener| to.ports_of(listener.ports)).collect();
        ports.sort_unstable_by_key(|ports| (ports.first(), ports.last()));
        ports.dedup();
        ports.into_iter().map(move |ports| Self { address, ports })
    }

    /// One port of an address.
    #[cfg(test)]
    pub fn at(to: SocketAddr) -> Self {
        Self { address: to.ip(), ports: PortRange::new(to.port(), to.port()).expect("a port") }
    }

    pub fn contains(&self, to: SocketAddr) -> bool {
        self.address == to.ip() && self.ports.contains(to.port())
    }
}
