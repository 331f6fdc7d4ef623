//! Reading links, addresses and routes into a [`HostView`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
    RouteVia,
};
use netlink_packet_route::tc::TcAttribute;
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
    // a kernel without queues to choose from refuses the question
    for interface in paced(handle).await.unwrap_or_default() {
        if let Some(link) = view.links.get_mut(&interface) {
            link.paced = true;
        }
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        view.addresses.extend(address(&message));
    }
    let (v4, v6) = (RouteMessageBuilder::<Ipv4Addr>::new(), RouteMessageBuilder::<Ipv6Addr>::new());
    for question in [v4.build(), v6.build()] {
        let mut routes = handle.route().get(question).execute();
        while let Some(message) = routes.try_next().await? {
            add_routes(&message, &mut view);
        }
    }
    Ok(view)
}

/// Interfaces whose queue keeps packets until they are due: fq is all that they have, but for what holds it (mq) and for hooks.
async fn paced(handle: &Handle) -> Result<BTreeSet<u32>, rtnetlink::Error> {
    let (mut with, mut without) = (BTreeSet::new(), BTreeSet::new());
    let mut queues = handle.qdisc().get().execute();
    while let Some(message) = queues.try_next().await? {
        let interface = message.header.index.cast_unsigned();
        let kind = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        });
        match kind {
            Some("fq") => with.insert(interface),
            Some("mq" | "clsact" | "ingress") => false,
            _ => without.insert(interface),
        };
    }
    Ok(&with - &without)
}

fn link(message: &LinkMessage) -> Link {
    let header = &message.header;
    let kind = match header.link_layer_type {
        LinkLayerType::Ether => LinkKind::Ethernet,
        LinkLayerType::Loopback => LinkKind::Loopback,
        _ => LinkKind::Bare,
    };
    let up = header.flags.contains(LinkFlags::Up);
    let mut link = Link {
        index: header.index,
        name: "".into(),
        kind,
        up,
        mtu: 0,
        mtu_v6: u32::MAX,
        master: None,
        paced: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.as_str().into(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::AfSpecUnspec(families) => link.mtu_v6 = mtu_v6(families).unwrap_or(link.mtu_v6),
            LinkAttribute::Controller(master) => link.master = Some(*master),
            _ => {}
        }
    }
    link
}

/// `None`: the link has no IPv6.
fn mtu_v6(families: &[AfSpecUnspec]) -> Option<u32> {
    let of_v6 = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet6(of_v6) => Some(of_v6),
        _ => None,
    });
    of_v6?.iter().find_map(|fact| match fact {
        AfSpecInet6::DevConf(settings) => u32::try_from(settings.mtu6).ok(),
        _ => None,
    })
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
    let nowhere = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return,
    };
    // the host also lists what it has learned about single destinations
    if message.header.kind != RouteType::Unicast || is_learned(message) {
        return;
    }
    let facts = RouteFacts::of(message);
    let links = &view.links;
    let mtu = |interface: u32| {
        let link = links.get(&interface).map_or(0, |link| link.mtu_towards(nowhere));
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
        destination: facts.destination.unwrap_or(nowhere),
        prefix: message.header.destination_prefix_length,
        metric: facts.metric,
        hop,
    }));
}

const fn is_learned(message: &RouteMessage) -> bool {
    message.header.flags.contains(RouteFlags::Cloned)
}

/// The attributes of a route message that matter here.
pub(super) struct RouteFacts {
    pub table: u32,
    /// `None`: everywhere.
    pub destination: Option<IpAddr>,
    pub metric: u32,
    pub interface: Option<u32>,
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// The route's own MTU, if it has one that was not learned on the way.
    pub mtu: Option<u32>,
    /// Hops of a multipath route.
    pub paths: Vec<(u32, Option<IpAddr>)>,
}

impl RouteFacts {
    pub fn of(message: &RouteMessage) -> Self {
        let mut facts = Self {
            table: message.header.table.into(),
            destination: None,
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
                RouteAttribute::Destination(destination) => facts.destination = address_of(destination),
                RouteAttribute::Priority(metric) => facts.metric = *metric,
                RouteAttribute::Oif(interface) => facts.interface = Some(*interface),
                RouteAttribute::PrefSource(source) => facts.source = address_of(source),
                RouteAttribute::Metrics(metrics) => facts.mtu = mtu(metrics),
                RouteAttribute::CacheInfo(cache) => expires = cache.expires != 0,
                RouteAttribute::MultiPath(hops) => {
                    let alive = hops.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
                    facts.paths = alive.map(|hop| (hop.interface_index, gateway(&hop.attributes))).collect();
                }
                _ => {}
            }
        }
        facts.gateway = gateway(&message.attributes);
        // every answer about IPv4 is marked as learned; routes of router advertisements expire, with an MTU of their own
        if expires && is_learned(message) {
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

const fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => address_of(gateway),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteCacheInfo;

    use super::*;

    /// Routes of router advertisements expire, and keep their MTU; what was learned about a single destination expires, too.
    #[test]
    fn only_a_learned_mtu_is_not_the_routes_own() {
        let told = |flags, expires| {
            let mut message = RouteMessage::default();
            message.header.flags = flags;
            let mut words = [0u8; 32];
            words[8..12].copy_from_slice(&u32::to_ne_bytes(expires));
            let cache = RouteCacheInfo::parse(&words).expect("cache information");
            message.attributes =
                vec![RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]), RouteAttribute::CacheInfo(cache)];
            RouteFacts::of(&message).mtu
        };
        assert_eq!(told(RouteFlags::empty(), 0), Some(1400));
        assert_eq!(told(RouteFlags::empty(), 1800), Some(1400));
        // every answer about IPv4 is marked so
        assert_eq!(told(RouteFlags::Cloned, 0), Some(1400));
        assert_eq!(told(RouteFlags::Cloned, 600), None);
    }
}
