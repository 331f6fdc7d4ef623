//! relayd stops: nobody new is taken in, who is there may finish, and what goes on goes on as long as anything does.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, World, eventually};
use nix::sys::signal::Signal;

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";
/// As many ports as have no sockets of their own.
const RANGE: &str =
    "[[rule]]\nname = \"web\"\nlisten = \":2000-61999\"\nto = \"203.0.113.2\"\nplane = \"user\"\n";

/// A rule's port, and the backend's.
const KINDS: [(&str, u16, u16); 2] = [(WEB, 8080, 80), (RANGE, 8080, 8080)];

/// relayd under a manager that says that it keeps no descriptors.
fn start_without_store(world: &World, rules: &str) -> Daemon {
    let mut daemon = world.start(rules);
    daemon.stop();
    daemon.set_env("FDSTORE", "0");
    daemon.start_again(&world.relay);
    daemon
}

#[test]
fn a_session_keeps_datagrams_going_and_nobody_new_is_taken_in() {
    for (rule, port, backend) in KINDS {
        let world = World::new();
        let mut daemon = start_without_store(&world, rule);
        let (_tcp, _udp) = (tcp_server(&world.backend, backend), udp_server(&world.backend, backend));
        let mut session =
            Client::connect(&world.client, (RELAY_V6, port)).and_then(Client::start_echo).expect("echo");
        let known = Datagrams::new(&world.client, (RELAY_V6, port));
        known.echo(b"before").expect("echo");
        daemon.signal(Signal::SIGTERM);
        for address in [RELAY.into(), RELAY_V6.into()] {
            eventually("nobody new is taken in", || {
                let refused = Client::connect(&world.client, std::net::SocketAddr::new(address, port)).err();
                refused.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            });
        }
        known.echo(b"during").unwrap_or_else(|error| panic!("{rule}: a known client: {error}"));
        let new = Datagrams::new(&world.client, (RELAY_V6, port));
        new.0.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        new.echo(b"new").expect_err("nobody new");
        session.echo(&text(1000)).unwrap_or_else(|error| panic!("{rule}: the session: {error}"));
        known.echo(b"still").unwrap_or_else(|error| panic!("{rule}: as long as the session: {error}"));
        drop(session);
        daemon.stop();
        known.echo(b"after").expect_err("over");
    }
}

#[test]
fn without_connections_it_stops_at_once() {
    for (rule, port, backend) in KINDS {
        let world = World::new();
        let mut daemon = world.start(rule);
        let (_tcp, _udp) = (tcp_server(&world.backend, backend), udp_server(&world.backend, backend));
        Client::connect(&world.client, (RELAY_V6, port)).and_then(Client::seen_as).expect("connect");
        Datagrams::new(&world.client, (RELAY_V6, port)).echo(b"hello").expect("echo");
        eventually("the connection is over", || daemon.ctl.counter("web", "/flows/active") == 1);
        let start = Instant::now();
        daemon.stop();
        // with connections it would be five seconds
        assert!(start.elapsed() < Duration::from_secs(4), "{rule}: {:?}", start.elapsed());
    }
}

#[test]
fn with_a_store_new_udp_clients_are_served_to_the_end_and_beyond() {
    let world = World::new();
    let mut daemon = Daemon::start_stored(&world.relay, world.folder(), WEB);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let mut session =
        Client::connect(&world.client, (RELAY_V6, 8080)).and_then(Client::start_echo).expect("echo");
    daemon.signal(Signal::SIGTERM);
    eventually("relayd says so", || daemon.told.try_iter().any(|told| told.contains("STOPPING=1")));
    Datagrams::new(&world.client, (RELAY_V6, 8080)).echo(b"new").expect("a new client");
    session.echo(&text(1000)).expect("the session");
    drop(session);
    daemon.stop();
    let waiting = Datagrams::new(&world.client, (RELAY_V6, 8080));
    waiting.0.send(b"meanwhile").expect("send");
    daemon.start_again(&world.relay);
    let mut buffer = [0; 64];
    assert_eq!(waiting.0.recv(&mut buffer).expect("the next relayd has it"), 9);
}

#[test]
fn datagrams_go_on_through_disable_and_enable() {
    for (rule, port, backend) in KINDS {
        let world = World::new();
        let daemon = world.start(rule);
        let _udp = udp_server(&world.backend, backend);
        let known = Datagrams::new(&world.client, (RELAY_V6, port));
        for command in ["disable", "enable", "drain", "enable"] {
            known.echo(b"before").expect("echo");
            daemon.ctl.ok(&[command, "web"]);
            known.echo(b"after").unwrap_or_else(|error| panic!("{rule}: after {command}: {error}"));
        }
        assert_eq!(daemon.ctl.counter("web", "/flows/total"), 1, "{rule}: one session");
    }
}

#[test]
fn a_port_of_a_disabled_rule_goes_to_another_at_once() {
    let world = World::new();
    let daemon = world.start(WEB);
    let _servers = [80, 81].map(|port| udp_server(&world.backend, port));
    Datagrams::new(&world.client, (RELAY_V6, 8080)).echo(b"hello").expect("echo");
    daemon.ctl.ok(&["disable", "web"]);
    daemon.ctl.ok(&["add", ":8080", "203.0.113.2:81", "--name", "other", "--plane", "user"]);
    let clients: Vec<Datagrams> = (0..16).map(|_| Datagrams::new(&world.client, (RELAY_V6, 8080))).collect();
    clients.iter().for_each(|client| client.echo(b"new").expect("the other rule's"));
    assert_eq!(daemon.ctl.counter("other", "/flows/total"), 16);
}

#[test]
fn a_silent_client_that_is_not_let_in_any_more_gives_up_its_place() {
    for (rule, port, backend) in KINDS {
        let world = World::new();
        let daemon = world.start(rule);
        let _udp = udp_server(&world.backend, backend);
        let client = Datagrams::new(&world.client, (RELAY_V6, port));
        client.echo(b"hello").and_then(|()| client.echo(b"again")).expect("echo");
        assert_eq!(daemon.ctl.counter("web", "/flows/active"), 1, "{rule}");
        daemon.ctl.ok(&["set", "web", "accept.allow=192.0.2.0/24"]);
        eventually("its session is over", || daemon.ctl.counter("web", "/flows/active") == 0);
    }
}
