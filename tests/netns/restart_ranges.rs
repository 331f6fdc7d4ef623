//! relayd restarted by a service manager that keeps its shared sockets: clients of wide ranges wait, too.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use harness::traffic::{Client, tcp_server, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, World, eventually};

use crate::ranges::{MIDDLE, RANGE, greeter, is_greeted, shared_pins};
use crate::restart::{is_refused, listeners, refuses_nobody, start, waits_for_the_next};

const FIRST: u16 = 2000;
/// Each protocol and family.
const GROUPS: usize = 4;

fn shared_names(daemon: &Daemon) -> usize {
    daemon.store().names().iter().filter(|name| name.starts_with("shared/")).count()
}

fn serves(world: &World) {
    for to in listeners(MIDDLE) {
        Client::connect(&world.client, to).and_then(|client| client.upload(10_000)).expect("served");
    }
}

#[test]
fn who_asks_a_range_while_relayd_is_away_waits_for_the_next_one() {
    let world = World::new();
    let ports = [FIRST, MIDDLE];
    let _servers = ports.map(|port| (tcp_server(&world.backend, port), udp_server(&world.backend, port)));
    let mut daemon = start(&world, RANGE);
    assert_eq!(shared_names(&daemon), GROUPS, "{:?}", daemon.store().names());
    let stored = daemon.store().len();
    for ending in [Daemon::stop, Daemon::kill, Daemon::kill] {
        waits_for_the_next(&world, &mut daemon, &ports.map(listeners).concat(), ending);
        assert_eq!(daemon.store().len(), stored, "the same sockets");
    }
    assert_eq!(daemon.ctl.rule("range")["state"], "active");
}

#[test]
fn not_one_client_of_a_range_is_refused_over_many_restarts() {
    let world = World::new();
    let (_tcp, _udp) = (tcp_server(&world.backend, MIDDLE), udp_server(&world.backend, MIDDLE));
    let mut daemon = start(&world, RANGE);
    refuses_nobody(&world, &mut daemon, &listeners(MIDDLE), &listeners(MIDDLE));
    serves(&world);
}

#[test]
fn a_program_of_the_relay_keeps_its_port_while_relayd_is_away() {
    let world = World::new();
    let _server = tcp_server(&world.backend, MIDDLE);
    let mut daemon = start(&world, RANGE);
    let (before, meanwhile) = (SocketAddr::from((RELAY, 5000)), SocketAddr::from((RELAY_V6, 5001)));
    let listen = |to: SocketAddr| world.relay.run(|| TcpListener::bind(to)).expect("bind");
    let old = listen(before);
    daemon.kill();
    let new = listen(meanwhile);
    for (listener, to) in [(old, before), (new, meanwhile)] {
        let own = greeter(listener.try_clone().expect("listener"));
        assert!(is_greeted(&world, to), "{to}: its first client is its own");
        own.join().expect("greeter");
        drop(listener);
    }
    daemon.start_again(&world.relay);
    serves(&world);
}

#[test]
fn a_range_that_is_no_longer_wanted_leaves_nothing() {
    let world = World::new();
    let _server = tcp_server(&world.backend, MIDDLE);
    let mut daemon = start(&world, RANGE);
    let config = fs::read_to_string(&daemon.config).expect("config");
    let bare = &config[..config.find("[[rule]]").expect("the rule")];
    let there = shared_pins(&world);
    assert!(there > 0);
    // while relayd is away: to another range, to none
    daemon.stop();
    fs::write(&daemon.config, config.replace("2000-61999", "30000-61999")).expect("config");
    daemon.start_again(&world.relay);
    serves(&world);
    is_refused(&world, (RELAY, FIRST));
    daemon.kill();
    is_refused(&world, (RELAY, FIRST));
    fs::write(&daemon.config, bare).expect("config");
    daemon.start_again(&world.relay);
    eventually("the store is empty", || daemon.store().is_empty());
    assert_eq!(shared_pins(&world), 0);
    is_refused(&world, (RELAY, MIDDLE));
    // while it runs
    fs::write(&daemon.config, &config).expect("config");
    daemon.ctl.ok(&["reload"]);
    eventually("stored again", || shared_names(&daemon) == GROUPS);
    assert_eq!(shared_pins(&world), there);
    serves(&world);
    daemon.ctl.ok(&["disable", "range"]);
    eventually("nothing is kept", || daemon.store().is_empty() && shared_pins(&world) == 0);
    daemon.ctl.ok(&["enable", "range"]);
    eventually("stored again", || shared_names(&daemon) == GROUPS);
    daemon.ctl.ok(&["down"]);
    eventually("the store is empty", || daemon.store().is_empty());
    assert_eq!(shared_pins(&world), 0);
    is_refused(&world, (RELAY, MIDDLE));
    daemon.ctl.ok(&["reload"]);
    serves(&world);
    daemon.kill();
    let waiting = Client::connect(&world.client, (RELAY_V6, MIDDLE)).expect("not refused");
    daemon.start_again(&world.relay);
    waiting.upload(10_000).expect("served");
}

#[test]
fn a_store_that_is_lost_or_too_small_leads_nobody_astray() {
    let world = World::new();
    let _server = tcp_server(&world.backend, MIDDLE);
    let mut daemon = start(&world, RANGE);
    let greets = || {
        let listener = world.relay.run(|| TcpListener::bind((RELAY_V6, 5000))).expect("bind");
        let own = greeter(listener);
        assert!(is_greeted(&world, (RELAY_V6, 5000).into()), "the relay's own");
        own.join().expect("greeter");
    };
    daemon.kill();
    daemon.store().clear();
    is_refused(&world, (RELAY, MIDDLE));
    greets();
    daemon.start_again(&world.relay);
    serves(&world);
    assert_eq!(shared_names(&daemon), GROUPS);
    daemon.stop();
    // not even one for each group
    daemon.set_env("FDSTORE", "3");
    daemon.store().clear();
    daemon.start_again(&world.relay);
    eventually("none is stored", || daemon.store().is_empty());
    assert_eq!(shared_pins(&world), 0);
    serves(&world);
    daemon.kill();
    is_refused(&world, (RELAY, MIDDLE));
    greets();
    daemon.start_again(&world.relay);
    serves(&world);
}
