//! A program that listens inside a wide range keeps its port, and the range the others, whatever happens to either.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use harness::traffic::{Client, tcp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, World, eventually, within};

use crate::ranges::{MIDDLE, RANGE, greeter, is_greeted};

/// A program's port.
const OWN: u16 = 5000;
const LATE: &str = "[[rule]]\nname = \"late\"\nlisten = \"192.0.2.7:80\"\nto = \"203.0.113.2:80\"\n";

fn program(world: &World, address: impl Into<IpAddr>, port: u16) -> TcpListener {
    let to = SocketAddr::from((address.into(), port));
    world.relay.run(|| TcpListener::bind(to)).expect("bind")
}

/// A program's clients come to it.
fn keeps(world: &World, own: &TcpListener) {
    let greets = greeter(own.try_clone().expect("clone"));
    assert!(is_greeted(world, own.local_addr().expect("address")), "{own:?} was robbed");
    greets.join().expect("greeter");
}

/// The program keeps its port and the rule all others.
fn both_work(world: &World, daemon: &Daemon, own: &[TcpListener]) {
    let rule = daemon.ctl.rule("range");
    assert_eq!((&rule["state"], &rule["faults"][0]), (&"active".into(), &serde_json::Value::Null), "{rule}");
    for own in own {
        keeps(world, own);
    }
    for address in [IpAddr::from(RELAY), RELAY_V6.into()] {
        Client::connect(&world.client, (address, MIDDLE)).and_then(Client::seen_as).expect("another port");
    }
}

#[test]
fn a_range_lives_on_beside_a_program() {
    let world = World::new();
    let on_addresses = format!("[\"{RELAY}:2000-61999\", \"[{RELAY_V6}]:2000-61999\"]");
    let _server = tcp_server(&world.backend, MIDDLE);
    for (listen, plane) in [("\":2000-61999\"", "auto"), (&*on_addresses, "user")] {
        let rules = RANGE.replace("\":2000-61999\"", listen).replace("\"user\"", &format!("\"{plane}\""));
        let mut daemon = world.start(&[&rules, LATE].concat());
        let own = [program(&world, RELAY, OWN), program(&world, RELAY_V6, OWN)];
        both_work(&world, &daemon, &own);
        daemon.ctl.ok(&["set", "range", "note=edited"]);
        both_work(&world, &daemon, &own);
        daemon.ctl.ok(&["set", "range", "note=edited again", "--dry-run"]);
        world.relay.add_address("uplink", [192, 0, 2, 7], 32);
        eventually("the network is followed", || daemon.ctl.rule("late")["state"] == "active");
        both_work(&world, &daemon, &own);
        daemon.kill();
        daemon.start_again(&world.relay);
        both_work(&world, &daemon, &own);
        daemon.ctl.ok(&["reload"]);
        both_work(&world, &daemon, &own);
        drop(daemon);
        world.relay.delete_address("uplink", [192, 0, 2, 7]);
    }
}

#[test]
fn a_range_that_grows_takes_nobodys_port() {
    let world = World::new();
    let _server = tcp_server(&world.backend, MIDDLE);
    let mut daemon = world.start(&[RANGE, LATE].concat());
    let own = [program(&world, RELAY, OWN)];
    let _outside = program(&world, RELAY, 1500);
    for options in [&[][..], &["--dry-run"]] {
        let said = daemon.ctl.fails(1, &[&["set", "range", "listen=:1000-61999"], options].concat());
        assert!(said.contains("port 1500/tcp is in use by"), "{said}");
        both_work(&world, &daemon, &own);
    }
    world.relay.add_address("uplink", [192, 0, 2, 7], 32);
    eventually("the network is followed", || daemon.ctl.rule("late")["state"] == "active");
    both_work(&world, &daemon, &own);
    daemon.ctl.ok(&["set", "range", "listen=:1501-61999"]);
    let file = fs::read_to_string(&daemon.config).expect("config");
    fs::write(&daemon.config, file.replace(":1501-61999", ":1000-61999")).expect("config");
    assert_eq!(daemon.ctl.run(&["reload"]).code, 5, "a file is taken as it is");
    fs::write(&daemon.config, file).expect("config");
    daemon.ctl.ok(&["reload"]);
    both_work(&world, &daemon, &own);
    daemon.kill();
    daemon.start_again(&world.relay);
    both_work(&world, &daemon, &own);
    let said = daemon.ctl.fails(1, &["add", "400-1500", "203.0.113.2"]);
    assert!(said.contains("port 1500/tcp is in use by"), "a new rule: {said}");
}

#[test]
fn a_list_that_cannot_be_read_takes_nothing_from_anybody() {
    let world = World::new();
    let mut daemon = world.start_limited(256, RANGE);
    let own = program(&world, RELAY, OWN);
    keeps(&world, &own);
    let connect = || UnixStream::connect(&daemon.ctl.socket).expect("connect");
    let crowd: Vec<UnixStream> = (0..300).map(|_| connect()).collect();
    // longer than a port is left to somebody who is not on the list
    let unread = "programs that begin to listen are not noticed";
    within(Duration::from_secs(40), "relayd looks in vain", &mut || {
        daemon.log().matches(unread).count() >= 5
    });
    keeps(&world, &own);
    drop(crowd);
}

#[test]
fn many_ports_bound_for_a_moment_hide_nobody() {
    let world = World::new();
    let mut daemon = world.start(RANGE);
    // more than relayd can take note of
    world.relay.run(|| {
        for index in 0..70_000_u32 {
            let [_, high, middle, low] = index.to_be_bytes();
            let _closed = UdpSocket::bind((Ipv4Addr::new(127, high, middle, low), 6000)).expect("bind");
        }
    });
    let own = program(&world, RELAY, OWN);
    within(Duration::from_secs(40), "it is noticed when there is room", &mut || {
        daemon.log().contains("leaves port 5000/tcp to")
    });
    drop(own);
}
