//! relayd that dies, comes back and changes its rules, while clients of both families are carried to backends of both.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use harness::traffic::{Client, Server, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, Load, World, eventually};
use nix::sys::signal::Signal;

use crate::lifecycle::kill_start_stop_start;

/// A rule to a backend of each family.
const RULES: &str = "[[rule]]\nname = \"four\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n\
                     [[rule]]\nname = \"six\"\nlisten = \":8081\"\nto = \"[2001:db8:2::2]:81\"\n";

fn servers(world: &World) -> [Server; 4] {
    let backend = &world.backend;
    [tcp_server(backend, 80), udp_server(backend, 80), tcp_server(backend, 81), udp_server(backend, 81)]
}

/// Of every pair of families but IPv4 alone.
fn pairs() -> [SocketAddr; 3] {
    [(IpAddr::from(RELAY_V6), 8080), (RELAY.into(), 8081), (RELAY_V6.into(), 8081)].map(SocketAddr::from)
}

fn load(world: &World) -> Load {
    pairs().into_iter().fold(Load::new(), |load, to| {
        load.with_connections(&world.client, to, 4)
            .with_newcomers(&world.client, to)
            .with_datagrams(&world.client, to)
    })
}

fn no_drops(daemon: &Daemon) {
    for rule in ["four", "six"] {
        let rule = daemon.ctl.rule(rule);
        assert_eq!(rule["counters"]["drops"], serde_json::json!({}), "{rule}");
    }
}

#[test]
fn killed_stopped_and_started_again_under_load() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    let _servers = servers(&world);
    let load = load(&world);
    kill_start_stop_start(&world, &mut daemon, &load, &["four", "six"]);
    for _ in 0..4 {
        daemon.kill();
        load.run_on(30);
        daemon.start_again(&world.relay);
        load.run_on(60);
    }
    load.finish();
    no_drops(&daemon);
    eventually("nothing is left but the datagrams'", || {
        ["four", "six"].map(|rule| daemon.ctl.counter(rule, "/flows/active")).iter().sum::<u64>() <= 3
    });
}

#[test]
fn reloads_under_load() {
    let world = World::new();
    let daemon = world.start(RULES);
    let _servers = servers(&world);
    let _new = (tcp_server(&world.backend, 82), udp_server(&world.backend, 82));
    let load = load(&world);
    for round in 0..10 {
        load.run_on(30);
        let text = fs::read_to_string(&daemon.config).expect("config");
        let more = format!(
            "[[rule]]\nname = \"more{round}\"\nlisten = {}\nto = \"[2001:db8:2::2]:9\"\n{text}",
            7000 + round
        );
        let changed = if round % 2 == 0 {
            more.replace("[2001:db8:2::2]:81", "[2001:db8:2::2]:82")
        } else {
            more.replace("[2001:db8:2::2]:82", "[2001:db8:2::2]:81")
        };
        fs::write(&daemon.config, changed).expect("config");
        daemon.signal(Signal::SIGHUP);
        eventually("it is read", || daemon.ctl.json(&["list"]).as_array().map(Vec::len) == Some(3 + round));
    }
    load.run_on(100);
    load.finish();
    no_drops(&daemon);
}

/// Whose backend moves to the other family, old connections stay where they are.
#[test]
fn backends_that_change_their_family() {
    let world = World::new();
    let daemon = world.start(RULES);
    let (old, new) = (tcp_server(&world.backend, 80), tcp_server(&world.backend, 83));
    let load = [RELAY.into(), RELAY_V6.into()].into_iter().fold(Load::new(), |load, listener: IpAddr| {
        load.with_connections(&world.client, (listener, 8080), 3)
    });
    load.run_on(50);
    daemon.ctl.ok(&["set", "four", "to=[2001:db8:2::2]:83"]);
    load.run_on(50);
    assert_eq!((old.count(), new.count()), (6, 0));
    for listener in [IpAddr::from(RELAY), RELAY_V6.into()] {
        let connected = Client::connect(&world.client, (listener, 8080)).and_then(Client::start_echo);
        connected.and_then(|mut client| client.echo(&text(5000))).expect("the new backend");
    }
    assert_eq!((old.count(), new.count()), (6, 2));
    load.finish();
    no_drops(&daemon);
}

#[test]
fn a_rule_that_is_gone_when_relayd_is_back_ends_its_flows() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    let _servers = servers(&world);
    let mut clients = pairs().map(|to| {
        let connected = Client::connect(&world.client, to).and_then(Client::start_echo);
        connected.and_then(|mut it| it.echo(&text(100)).map(|()| it)).expect("connect")
    });
    daemon.kill();
    let config = fs::read_to_string(&daemon.config).expect("config");
    let six = config.find("[[rule]]\nname = \"six\"").expect("the rule");
    fs::write(&daemon.config, &config[..six]).expect("config");
    daemon.start_again(&world.relay);
    for client in &mut clients[1..] {
        eventually("the flows of the rule have ended", || client.echo(&text(5)).is_err());
    }
    clients[0].echo(&text(100)).expect("the other rule's goes on");
    let refused = Client::connect(&world.client, pairs()[2]).expect_err("its rule is gone");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    Client::connect(&world.client, pairs()[0]).and_then(Client::seen_as).expect("the other one is there");
}
