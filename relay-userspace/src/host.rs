//! What the host looks like to Relay: links, addresses, routes. Plain values, filled in from netlink.

mod client_routes;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use self::client_routes::{ClientRoute, ClientRoutes, Room};

/// A network interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    pub index: u32,
    pub name: Box<str>,
    pub kind: LinkKind,
    pub up: bool,
    pub mtu: u32,
    /// Of IPv6, which a router may have told the host to keep below the link's.
    pub mtu_v6: u32,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Its queue keeps packets until they are due: fq on it, or on each of its queues.
    pub paced: bool,
}

impl Link {
    /// The largest IP packet that goes to this address.
    pub fn mtu_towards(&self, address: IpAddr) -> u32 {
        if address.is_ipv6() { self.mtu_v6.min(self.mtu) } else { self.mtu }
    }
}

/// What a packet on the interface starts with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkKind {
    Ethernet,
    /// The IP header: tun, WireGuard, ppp, tunnels.
    Bare,
    Loopback,
}

/// An address of the host.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct HostAddress {
    pub address: IpAddr,
    pub interface: u32,
}

/// A unicast route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    pub table: u32,
    pub destination: IpAddr,
    pub prefix: u8,
    pub metric: u32,
    pub hop: NextHop,
}

/// Where a packet leaves the host.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NextHop {
    pub interface: u32,
    /// `None`: the destination is a neighbour.
    pub gateway: Option<IpAddr>,
    /// Largest IP packet on this way.
    pub mtu: u32,
}

/// What a way is asked for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct WayTo {
    pub backend: IpAddr,
    /// As whom, in the same family; `None`: as the host sees fit.
    pub source: Option<IpAddr>,
    /// Through which interface; `None`: any.
    pub interface: Option<u32>,
}

/// The way to a backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Path {
    /// The host's address that the backend will see.
    pub source: IpAddr,
    pub hop: NextHop,
}

/// Source ports that flows may claim, both ends included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClaimRange {
    pub first: u16,
    pub last: u16,
}

impl Default for ClaimRange {
    fn default() -> Self {
        Self { first: 1024, last: 32767 }
    }
}

impl ClaimRange {
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u16 {
        self.last - self.first + 1
    }
}

/// The host at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostView {
    pub links: BTreeMap<u32, Link>,
    pub addresses: BTreeSet<HostAddress>,
    pub routes: Vec<Route>,
}

impl HostView {
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| &*link.name == name)
    }

    /// Interfaces whose queue keeps packets until they are due.
    pub fn paced(&self) -> BTreeSet<u32> {
        self.links.values().filter(|link| link.paced).map(|link| link.index).collect()
    }

    /// Whether the host answers to an address: loopback and "no address", which the kernel takes for loopback, included.
    pub fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || address.is_unspecified()
            || self.addresses.iter().any(|own| own.address == address)
    }

    /// Whether there is an address or a default route that was not there before.
    pub fn reaches_more_than(&self, before: &Self) -> bool {
        let new_way = |route: &Route| route.prefix == 0 && !before.routes.contains(route);
        !self.addresses.is_subset(&before.addresses) || self.routes.iter().any(new_way)
    }

    /// Own IPv4 unicast addresses and their interfaces, loopback's 127.0.0.0/8 left out.
    pub fn own_v4(&self) -> BTreeMap<Ipv4Addr, u32> {
        self.addresses
            .iter()
            .filter_map(|own| match own.address {
                IpAddr::V4(address) if !address.is_loopback() => Some((address, own.interface)),
                _ => None,
            })
            .collect()
    }

    /// Own IPv6 addresses and their interfaces, loopback's left out. A link-local address may be on several: then one.
    pub fn own_v6(&self) -> BTreeMap<Ipv6Addr, u32> {
        self.addresses
            .iter()
            .filter_map(|own| match own.address {
                IpAddr::V6(address) if !address.is_loopback() => Some((address, own.interface)),
                _ => None,
            })
            .collect()
    }

    /// Interfaces that the programs belong on: the named ones, or all that have an address or lead somewhere and are
    /// not ports of something else.
    ///
    /// `attached`: those that have them already keep them while they are down or without an address for a moment. The
    /// first packets after that must not meet the stack.
    pub fn interfaces(&self, named: Option<&[String]>, attached: impl Fn(u32) -> bool) -> Vec<&Link> {
        self.links
            .values()
            .filter(|link| link.kind != LinkKind::Loopback && (link.up || attached(link.index)))
            .filter(|link| match named {
                Some(names) => names.iter().any(|name| **name == *link.name),
                None if link.master.is_some() => self.has_address(link.index),
                None => self.is_used(link.index) || attached(link.index),
            })
            .collect()
    }

    fn has_address(&self, interface: u32) -> bool {
        self.addresses.iter().any(|own| own.interface == interface)
    }

    fn is_used(&self, interface: u32) -> bool {
        self.has_address(interface) || self.routes.iter().any(|route| route.hop.interface == interface)
    }
}

/// Why relayd cannot listen for clients of a family; `None`: it can.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lacks {
    pub ipv4: Option<Cow<'static, str>>,
    pub ipv6: Option<Cow<'static, str>>,
}

impl Lacks {
    pub const fn is_nothing(&self) -> bool {
        self.ipv4.is_none() && self.ipv6.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: u32, prefix: u8, interface: u32, metric: u32) -> Route {
        Route {
            table,
            destination: Ipv4Addr::UNSPECIFIED.into(),
            prefix,
            metric,
            hop: NextHop {
                interface,
                gateway: Some(Ipv4Addr::new(10, 0, 0, interface as u8).into()),
                mtu: 1500,
            },
        }
    }

    #[test]
    fn new_addresses_and_default_routes_reach_more() {
        let address = HostAddress { address: Ipv4Addr::new(192, 0, 2, 1).into(), interface: 2 };
        let bare = HostView::default();
        let addressed = HostView { addresses: [address].into(), ..HostView::default() };
        let routed = HostView { routes: vec![route(254, 0, 2, 100)], ..addressed.clone() };
        let near = HostView { routes: vec![route(254, 24, 2, 100)], ..addressed.clone() };
        let rerouted = HostView { routes: vec![route(254, 0, 3, 100)], ..addressed.clone() };
        for (after, before, more) in [
            (&addressed, &bare, true),
            (&routed, &addressed, true),
            (&rerouted, &routed, true),
            (&near, &addressed, false),
            (&addressed, &routed, false),
            (&bare, &addressed, false),
            (&routed, &routed, false),
        ] {
            assert_eq!(after.reaches_more_than(before), more, "{after:?} {before:?}");
        }
    }

    fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> (u32, Link) {
        (
            index,
            Link { index, name: name.into(), kind, up: true, mtu: 1500, mtu_v6: 1500, master, paced: false },
        )
    }

    #[test]
    fn programs_go_where_addresses_and_routes_are() {
        let mut view = HostView {
            links: [
                link(1, "lo", LinkKind::Loopback, None),
                link(2, "eth0", LinkKind::Ethernet, Some(4)),
                link(3, "eth1", LinkKind::Ethernet, None),
                link(4, "br0", LinkKind::Ethernet, None),
                link(5, "tun0", LinkKind::Bare, None),
                link(6, "unused", LinkKind::Ethernet, None),
            ]
            .into(),
            routes: vec![route(254, 8, 5, 0)],
            ..HostView::default()
        };
        for (interface, last) in [(1, 1), (3, 3), (4, 4)] {
            let address = Ipv4Addr::new(192, 0, 2, last).into();
            view.addresses.insert(HostAddress { address, interface });
        }
        let names = |named: Option<&[String]>, attached: &[u32]| -> Vec<Box<str>> {
            let there = view.interfaces(named, |index| attached.contains(&index));
            there.iter().map(|link| link.name.clone()).collect()
        };
        assert_eq!(names(None, &[]), ["eth1", "br0", "tun0"].map(Box::from));
        assert_eq!(names(Some(&["eth0".into()]), &[]), ["eth0"].map(Box::from));
        // what has them keeps them, unless it has become a port of something else
        assert_eq!(names(None, &[2, 6]), ["eth1", "br0", "tun0", "unused"].map(Box::from));
    }
}
