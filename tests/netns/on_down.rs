//! `on_down`: what becomes of connections when their backend's address is the rule's no more.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};

use harness::dns::Says;
use harness::http::Http;
use harness::traffic::{Datagrams, udp_server_on};
use harness::world::{BACKEND, RELAY, RELAY_V6};
use harness::{Daemon, NetNs, World, within};
use serde_json::json;

use crate::answers::{LIMIT, NAMED, OTHER, QUICK, backend, echo, reach, reach_from, telling_server, world};

/// Clients and whom they ask. The kernel plane carries the first two, relayd the last, since it is the host itself.
fn ways(world: &World) -> [(&NetNs, IpAddr); 3] {
    [(&world.client, RELAY.into()), (&world.client, RELAY_V6.into()), (&world.relay, RELAY.into())]
}

const LOG: &str = "[log]\nconnections = true\n";
const RESET: &str = "on_down = \"reset\"\n";

/// How many the log says have ended of a rule.
fn ended(daemon: &mut Daemon, rule: &str, what: &str) -> u64 {
    let log = daemon.log();
    let told = log.lines().filter_map(|line| line.split_once(&format!("rule {rule}: "))?.1.split_once(' '));
    let told = told.filter(|(_, text)| text.starts_with(&format!("{what} ended: ")));
    told.map(|(count, _)| count.parse::<u64>().expect("a number")).sum()
}

/// Waits until the log has told of these.
fn await_ended(daemon: &mut Daemon, rule: &str, [flows, sessions]: [u64; 2]) {
    within(LIMIT, "the end is told", &mut || {
        [
            ended(daemon, rule, "of the kernel plane's flows"),
            ended(daemon, rule, "of the user plane's sessions"),
        ] == [flows, sessions]
    });
}

fn expect_reset(stream: &mut TcpStream) {
    // of a flow of the kernel plane the client only hears when it sends something
    let answer = stream.write_all(b"still there?").and_then(|()| stream.read(&mut [0; 12]));
    assert_eq!(answer.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
}

fn prove(client: &Datagrams) {
    client.echo(b"one").and_then(|()| client.echo(b"two")).expect("echo");
}

#[test]
fn connections_end_with_an_address_that_the_name_has_lost() {
    let (world, names) = world();
    telling_server(&world.backend, 80);
    let [before, after] = [BACKEND, OTHER].map(|address| udp_server_on(&world.backend, (address, 80)));
    names.holds_for(1);
    names.says("backend.test", Says::Address(BACKEND));
    let kept = NAMED.replace("named", "kept").replace("8080", "8081");
    let limit = "limit = { connections = 6 }\n";
    let config = [QUICK, LOG, NAMED, RESET, limit, &kept];
    let mut daemon = world.start(&config.concat());
    let ctl = daemon.ctl.clone();
    let mut connections = ways(&world).map(|(ns, to)| reach_from(ns, to, 8080).0);
    let mut staying = ways(&world).map(|(ns, to)| reach_from(ns, to, 8081).0);
    let clients = ways(&world).map(|(ns, to)| Datagrams::new(ns, (to, 8080)));
    clients.iter().for_each(prove);
    let mut events = Http::unix(&ctl.socket);
    events.send("GET", "/v1/events", b"");
    assert_eq!(events.head().status, 200);
    // neither a name without an answer nor one with more addresses ends anything
    names.says("backend.test", Says::NoSuchName);
    within(LIMIT, "the failure", &mut || backend(&ctl)["lookup"]["error"].is_string());
    names.says("backend.test", Says::Addresses(vec![OTHER.into(), BACKEND.into()]));
    within(LIMIT, "both", &mut || backend(&ctl)["addresses"] == json!(["203.0.113.2", "203.0.113.3"]));
    connections.iter_mut().chain(&mut staying).for_each(echo);
    clients.iter().for_each(prove);
    assert_eq!((before.count(), after.count()), (12, 0));
    names.says("backend.test", Says::Address(OTHER));
    await_ended(&mut daemon, "named", [4, 2]);
    connections.iter_mut().for_each(expect_reset);
    staying.iter_mut().for_each(echo);
    within(LIMIT, "they are counted no more", &mut || ctl.counter("named", "/flows/active") == 0);
    // there are six places again
    let mut new = ways(&world).map(|(ns, to)| reach_from(ns, to, 8080));
    clients.iter().for_each(prove);
    for (stream, reached) in &mut new {
        assert_eq!(*reached, OTHER);
        echo(stream);
    }
    assert_eq!((before.count(), after.count()), (12, 6));
    assert_eq!(ctl.rule("named")["counters"]["drops"], json!({}));
    assert_eq!(ended(&mut daemon, "kept", "of the kernel plane's flows"), 0);
    let told = loop {
        let line = events.line();
        if line.starts_with("data: ") && line.contains("rule.reset") {
            break line;
        }
    };
    assert!(
        told.contains("\"named\"") && told.contains("their backend's address is the rule's no more"),
        "{told}"
    );
    // each for itself, in its own time
    within(LIMIT, "all are logged", &mut || daemon.log().matches(": backend_gone after ").count() >= 6);
    let log = daemon.log();
    for client in connections.iter().map(|stream| stream.local_addr().expect("address")) {
        let line = format!("named: tcp {client} to 203.0.113.2:80: backend_gone after ");
        assert!(log.contains(&line), "{line}\n{log}");
    }
    assert_eq!(log.matches(": backend_gone after ").count(), 6, "{log}");
}

#[test]
fn connections_by_shared_sockets_end_too() {
    let (world, names) = world();
    telling_server(&world.backend, 2100);
    names.holds_for(1);
    names.says("backend.test", Says::Address(BACKEND));
    let wide = "[[rule]]\nname = \"wide\"\nlisten = \":2000-7999\"\nto = \"backend.test\"\n";
    let mut daemon = world.start(&[QUICK, wide, RESET].concat());
    let mut connections = ways(&world).map(|(ns, to)| reach_from(ns, to, 2100).0);
    names.says("backend.test", Says::Address(OTHER));
    await_ended(&mut daemon, "wide", [2, 1]);
    connections.iter_mut().for_each(expect_reset);
    for (ns, to) in ways(&world) {
        assert_eq!(reach_from(ns, to, 2100).1, OTHER);
    }
}

#[test]
fn connections_that_go_on_while_relayd_is_dead_end_when_it_is_back() {
    let (world, names) = world();
    telling_server(&world.backend, 80);
    names.says("backend.test", Says::Address(BACKEND));
    let mut daemon = world.start(&[NAMED, RESET].concat());
    let (mut connection, _) = reach(&world, RELAY, 8080);
    daemon.kill();
    echo(&mut connection);
    names.says("backend.test", Says::Address(OTHER));
    daemon.start_again(&world.relay);
    await_ended(&mut daemon, "named", [1, 0]);
    expect_reset(&mut connection);
    assert_eq!(reach(&world, RELAY, 8080).1, OTHER);
}

#[test]
fn a_backend_that_is_edited_away_is_gone_too() {
    let (world, _names) = world();
    telling_server(&world.backend, 80);
    let plain = NAMED.replace("backend.test", "203.0.113.2");
    let mut daemon = world.start(&plain);
    let ctl = daemon.ctl.clone();
    let mut connections = ways(&world).map(|(ns, to)| reach_from(ns, to, 8080).0);
    ctl.ok(&["set", "named", "on_down=reset"]);
    assert!(fs::read_to_string(&daemon.config).expect("config").contains("on_down = \"reset\""));
    assert_eq!(ctl.json(&["explain", "named"])["config"]["on_down"], "reset");
    ctl.ok(&["set", "named", "note=the same backend"]);
    connections.iter_mut().for_each(echo);
    ctl.ok(&["set", "named", "to=203.0.113.3:80"]);
    await_ended(&mut daemon, "named", [2, 1]);
    connections.iter_mut().for_each(expect_reset);
    ctl.ok(&["set", "named", "on_down="]);
    let mut connections = ways(&world).map(|(ns, to)| reach_from(ns, to, 8080).0);
    ctl.ok(&["set", "named", "to=203.0.113.2:80"]);
    for ((ns, to), stream) in ways(&world).into_iter().zip(&mut connections) {
        assert_eq!(reach_from(ns, to, 8080).1, BACKEND);
        echo(stream);
    }
}
