//! kaminari, which realm's tunnels are made of, at the other end: in both roles, over each transport.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::thread;

use harness::kaminari::Kaminari;
use harness::traffic::{Client, tcp_server, text};
use harness::world::{BACKEND, RELAY};
use harness::{Daemon, World};

use super::{
    BACKEND as TO_BACKEND, TRANSPORTS, accept, carries, connect, enter, entries, exits, is_clean, ports,
    rule, serve, start, world,
};

/// What kaminari is told of a transport.
fn options(transport: &str, tls: &str) -> String {
    let ws = "ws;host=relay.test;path=/tunnel";
    match transport {
        "ws" => ws.to_owned(),
        "tls" => tls.to_owned(),
        _ => format!("{ws};{tls}"),
    }
}

/// A relayd that wraps, and a kaminari behind it for each transport that unwraps. `more`: further keys and lines.
pub fn before_kaminari(world: &World, more: &str, lines: &str) -> (Daemon, [Kaminari; 3]) {
    let file = |name| world.folder().join(name).display().to_string();
    let tls = format!("tls;cert={};key={}", file("server.pem"), file("server.key"));
    let servers = TRANSPORTS.map(|transport| {
        let to = ([127, 0, 0, 1], 80).into();
        Kaminari::server(&world.backend, ports(transport).1, to, &options(transport, &tls))
    });
    (start(world, &entries(more, lines).replace("198.51.100.1", "203.0.113.2")), servers)
}

/// A kaminari on the client's host for each transport that wraps, and a relayd that unwraps.
pub fn behind_kaminari(world: &World, lines: &str) -> (Daemon, [Kaminari; 3]) {
    let daemon = start(world, &exits("", lines));
    let clients = TRANSPORTS.map(|transport| {
        let (port, to) = ports(transport);
        let options = options(transport, "tls;sni=relay.test;insecure");
        Kaminari::client(&world.client, port, (RELAY, to).into(), &options)
    });
    (daemon, clients)
}

/// A connection by the kaminari on the client's host.
pub fn wrapped(world: &World, transport: &str) -> Client {
    Client::connect(&world.client, ([127, 0, 0, 1], ports(transport).0)).expect("connect")
}

#[test]
fn bulk_to_kaminaris() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (daemon, _kaminaris) = before_kaminari(&world, "", "");
    for transport in TRANSPORTS {
        carries(transport, &|| enter(&world, transport));
        is_clean(&daemon.ctl, &format!("in-{transport}"));
    }
}

#[test]
fn bulk_from_kaminaric() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (daemon, _kaminaris) = behind_kaminari(&world, "");
    for transport in TRANSPORTS {
        carries(transport, &|| wrapped(&world, transport));
        is_clean(&daemon.ctl, &format!("out-{transport}"));
    }
}

/// Its frames with keys other than zero, each its own or all the same. Little at once: what it cannot send in one go it
/// masks twice.
#[test]
fn masked_frames_of_kaminaric() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &rule("out", 443, TO_BACKEND, &accept("ws", "")));
    for (port, mask) in [(80, "standard"), (81, "fixed")] {
        let options = format!("ws;host=relay.test;path=/tunnel;mask={mask}");
        let _kaminari = Kaminari::client(&world.client, port, ([198, 51, 100, 1], 443).into(), &options);
        let client = Client::connect(&world.client, ([127, 0, 0, 1], port)).expect("connect");
        let mut client = client.start_echo().expect("echo");
        for length in (1..200).chain([4095, 4096, 8191, 8192]) {
            client.echo(&text(length)).unwrap_or_else(|error| panic!("{mask}, {length}: {error}"));
        }
    }
    is_clean(&daemon.ctl, "out");
}

/// Each direction ends by itself.
#[test]
fn half_closes() {
    let (world, _authority) = world();
    serve(&world.backend, 80, |Client(mut stream)| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)
    });
    let ends = |transport: &str, Client(mut stream): Client| {
        let mut answer = Vec::new();
        stream.write_all(&text(200_000)).expect("send");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{transport}: {error}"));
        assert!(answer == text(200_000), "{transport}: {} bytes came back", answer.len());
    };
    let (daemon, _kaminaris) = before_kaminari(&world, "", "");
    for transport in TRANSPORTS {
        ends(transport, enter(&world, transport));
        is_clean(&daemon.ctl, &format!("in-{transport}"));
    }
    drop(daemon);
    let (daemon, _kaminaris) = behind_kaminari(&world, "");
    for transport in TRANSPORTS {
        ends(transport, wrapped(&world, transport));
        is_clean(&daemon.ctl, &format!("out-{transport}"));
    }
}

const BANNER: &[u8] = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n";

/// A server that speaks first, as SSH's do.
pub fn greet(world: &World, port: u16) {
    serve(&world.backend, port, |Client(mut stream)| {
        stream.write_all(BANNER)?;
        stream.read(&mut [0; 1]).map(drop)
    });
}

/// How many of 300 connections get the banner.
pub fn banners(connect: &(dyn Fn() -> Client + Sync)) -> usize {
    let many = || {
        let heard = |_: &usize| {
            let mut banner = vec![0; BANNER.len()];
            let Client(mut stream) = connect();
            stream.read_exact(&mut banner).is_ok() && banner == BANNER
        };
        (0..50).filter(heard).count()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(many)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).sum()
    })
}

#[test]
fn banners_of_servers_behind_kaminaris_arrive() {
    let (world, _authority) = world();
    greet(&world, 80);
    let (daemon, _kaminaris) = before_kaminari(&world, "", "");
    assert_eq!(banners(&|| enter(&world, "ws")), 300);
    is_clean(&daemon.ctl, "in-ws");
}

/// It loses what comes in one piece with the answer to its handshake, so nothing may.
#[test]
fn banners_of_servers_reach_kaminarics_clients() {
    let (world, _authority) = world();
    greet(&world, 80);
    let (daemon, _kaminaris) = behind_kaminari(&world, "");
    assert_eq!(banners(&|| wrapped(&world, "ws")), 300);
    is_clean(&daemon.ctl, "out-ws");
}

/// kaminari says nothing to whom it does not want: what does not match is named.
#[test]
fn what_kaminaris_refuses() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let options = "ws;host=relay.test;path=/other";
    let _kaminari = Kaminari::server(&world.backend, 443, (BACKEND, 80).into(), options);
    let mut daemon = start(&world, &rule("in", 80, "\"203.0.113.2:443\"", &connect("ws", "")));
    super::fails(&world, 80, "nobody is there");
    super::is_counted(&mut daemon, "in", "backend_ws", &["203.0.113.2:443", "connect.path"]);
}
