//! relayd restarted by a service manager that keeps its shared sockets: clients of wide ranges wait, too.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, Ends, World, eventually};

use crate::ranges::{MIDDLE, RANGE, greeter, is_greeted, shared_pins};

const FIRST: u16 = 2000;
/// Each protocol and family.
const GROUPS: usize = 4;

fn start(world: &World, rules: &str) -> Daemon {
    Daemon::start_stored(&world.relay, world.folder(), rules)
}

fn listeners(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::from((RELAY, port)), SocketAddr::from((RELAY_V6, port))]
}

fn shared_names(daemon: &Daemon) -> usize {
    daemon.store().names().iter().filter(|name| name.starts_with("shared/")).count()
}

fn is_refused(world: &World, to: SocketAddr) {
    eventually("connections are refused", || {
        let error = Client::connect(&world.client, to).map(drop).err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
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
        let mut ended = listeners(MIDDLE)
            .map(|to| Client::connect(&world.client, to).and_then(Client::start_echo).expect("before"));
        ending(&mut daemon);
        assert!(ended.iter_mut().all(|client| client.echo(b"x").is_err()), "sessions end with relayd");
        let to = || ports.into_iter().flat_map(listeners);
        let waiting: Vec<Client> = (0..10)
            .flat_map(|_| to().map(|to| Client::connect(&world.client, to).expect("nobody is refused")))
            .collect();
        let datagrams: Vec<Datagrams> = to().map(|to| Datagrams::new(&world.client, to)).collect();
        for socket in &datagrams {
            socket.0.send(&text(100)).expect("send");
        }
        daemon.start_again(&world.relay);
        for client in waiting {
            client.upload(10_000).expect("served by the next relayd");
        }
        for socket in &datagrams {
            let mut buffer = [0; 200];
            assert_eq!(socket.0.recv(&mut buffer).expect("the datagram was kept"), 100);
            socket.echo_patiently(&text(1000)).expect("echo");
        }
        assert_eq!(daemon.store().len(), stored, "the same sockets");
    }
    assert_eq!(daemon.ctl.rule("range")["state"], "active");
}

#[test]
fn not_one_client_of_a_range_is_refused_over_many_restarts() {
    let world = World::new();
    let (_tcp, _udp) = (tcp_server(&world.backend, MIDDLE), udp_server(&world.backend, MIDDLE));
    let mut daemon = start(&world, RANGE);
    let is_over = AtomicBool::new(false);
    let (world_ref, is_over_ref) = (&world, &is_over);
    thread::scope(|scope| {
        let connects = listeners(MIDDLE).map(|to| {
            scope.spawn(move || {
                let mut connected = 0;
                while !is_over_ref.load(Ordering::Relaxed) {
                    let client = Client::connect(&world_ref.client, to).expect("refused");
                    let _ended_by_a_restart = client.seen_as();
                    connected += 1;
                }
                connected
            })
        });
        let sends = listeners(MIDDLE).map(|to| {
            scope.spawn(move || {
                let mut answered = 0;
                while !is_over_ref.load(Ordering::Relaxed) {
                    match Datagrams::new(&world_ref.client, to).echo(b"hello") {
                        Ok(()) => answered += 1,
                        // what the relayd before had already taken
                        Err(error) => assert_ne!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}"),
                    }
                }
                answered
            })
        });
        let over = Ends(&is_over);
        for turn in 0..6 {
            if turn % 2 == 0 {
                daemon.kill()
            } else {
                daemon.stop()
            }
            daemon.start_again(&world.relay);
            thread::sleep(std::time::Duration::from_millis(200));
        }
        drop(over);
        for client in connects.into_iter().chain(sends) {
            assert!(client.join().expect("no client was refused") > 12);
        }
    });
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
    is_refused(&world, (RELAY, FIRST).into());
    daemon.kill();
    is_refused(&world, (RELAY, FIRST).into());
    fs::write(&daemon.config, bare).expect("config");
    daemon.start_again(&world.relay);
    eventually("the store is empty", || daemon.store().is_empty());
    assert_eq!(shared_pins(&world), 0);
    is_refused(&world, (RELAY, MIDDLE).into());
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
    is_refused(&world, (RELAY, MIDDLE).into());
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
    is_refused(&world, (RELAY, MIDDLE).into());
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
    is_refused(&world, (RELAY, MIDDLE).into());
    greets();
    daemon.start_again(&world.relay);
    serves(&world);
}
