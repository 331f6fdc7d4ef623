//! Reading links, addresses and routes into a [`HostView`].

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType, RouteVia,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::host::{HostAddress, HostView, Link, LinkKind, NextHop, Route};

/// The host as it is now.
pub async fn read(handle: &Handle) -> Result<HostView, rtnetlink::Error> {
    let mut view = HostView::default();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await? {
        let link = link(&message);
        view.links.insert(link.index, link);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        view.addresses.extend(address(&message));
    }
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    while let Some(message) = routes.try_next().await? {
        add_routes(&message, &mut view);
    }
    Ok(view)
}

fn link(message: &LinkMessage) -> Link {
    let header = &message.header;
    let kind = match header.link_layer_type {
        LinkLayerType::Ether => LinkKind::Ethernet,
        LinkLayerType::Loopback => LinkKind::Loopback,
        _ => LinkKind::Bare,
    };
    let up = header.flags.contains(LinkFlags::Up);
    let mut link = Link { index: header.index, name: "".into(), kind, up, mtu: 0, master: None };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.as_str().into(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(*master),
            _ => {}
        }
    }
    link
}

fn address(message: &AddressMessage) -> Option<HostAddress> {
    // on a point-to-point link "address" is the other end, and "local" ours
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(own(*local, message)),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found.map(|address| own(address, message))
}

fn own(address: IpAddr, message: &AddressMessage) -> HostAddress {
    HostAddress { address, interface: message.header.index }
}

fn add_routes(message: &RouteMessage, view: &mut HostView) {
    if message.header.address_family != AddressFamily::Inet || message.header.kind != RouteType::Unicast {
        return;
    }
    let facts = RouteFacts::of(message);
    let links = &view.links;
    let mtu = |interface: u32| {
        let link = links.get(&interface).map_or(0, |link| link.mtu);
        facts.mtu.map_or(link, |mtu| mtu.min(link))
    };
    let mut hops = Vec::new();
    if let Some(interface) = facts.interface {
        hops.push(NextHop { interface, gateway: facts.gateway, mtu: mtu(interface) });
    }
    for (interface, gateway) in facts.paths {
        hops.push(NextHop { interface, gateway, mtu: mtu(interface) });
    }
    view.routes.extend(hops.into_iter().map(|hop| Route {
        table: facts.table,
        destination: facts.destination,
        prefix: message.header.destination_prefix_length,
        metric: facts.metric,
        hop,
    }));
}

/// The attributes of a route message that matter here.
pub(super) struct RouteFacts {
    pub table: u32,
    pub destination: Ipv4Addr,
    pub metric: u32,
    pub interface: Option<u32>,
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<Ipv4Addr>,
    /// The route's own MTU, if it has one that does not expire.
    pub mtu: Option<u32>,
    /// Hops of a multipath route.
    pub paths: Vec<(u32, Option<IpAddr>)>,
}

impl RouteFacts {
    pub fn of(message: &RouteMessage) -> Self {
        let mut facts = Self {
            table: message.header.table.into(),
            destination: Ipv4Addr::UNSPECIFIED,
            metric: 0,
            interface: None,
            gateway: None,
            source: None,
            mtu: None,
            paths: Vec::new(),
        };
        let mut expires = false;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(table) => facts.table = *table,
                RouteAttribute::Destination(RouteAddress::Inet(address)) => facts.destination = *address,
                RouteAttribute::Priority(metric) => facts.metric = *metric,
                RouteAttribute::Oif(interface) => facts.interface = Some(*interface),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => facts.source = Some(*address),
                RouteAttribute::Metrics(metrics) => facts.mtu = mtu(metrics),
                // a path MTU that the host has learned for itself
                RouteAttribute::CacheInfo(cache) => expires = cache.expires != 0,
                RouteAttribute::MultiPath(hops) => {
                    let alive = hops.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
                    facts.paths = alive.map(|hop| (hop.interface_index, gateway(&hop.attributes))).collect();
                }
                _ => {}
            }
        }
        facts.gateway = gateway(&message.attributes);
        if expires {
            facts.mtu = None;
        }
        facts
    }
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    })
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}
