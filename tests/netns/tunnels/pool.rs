//! Tunnels that are held open for clients to come (`connect.pool`).

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use harness::traffic::tcp_server;
use harness::{Ctl, within};

use super::hop::Hop;
use super::{
    LIMIT, TRANSPORTS, carries, dial, enter, entries, exits, is_clean, kaminari, own, ports, rule, start,
    world,
};

const POOL: &str = "pool = 3";

/// How many tunnels of a rule wait, and how many clients got one and did not.
fn pool(ctl: &Ctl, rule: &str) -> (u64, u64, u64) {
    let pool = &ctl.rule(rule)["to"][0]["pool"];
    let number = |key: &str| pool[key].as_u64().unwrap_or_else(|| panic!("{rule}: {pool}"));
    (number("open"), number("taken"), number("missed"))
}

fn holds(ctl: &Ctl, rule: &str, count: u64) {
    let mut last = (0, 0, 0);
    within(LIMIT, &format!("{rule} holds {count}"), &mut || {
        last = pool(ctl, rule);
        last.0 == count
    });
}

/// One is there from the start; clients get it, and then there are as many as there may be.
#[test]
fn clients_get_tunnels_that_wait() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &[entries(POOL, ""), exits("", "")].concat());
    for transport in TRANSPORTS {
        let rule = format!("in-{transport}");
        holds(&daemon.ctl, &rule, 1);
        enter(&world, transport).upload(100_000).unwrap_or_else(|error| panic!("{transport}: {error}"));
        holds(&daemon.ctl, &rule, 3);
        assert_eq!(pool(&daemon.ctl, &rule), (3, 1, 0));
        assert_eq!(daemon.ctl.counter(&rule, "/flows/total"), 1, "those that wait are no flows");
        carries(transport, &|| enter(&world, transport));
        is_clean(&daemon.ctl, &rule);
        let (_, taken, missed) = pool(&daemon.ctl, &rule);
        assert_eq!(taken + missed, 12);
        let shown = daemon.ctl.ok(&["show", &rule]);
        assert!(shown.contains(&format!("clients got one, {missed} did not")), "{shown}");
    }
    // what nobody wants any more
    daemon.ctl.ok(&["set", "in-ws", "connect.pool=0"]);
    daemon.ctl.ok(&["disable", "in-tls"]);
    daemon.ctl.ok(&["rm", "in-wss"]);
    for transport in TRANSPORTS {
        within(LIMIT, "all of them have ended", &mut || {
            daemon.ctl.counter(&format!("out-{transport}"), "/flows/active") == 0
        });
    }
}

#[test]
fn kaminaris_at_the_other_end() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (daemon, _kaminaris) = kaminari::before_kaminari(&world, POOL, "");
    for transport in TRANSPORTS {
        let rule = format!("in-{transport}");
        holds(&daemon.ctl, &rule, 1);
        carries(transport, &|| enter(&world, transport));
        holds(&daemon.ctl, &rule, 3);
        enter(&world, transport).upload(100_000).unwrap_or_else(|error| panic!("{transport}: {error}"));
        is_clean(&daemon.ctl, &rule);
        assert!(pool(&daemon.ctl, &rule).1 >= 2, "{transport}");
    }
}

/// What a server says before there is a client is that client's first word.
#[test]
fn banners_of_tunnels_that_wait() {
    let (world, _authority) = world();
    kaminari::greet(&world, 80);
    let (daemon, _kaminaris) = kaminari::before_kaminari(&world, POOL, "");
    for transport in TRANSPORTS {
        holds(&daemon.ctl, &format!("in-{transport}"), 1);
        // it has come, and has been taken in
        thread::sleep(Duration::from_millis(1200));
        assert_eq!(kaminari::banners(&|| enter(&world, transport)), 300, "{transport}");
        is_clean(&daemon.ctl, &format!("in-{transport}"));
    }
}

/// Tunnels may end whenever the other end wants: no client gets one of those.
#[test]
fn ends_of_tunnels_that_wait_go_unnoticed() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &[entries(POOL, ""), exits("", "")].concat());
    for transport in TRANSPORTS {
        let (entry, exit) = (format!("in-{transport}"), format!("out-{transport}"));
        enter(&world, transport).upload(1000).expect("the first");
        for _ in 0..3 {
            holds(&daemon.ctl, &entry, 3);
            // it resets what it carries
            daemon.ctl.ok(&["disable", &exit]);
            daemon.ctl.ok(&["enable", &exit]);
            enter(&world, transport).upload(10_000).unwrap_or_else(|error| panic!("{transport}: {error}"));
        }
        is_clean(&daemon.ctl, &entry);
    }
    assert!(server.count() > 12);
}

/// A tunnel that has just been given to a client, and breaks off before anything was said, is replaced by another one.
#[test]
fn ends_of_tunnels_just_taken_go_unnoticed() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    for (index, transport) in TRANSPORTS.into_iter().enumerate() {
        let port = 444 + index as u16;
        let hop = Hop::start(&world.relay, port, ports(transport).1, Duration::ZERO, None);
        let rules = [rule("in", 80, &own(port), &super::connect(transport, "pool = 1")), exits("", "")];
        let daemon = start(&world, &rules.concat());
        for turn in 1..=2 {
            holds(&daemon.ctl, "in", 1);
            let client = dial(&world, 80);
            within(LIMIT, "it has one", &mut || pool(&daemon.ctl, "in").1 == turn);
            hop.cut();
            thread::sleep(Duration::from_millis(50));
            client.upload(10_000).unwrap_or_else(|error| panic!("{transport}, {turn}: {error}"));
            // until it is known that the one in its place has ended, too
            thread::sleep(Duration::from_millis(1500));
        }
        is_clean(&daemon.ctl, "in");
        assert_eq!(daemon.ctl.counter("in", "/flows/total"), 2);
    }
}

/// A host has gone while a tunnel to it waited, and nobody says so.
#[test]
fn hosts_that_have_gone_without_a_word() {
    const GONE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);
    const QUICK: &str = "balance = \"first\"\ncheck = \"passive\"\ntimeout = { connect = \"1s\" }\n";
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    world.backend.add_address("backend", GONE, 24);
    let mut rules = exits("", "");
    for (port, transport) in (8000..).zip(TRANSPORTS) {
        let exit = ports(transport).1;
        Hop::start(&world.backend, port, exit, Duration::ZERO, None);
        let to = format!("[\"{GONE}:{port}\", {}]", own(exit));
        let leg = [super::connect(transport, "pool = 1").as_str(), QUICK].concat();
        rules += &rule(&format!("in-{transport}"), port, &to, &leg);
    }
    let daemon = start(&world, &rules);
    TRANSPORTS.iter().for_each(|transport| holds(&daemon.ctl, &format!("in-{transport}"), 1));
    world.backend.delete_address("backend", GONE);
    for (port, transport) in (8000..).zip(TRANSPORTS) {
        let begun = Instant::now();
        dial(&world, port).upload(10_000).unwrap_or_else(|error| panic!("{transport}: {error}"));
        assert!(begun.elapsed() < Duration::from_secs(6), "{transport}: {:?}", begun.elapsed());
        assert_eq!(pool(&daemon.ctl, &format!("in-{transport}")).1, 1, "{transport}: it got one");
    }
}

/// With tunnels that wait a client's first byte takes one round trip, as if there was no tunnel.
#[test]
fn a_first_byte_takes_one_round_trip() {
    const ONE_WAY: Duration = Duration::from_millis(50);
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let mut rules = String::new();
    for (index, transport) in ["plain", "tls", "ws", "wss"].into_iter().enumerate() {
        let (port, hop, exit) = (8000 + index as u16, 8100 + index as u16, 8200 + index as u16);
        Hop::start(&world.relay, hop, exit, ONE_WAY, None);
        let legs = |more: &str| match transport {
            "plain" => [String::new(), String::new()],
            _ => [super::connect(transport, more), super::accept(transport, "")],
        };
        let [entry, out] = legs("pool = 4");
        rules += &rule(&format!("in-{transport}"), port, &own(hop), &entry);
        rules += &rule(&format!("cold-{transport}"), port + 10, &own(hop), &legs("")[0]);
        rules += &rule(&format!("out-{transport}"), exit, super::BACKEND, &out);
    }
    let daemon = start(&world, &rules);
    let median = |port: u16, transport: &str, warm: bool| {
        let mut times: Vec<Duration> = (0..5)
            .map(|_| {
                if warm {
                    within(LIMIT, "one waits", &mut || pool(&daemon.ctl, &format!("in-{transport}")).0 > 0);
                }
                let begun = Instant::now();
                let client =
                    dial(&world, port).start_echo().unwrap_or_else(|error| panic!("{transport}: {error}"));
                let taken = begun.elapsed();
                drop(client);
                taken
            })
            .collect();
        times.sort_unstable();
        times[2]
    };
    let plain = median(8000, "plain", false);
    for (port, transport) in (8001..).zip(TRANSPORTS) {
        let (cold, warm) = (median(port + 10, transport, false), median(port, transport, true));
        assert!(warm.as_secs_f64() <= 1.2 * plain.as_secs_f64(), "{transport}: {warm:?}, plain {plain:?}");
        assert!(cold.as_secs_f64() > 1.8 * plain.as_secs_f64(), "{transport}: {cold:?}, plain {plain:?}");
    }
}
