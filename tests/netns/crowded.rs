//! Hosts with more routes and addresses than the kernel plane has room for: what has none is told, and everything else goes on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use harness::netns::cable;
use harness::traffic::{Client, tcp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, World, eventually};
use rtnetlink::RouteMessageBuilder;

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";
const ROUTES: u32 = 20_000;
/// Two routers on another link than the client's.
const ROUTERS: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 2), Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 3)];

/// Networks of the Internet by turns to both routers, so that none says what another one does.
fn add_routes(world: &World) {
    cable((&world.client, "far"), (&world.relay, "aside"));
    world.relay.add_address("aside", Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1), 64);
    let index = world.relay.index("aside");
    world.relay.netlink(async move |handle| {
        for number in 0..ROUTES {
            let network = Ipv6Addr::from_bits(0x2400_u128 << 112 | u128::from(number) << 80);
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network, 48)
                .output_interface(index)
                .gateway(ROUTERS[number as usize % 2]);
            handle.route().add(route.build()).execute().await?;
        }
        Ok(())
    });
}

/// Tables that relayd calls full.
fn full(daemon: &Daemon) -> Vec<String> {
    let status = daemon.ctl.json(&["status"]);
    let full = status["kernel"]["full"].as_object().cloned().unwrap_or_default();
    full.into_iter().map(|(table, _)| table).collect()
}

fn is_served(world: &World, listener: impl Into<IpAddr>, port: u16) -> bool {
    Client::connect(&world.client, SocketAddr::new(listener.into(), port)).and_then(Client::seen_as).is_ok()
}

#[test]
fn a_routing_table_of_the_internet() {
    let world = World::new();
    add_routes(&world);
    let mut daemon = world.start(RULE);
    let _server = tcp_server(&world.backend, 80);
    assert_eq!(full(&daemon), ["ROUTES"]);
    assert!(daemon.ctl.ok(&["status"]).contains("routes to clients are left out"));
    assert!(is_served(&world, RELAY, 8080) && is_served(&world, RELAY_V6, 8080));
    // rules and the host change as ever
    daemon.ctl.ok(&["add", "8081", "203.0.113.2:80", "--name", "more"]);
    daemon.ctl.ok(&["set", "web", "note=busy"]);
    assert!(is_served(&world, RELAY_V6, 8081));
    let own = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x77);
    world.relay.add_address("uplink", own, 64);
    eventually("a new address is followed", || is_served(&world, own, 8080));
    world.relay.down("aside");
    eventually("there is room again", || full(&daemon).is_empty());
    assert!(is_served(&world, RELAY, 8080) && is_served(&world, RELAY_V6, 8081));
    let log = daemon.log();
    assert_eq!(log.matches("table ROUTES is full").count(), 1, "{log}");
    assert_eq!(log.matches("table ROUTES has room again").count(), 1, "{log}");
}

#[test]
fn very_many_addresses() {
    const ADDRESSES: u16 = 4_200;
    let world = World::new();
    let index = world.relay.index("lo");
    world.relay.netlink(async move |handle| {
        for number in 0..ADDRESSES {
            let ipv4 = Ipv4Addr::from_bits(0x0a00_0000 | u32::from(number));
            handle.address().add(index, ipv4.into(), 32).execute().await?;
            let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, number);
            handle.address().add(index, ipv6.into(), 128).execute().await?;
        }
        Ok(())
    });
    let daemon = world.start(RULE);
    let _server = tcp_server(&world.backend, 80);
    assert_eq!(full(&daemon), ["ADDRESSES"]);
    // the lowest ones have room, and these are among them only for IPv6
    assert!(is_served(&world, RELAY_V6, 8080));
    assert_eq!(daemon.ctl.counter("web", "/flows/total"), 1);
    assert!(is_served(&world, RELAY, 8080), "relayd serves who asks for another one");
    assert_eq!(daemon.ctl.counter("web", "/flows/total"), 2, "its sessions are counted too");
}
