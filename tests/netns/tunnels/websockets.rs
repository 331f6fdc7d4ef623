//! Python's websockets at the other end, in both roles: messages in fragments, pings all the time.

use std::thread;
use std::time::Duration;

use harness::traffic::{Client, tcp_server};
use harness::websockets::Websockets;
use harness::world::RELAY;
use harness::{Daemon, World};

use super::{carries, enter, entries, exits, is_clean, ports, start, world};

const TRANSPORTS: [&str; 2] = ["ws", "wss"];
/// For a busy machine.
const PATIENT: Duration = Duration::from_secs(20);
const STRICT: Duration = Duration::from_secs(2);

/// A websockets server for each transport behind a relayd that wraps.
fn before_python(world: &World, pongs: Duration) -> (Daemon, [Websockets; 2]) {
    let servers = TRANSPORTS.map(|transport| {
        let files = if transport == "wss" { ("server.pem", "server.key") } else { ("", "") };
        Websockets::server(&world.backend, world.folder(), ports(transport).1, 80, files, pongs)
    });
    (start(world, &entries("", "").replace("198.51.100.1", "203.0.113.2")), servers)
}

/// A websockets client for each transport before a relayd that unwraps.
fn behind_python(world: &World, pongs: Duration) -> (Daemon, [Websockets; 2]) {
    let daemon = start(world, &exits("", ""));
    let clients = TRANSPORTS.map(|transport| {
        let ((port, to), uri) = (ports(transport), format!("{transport}://relay.test/tunnel"));
        Websockets::client(&world.client, world.folder(), port, &uri, (RELAY, to).into(), pongs)
    });
    (daemon, clients)
}

fn wrapped(world: &World, transport: &str) -> Client {
    Client::connect(&world.client, ([127, 0, 0, 1], ports(transport).0)).expect("connect")
}

#[test]
fn to_python() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (daemon, _servers) = before_python(&world, PATIENT);
    for transport in TRANSPORTS {
        carries(transport, &|| enter(&world, transport));
        is_clean(&daemon.ctl, &format!("in-{transport}"));
    }
}

#[test]
fn from_python() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (daemon, _clients) = behind_python(&world, PATIENT);
    for transport in TRANSPORTS {
        carries(transport, &|| wrapped(&world, transport));
        is_clean(&daemon.ctl, &format!("out-{transport}"));
    }
}

/// Whoever gets no pongs hangs up.
#[test]
fn pings_are_answered_while_nothing_else_is_sent() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (_before, _servers) = before_python(&world, STRICT);
    let mut echoes: Vec<Client> =
        TRANSPORTS.map(|transport| enter(&world, transport).start_echo().expect("echo")).into();
    thread::sleep(STRICT + Duration::from_secs(1));
    echoes.iter_mut().for_each(|echo| echo.echo(b"still here").expect("a server that has got its pongs"));
}

#[test]
fn pings_of_clients_are_answered_too() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (_behind, _clients) = behind_python(&world, STRICT);
    let mut echoes: Vec<Client> =
        TRANSPORTS.map(|transport| wrapped(&world, transport).start_echo().expect("echo")).into();
    thread::sleep(STRICT + Duration::from_secs(1));
    echoes.iter_mut().for_each(|echo| echo.echo(b"still here").expect("a client that has got its pongs"));
}
