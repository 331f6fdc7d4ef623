//! Who gets a new flow while all backends are there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use std::time::Duration;

use harness::farm::{Caller, Farm, PORT, Visit, address};
use harness::world::{CLIENT, CLIENT_V6};
use harness::{Ctl, NetNs, World};

use super::{on_both_planes, planes, to, to_with, visit, ways_in};

/// How many of the flows each of three backends has got.
fn shares(hosts: impl Iterator<Item = usize>) -> [usize; 3] {
    let mut shares = [0; 3];
    hosts.for_each(|host| shares[host] += 1);
    shares
}

/// The client's addresses besides its own, of one family.
fn more_addresses(client: &NetNs, is_v6: bool) -> Vec<IpAddr> {
    let address = |last: u8| -> IpAddr {
        if is_v6 {
            Ipv6Addr::from_bits(CLIENT_V6.to_bits() + u128::from(last)).into()
        } else {
            Ipv4Addr::from_bits(CLIENT.to_bits() + u32::from(last)).into()
        }
    };
    let addresses: Vec<IpAddr> = (20..32).map(address).collect();
    for &address in &addresses {
        client.add_address("client", address, if is_v6 { 64 } else { 24 });
    }
    addresses
}

#[test]
fn new_flows_go_as_the_rule_says() {
    let world = World::new();
    let _farm = Farm::new(&world.backend, 3);
    let daemon = world.start(&[by_weight(), ranges(), for_nobody()].concat());
    go_by_weight(&world, &daemon.ctl);
    go_by_range(&world);
    go_nowhere(&world, &daemon.ctl);
}

fn by_weight() -> String {
    let weights = to_with(&[(0, "weight = 4"), (1, "weight = 2"), (2, "weight = 1")]);
    let without = to_with(&[(0, "weight = 0"), (1, "weight = 1"), (2, "weight = 1")]);
    let config = [
        on_both_planes("turns", 8001, &weights, ""),
        on_both_planes("realm", 8002, &to(&[0, 1, 2]), "balance = \"roundrobin: 4, 2, 1\""),
        on_both_planes("first", 8003, &to(&[1, 0, 2]), "balance = \"first\""),
        on_both_planes("without", 8004, &without, ""),
    ];
    config.concat()
}

/// Turns by weight, the first, and none for who has no weight.
fn go_by_weight(world: &World, ctl: &Ctl) {
    for (name, port, flows, shares_meant) in [
        ("turns", 8001, 70, [40, 20, 10]),
        ("realm", 8002, 14, [8, 4, 2]),
        ("first", 8003, 6, [0, 6, 0]),
        ("without", 8004, 12, [0, 6, 6]),
    ] {
        for (rule, port) in planes(name).iter().zip([port, port + 1000]) {
            let ways = ways_in(port);
            let to = |turn: usize| ways[turn % 2];
            let pay = |turn| Visit::pay(&world.client, None, to(turn)).expect("a connection").host;
            assert_eq!(shares((0..flows).map(pay)), shares_meant, "{rule}, TCP");
            let ask = |turn| Caller::new(&world.client, None, to(turn)).ask().expect("an answer");
            let asked = shares((0..flows).map(ask));
            // a datagram that is lost has had its turn
            let strays = asked.iter().zip(shares_meant).map(|(asked, meant)| asked.abs_diff(meant)).max();
            assert!(strays <= Some(2), "{rule}, UDP: {asked:?}");
            let planes = &ctl.rule(rule)["plane"];
            let expected = if rule == name { "kernel" } else { "user" };
            assert_eq!([&planes["ipv4"]["plane"], &planes["ipv6"]["plane"]], [expected; 2], "{rule}");
        }
    }
}

#[test]
fn a_clients_address_leads_to_one_backend_the_same_on_both_planes() {
    let world = World::new();
    let _farm = Farm::new(&world.backend, 3);
    let hash = "balance = \"iphash\"";
    let mut daemon = world.start(&on_both_planes("hash", 8001, &to(&[0, 1, 2]), hash));
    let mut chosen = Vec::new();
    let mut clients = Vec::new();
    for (family, is_v6) in [(0, false), (1, true)] {
        let addresses = more_addresses(&world.client, is_v6);
        clients.extend(addresses.into_iter().map(|address| (address, family)));
    }
    let go = |client: IpAddr, family: usize, port: u16| {
        let to = ways_in(port)[family];
        let visit = Visit::pay(&world.client, Some(client), to).expect("a connection");
        let answer = Caller::new(&world.client, Some(client), to).ask().expect("an answer");
        assert_eq!(visit.host, answer, "{client}: TCP and UDP");
        visit.host
    };
    for &(client, family) in &clients {
        let host = go(client, family, 8001);
        assert_eq!(go(client, family, 8001), host, "{client}: again");
        assert_eq!(go(client, family, 9001), host, "{client}: the user plane");
        chosen.push(host);
    }
    let shares = shares(chosen.iter().copied());
    assert!(shares.iter().all(|&share| share > 0), "{shares:?}");
    // it is the same in another life, and with another backend's weight taken away
    daemon.stop();
    daemon.start_again(&world.relay);
    for rule in planes("hash") {
        daemon.ctl.ok(&["backend", &rule, &harness::farm::name(2), "--weight", "0"]);
    }
    for (&(client, family), &host) in clients.iter().zip(&chosen).filter(|(_, host)| **host != 2) {
        assert_eq!([go(client, family, 8001), go(client, family, 9001)], [host; 2], "{client}: later");
    }
}

#[test]
fn the_fewest_flows_go_by_weight() {
    let world = World::new();
    let _farm = Farm::new(&world.backend, 3);
    let weights = to_with(&[(0, "weight = 2"), (1, "weight = 1"), (2, "weight = 1")]);
    let least = "balance = \"leastconn\"";
    let config = [
        on_both_planes("even", 8001, &to(&[0, 1, 2]), least),
        on_both_planes("uneven", 8002, &weights, least),
    ];
    let daemon = world.start(&config.concat());
    for (name, port, meant) in [("even", 8001, [4, 4, 4]), ("uneven", 8002, [6, 3, 3])] {
        for (rule, port) in planes(name).iter().zip([port, port + 1000]) {
            let connect = || {
                let mut visit = visit(&world, port);
                visit.echo().expect("an echo");
                visit
            };
            let mut kept: Vec<Visit> = (0..12).map(|_| connect()).collect();
            assert_eq!(shares(kept.iter().map(|visit| visit.host)), meant, "{rule}, TCP");
            let shown = daemon.ctl.rule(rule);
            for (index, meant) in meant.into_iter().enumerate() {
                assert_eq!(shown["to"][index]["flows"]["active"], meant, "{rule}: {shown}");
            }
            // who has lost its flows is next
            let before = kept.len();
            kept.retain(|visit| visit.host != 1);
            let gone = before - kept.len();
            let left = (before - gone) as u64;
            harness::eventually("their end is noticed", || daemon.ctl.counter(rule, "/flows/active") == left);
            let new: Vec<Visit> = (0..gone).map(|_| connect()).collect();
            assert_eq!(new.iter().map(|visit| visit.host).collect::<Vec<_>>(), vec![1; gone], "{rule}");
            let callers: Vec<Caller> =
                (0..12).map(|_| Caller::new(&world.client, None, ways_in(port)[1])).collect();
            let answers = callers.iter().map(|caller| caller.settle().expect("an answer"));
            assert_eq!(shares(answers), meant, "{rule}, UDP");
        }
    }
}

fn ranges() -> String {
    // the second port of the range is where one of them listens, the first port where the other does
    let to = format!("\"{}:{}\", \"{}:{PORT}\"", address(0), PORT - 1, address(1));
    let more = "check = { kind = \"passive\", fall = 100 }";
    let by_user = [more, "\nplane = \"user\"\n"].concat();
    let ranges = [("range", "8011-8012", more), ("range-user", "9011-9012", &by_user)];
    let config = ranges
        .map(|(name, ports, more)| super::rule(name, 1, &to, more).replace(":1\"", &format!(":{ports}\"")));
    config.concat()
}

/// A port of a range leads to another port of each backend.
fn go_by_range(world: &World) {
    for (port, host) in [(8011, 1), (8012, 0)] {
        let outcomes = || (0..6).map(|turn| Visit::pay(&world.client, None, ways_in(port)[turn % 2]));
        let reached: Vec<usize> = outcomes().filter_map(|outcome| Some(outcome.ok()?.host)).collect();
        assert_eq!(reached, [host; 3], "half of them are refused");
        // relayd goes on to the one that listens
        let by_user = || (0..6).map(|_| visit(world, port + 1000).host);
        assert_eq!(by_user().collect::<Vec<_>>(), [host; 6], "the user plane");
    }
}

fn for_nobody() -> String {
    on_both_planes("nobody", 8006, &to_with(&[(0, "weight = 0"), (1, "weight = 0")]), "")
}

/// Who may go to nobody is refused, until there is somebody.
fn go_nowhere(world: &World, ctl: &Ctl) {
    for (rule, port) in planes("nobody").iter().zip([8006, 9006]) {
        for to in ways_in(port) {
            let answer = Visit::pay_within(&world.client, None, to, Duration::from_millis(200));
            assert!(answer.is_err(), "{rule}: {answer:?}");
            let caller = Caller::new(&world.client, None, to);
            caller.0.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
            assert!(caller.ask().is_err(), "{rule}");
        }
        assert!(ctl.counter(rule, "/drops/no_backend") >= 4, "{}", ctl.rule(rule));
        ctl.ok(&["backend", rule, &harness::farm::name(1), "--weight", "3"]);
        assert_eq!(shares((0..4).map(|_| visit(world, port).host)), [0, 4, 0], "{rule}");
        assert_eq!(shares((0..4).map(|_| super::ask(world, port))), [0, 4, 0], "{rule}");
    }
}
