//! Ways back to clients, and which of them are kept where there are more than the kernel plane has room for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use super::{NextHop, Route};

/// A prefix as seen from an interface (0: from any). In order, what lies in a prefix follows it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientRoute {
    pub interface: u32,
    pub destination: IpAddr,
    pub prefix: u8,
}

impl ClientRoute {
    fn has(&self, other: &Self) -> bool {
        let differing = (bits(self.destination) ^ bits(other.destination)).leading_zeros();
        self.interface == other.interface
            && self.destination.is_ipv4() == other.destination.is_ipv4()
            && self.prefix <= other.prefix
            && differing >= u32::from(self.prefix)
    }
}

/// An address, its first bit first.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// How much there is room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub routes: usize,
    /// Different next hops.
    pub hops: usize,
}

/// Per interface that clients came in on (0: any), every prefix with its best hop.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientRoutes {
    pub hops: BTreeMap<ClientRoute, NextHop>,
    /// Routes that had no room. Their clients are answered by a wider one, if there is one.
    pub left_out: usize,
}

const MAIN_TABLE: u32 = 254;
const DEFAULT_TABLE: u32 = 253;

impl ClientRoutes {
    /// Replies leave by the interface that the client used, so a route counts for its own interface whatever table it
    /// stands in; only the general case follows the main table.
    pub fn of(routes: &[Route], room: Room) -> Self {
        let mut best: BTreeMap<ClientRoute, (&Route, (u8, u32))> = BTreeMap::new();
        for route in routes.iter().filter(|route| leads_beyond_its_link(route)) {
            let in_main = matches!(route.table, MAIN_TABLE | DEFAULT_TABLE);
            let rank = (u8::from(!in_main), route.metric);
            let general = in_main.then_some(0);
            for interface in general.into_iter().chain([route.hop.interface]) {
                let key = ClientRoute { interface, prefix: route.prefix, destination: route.destination };
                match best.get(&key) {
                    Some((_, known)) if *known <= rank => {}
                    _ => {
                        best.insert(key, (route, rank));
                    }
                }
            }
        }
        let hops = best.into_iter().map(|(key, (route, _))| (key, route.hop.clone())).collect();
        Self { hops, left_out: 0 }.within(room)
    }

    /// First what changes nothing is done, then what changes least.
    fn within(mut self, room: Room) -> Self {
        if !self.fits(room) {
            self.remove_implied();
        }
        if !self.fits(room) {
            self.add_defaults(room);
            self.remove_implied();
        }
        if !self.fits(room) {
            self.keep_the_most_important(room);
        }
        self
    }

    fn fits(&self, room: Room) -> bool {
        let different = || self.hops.values().collect::<HashSet<_>>().len();
        self.hops.len() <= room.routes && different() <= room.hops
    }

    /// Where very many routes stand without a default one, as routers of the Internet have them, the gateway that most of
    /// them lead to becomes it: clients without a route of their own are found there rather than nowhere.
    fn add_defaults(&mut self, room: Room) {
        let many = room.routes / 16;
        let mut groups: BTreeMap<ClientRoute, HashMap<&NextHop, usize>> = BTreeMap::new();
        for (route, hop) in self.hops.iter().filter(|(_, hop)| hop.gateway.is_some()) {
            *groups.entry(everything(route)).or_default().entry(hop).or_default() += 1;
        }
        let missing = groups.into_iter().filter(|(default, hops)| {
            !self.hops.contains_key(default) && hops.values().sum::<usize>() > many
        });
        // of two that are as frequent always the same
        let most = |hops: HashMap<&NextHop, usize>| {
            hops.into_iter().max_by_key(|&(hop, count)| (count, hop)).map(|(hop, _)| hop.clone())
        };
        let defaults: Vec<_> = missing.filter_map(|(default, hops)| Some((default, most(hops)?))).collect();
        self.hops.extend(defaults);
    }

    /// Removes routes that say the same as the next wider one.
    fn remove_implied(&mut self) {
        let mut around: Vec<(ClientRoute, NextHop)> = Vec::new();
        self.hops.retain(|route, hop| {
            while around.last().is_some_and(|(wide, _)| !wide.has(route)) {
                around.pop();
            }
            let implied = around.last().is_some_and(|(_, known)| known == hop);
            if !implied {
                around.push((*route, hop.clone()));
            }
            !implied
        });
    }

    /// Of either family by turns: default routes, then neighbours, whom nobody else leads to, then the widest.
    fn keep_the_most_important(&mut self, room: Room) {
        let wanted = std::mem::take(&mut self.hops);
        let before = wanted.len();
        let (mut ipv4, mut ipv6): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|(route, _)| route.destination.is_ipv4());
        for family in [&mut ipv4, &mut ipv6] {
            family.sort_by_key(|(route, hop)| (route.prefix != 0, hop.gateway.is_some(), route.prefix));
        }
        let mut turns: Vec<_> = ipv4.into_iter().enumerate().chain(ipv6.into_iter().enumerate()).collect();
        turns.sort_by_key(|(turn, _)| *turn);
        let mut different = HashSet::new();
        for (_, (route, hop)) in turns {
            if self.hops.len() == room.routes {
                break;
            }
            if different.contains(&hop) || different.len() < room.hops {
                different.insert(hop.clone());
                self.hops.insert(route, hop);
            }
        }
        self.left_out = before - self.hops.len();
    }
}

/// Clients on the link alone are not carried in the kernel, and nobody sends from a group's address.
fn leads_beyond_its_link(route: &Route) -> bool {
    match route.destination {
        IpAddr::V4(_) => true,
        IpAddr::V6(destination) => !destination.is_unicast_link_local() && !destination.is_multicast(),
    }
}

/// The default route where another one stands.
fn everything(route: &ClientRoute) -> ClientRoute {
    let nowhere = match route.destination {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    ClientRoute { destination: nowhere, prefix: 0, ..*route }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PLENTY: Room = Room { routes: 100, hops: 10 };

    fn route(table: u32, to: &str, interface: u32, metric: u32) -> Route {
        let (destination, prefix) = to.split_once('/').expect("a prefix");
        let gateway = Some(Ipv4Addr::new(10, 0, 0, interface as u8).into());
        Route {
            table,
            destination: destination.parse().expect("an address"),
            prefix: prefix.parse().expect("a length"),
            metric,
            hop: NextHop { interface, gateway, mtu: 1500 },
        }
    }

    /// A way without a router.
    fn neighbours(to: &str, interface: u32) -> Route {
        let route = route(254, to, interface, 0);
        Route { hop: NextHop { gateway: None, ..route.hop }, ..route }
    }

    /// The interface that answers to a client leave by.
    fn way(routes: &ClientRoutes, from: u32, client: &str) -> Option<u32> {
        let client = |interface| ClientRoute {
            interface,
            destination: client.parse().expect("an address"),
            prefix: if client.contains(':') { 128 } else { 32 },
        };
        let at = |interface| {
            let having = routes.hops.iter().filter(|(route, _)| route.has(&client(interface)));
            having.max_by_key(|(route, _)| route.prefix).map(|(_, hop)| hop.interface)
        };
        at(from).or_else(|| at(0))
    }

    #[test]
    fn replies_leave_by_the_uplink_that_the_client_used() {
        let routes =
            ClientRoutes::of(&[route(254, "0.0.0.0/0", 2, 100), route(100, "0.0.0.0/0", 3, 0)], PLENTY);
        assert_eq!(routes.hops.len(), 3);
        for (from, leaves) in [(2, 2), (3, 3), (4, 2)] {
            assert_eq!(way(&routes, from, "198.51.100.2"), Some(leaves), "{from}");
        }
    }

    #[test]
    fn the_lowest_metric_wins() {
        let routes =
            ClientRoutes::of(&[route(254, "0.0.0.0/0", 2, 200), route(254, "0.0.0.0/0", 3, 100)], PLENTY);
        assert_eq!(way(&routes, 0, "198.51.100.2"), Some(3));
    }

    #[test]
    fn what_is_of_one_link_leads_to_no_client() {
        let routes = [neighbours("fe80::/64", 2), neighbours("ff00::/8", 2), neighbours("2001:db8::/64", 2)];
        assert_eq!(ClientRoutes::of(&routes, PLENTY).hops.len(), 2);
    }

    /// A route that says what the next wider one says is not missed; one that says otherwise is kept, and so is what lies in it.
    #[test]
    fn routes_that_say_the_same_go_first() {
        let routes = [
            route(254, "::/0", 2, 0),
            route(254, "2001:db8::/32", 2, 0),
            route(254, "2001:db8:1::/48", 3, 0),
            route(254, "2001:db8:1:1::/64", 3, 0),
            route(254, "2001:db8:1:2::/64", 2, 0),
            route(254, "2001:db8:2::/48", 2, 0),
        ];
        let whole = ClientRoutes::of(&routes, PLENTY);
        let tight = ClientRoutes::of(&routes, Room { routes: 10, ..PLENTY });
        assert_eq!((whole.hops.len(), tight.hops.len(), tight.left_out), (12, 5, 0));
        for from in 0..4 {
            for client in
                ["2001:db9::1", "2001:db8::1", "2001:db8:1::1", "2001:db8:1:1::1", "2001:db8:1:2::1"]
            {
                assert_eq!(way(&tight, from, client), way(&whole, from, client), "{client} from {from}");
            }
        }
    }

    #[test]
    fn the_most_important_are_kept() {
        let mut routes: Vec<Route> = (0..40u8)
            .map(|net| route(254, &format!("2001:db8:{net:x}::/48"), 2 + u32::from(net % 3), 0))
            .chain((0..40u8).map(|net| route(254, &format!("198.18.{net}.0/24"), 2 + u32::from(net % 3), 0)))
            .collect();
        routes.push(route(254, "0.0.0.0/0", 9, 0));
        routes.push(neighbours("192.0.2.0/24", 8));
        routes.push(neighbours("2001:db8:8888::/64", 8));
        let room = Room { routes: 32, hops: 10 };
        let kept = ClientRoutes::of(&routes, room);
        assert_eq!(kept.hops.len(), 32);
        assert!(kept.left_out > 0, "{kept:?}");
        assert_eq!(way(&kept, 0, "203.0.113.1"), Some(9), "the default route");
        assert_eq!(way(&kept, 8, "192.0.2.7"), Some(8), "a neighbour");
        assert_eq!(way(&kept, 8, "2001:db8:8888::7"), Some(8), "a neighbour");
        let found = way(&kept, 0, "2001:db8:ffff::1");
        assert!(found.is_some_and(|found| found < 5), "one of the gateways of most routes: {found:?}");
        let families = [true, false]
            .map(|is_ipv4| kept.hops.keys().filter(|route| route.destination.is_ipv4() == is_ipv4).count());
        assert!(families.iter().all(|&count| count >= 10), "{families:?}");
    }

    #[test]
    fn next_hops_have_limits_too() {
        let mut routes: Vec<Route> =
            (2..50u8).map(|number| neighbours(&format!("198.18.{number}.0/24"), number.into())).collect();
        routes.push(route(254, "0.0.0.0/0", 99, 0));
        let kept = ClientRoutes::of(&routes, Room { routes: 1000, hops: 8 });
        let different: HashSet<_> = kept.hops.values().collect();
        assert_eq!(different.len(), 8);
        assert_eq!(way(&kept, 0, "203.0.113.1"), Some(99), "the default route");
    }
}
