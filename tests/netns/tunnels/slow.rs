//! Clients that take their time over a handshake keep nobody out, and are gone when it has had its time.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use harness::traffic::{Client, tcp_server};
use harness::within;
use harness::world::RELAY;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{
    LIMIT, TRANSPORTS, dial, drops, enter, entries, exits, fails, is_clean, is_counted, own, ports, start,
    world,
};

/// So many at once.
const SLOW: usize = 200;
const TIMEOUT: &str = "timeout = { handshake = \"3s\" }\n";
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[test]
fn many_slow_clients_keep_nobody_out() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let mut daemon = start(&world, &[entries("", ""), exits("", TIMEOUT)].concat());
    let begun = Instant::now();
    let beginnings = [HELLO, b"GET /tunnel HTTP/1.1\r\nhost: relay.test\r\n", HELLO];
    let mut slow: Vec<(&[u8], Client)> = Vec::new();
    for (transport, beginning) in TRANSPORTS.into_iter().zip(beginnings) {
        slow.extend((0..SLOW).map(|_| (beginning, dial(&world, ports(transport).1))));
    }
    // a byte now and then
    for turn in 0..HELLO.len() {
        for (beginning, Client(stream)) in &mut slow {
            let _gone = stream.write_all(&beginning[turn..=turn]);
        }
        for transport in TRANSPORTS {
            let tried = enter(&world, transport).upload(1000);
            tried.unwrap_or_else(|error| panic!("{transport}: {error}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        server.count(),
        (HELLO.len() * TRANSPORTS.len()) as u64,
        "others are served, and nobody else is"
    );
    for transport in TRANSPORTS {
        let rule = format!("out-{transport}");
        within(LIMIT, "the slow ones have had their time", &mut || {
            drops(&daemon.ctl, &rule, "handshake_timeout") == SLOW as u64
        });
        is_clean(&daemon.ctl, &format!("in-{transport}"));
        // one line for many
        let is_about_it = |line: &&str| line.contains(&format!("rule {rule}: "));
        within(LIMIT, "a line about the slow ones", &mut || {
            daemon.log().lines().filter(is_about_it).any(|line| line.contains("timeout.handshake"))
        });
        let lines = daemon.log().lines().filter(is_about_it).count();
        assert!(lines < 10, "{rule}: {lines} lines");
    }
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    for (_, Client(mut stream)) in slow {
        let mut rest = Vec::new();
        // a reset, or an end
        let _reset = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
}

/// The test has a socket for each client.
fn raise_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a higher one");
}

#[test]
fn a_thousand_clients_at_a_byte_a_second() {
    const CLIENTS: u64 = 1000;
    raise_descriptors();
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &[entries("", ""), exits("", "timeout = { handshake = \"4s\" }\n")].concat());
    enter(&world, "wss").upload(1000).expect("the first one");
    let before = daemon.memory_kib();
    let mut slow: Vec<Client> = (0..CLIENTS).map(|_| dial(&world, ports("wss").1)).collect();
    for byte in &HELLO[..4] {
        for Client(stream) in &mut slow {
            let _gone = stream.write_all(&[*byte]);
        }
        for _ in 0..10 {
            enter(&world, "wss").upload(1000).expect("one that is quick");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let grown = daemon.memory_kib().saturating_sub(before);
    assert!(grown < 24 * CLIENTS, "{grown} KiB for {CLIENTS} clients");
    within(LIMIT, "they have had their time", &mut || {
        drops(&daemon.ctl, "out-wss", "handshake_timeout") == CLIENTS
    });
    within(LIMIT, "they are gone", &mut || daemon.ctl.counter("out-wss", "/flows/active") == 0);
    assert_eq!(server.count(), 41, "no backend has heard of them");
}

/// As many as may be in the middle of their handshakes keep others out, until one of them is done.
#[test]
fn more_handshakes_than_there_may_be() {
    const MOST: u64 = 4096;
    raise_descriptors();
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let rules = [entries("", ""), exits("", "timeout = { handshake = \"5m\" }\n")].concat();
    let daemon = start(&world, &rules);
    let mut silent: Vec<Client> = (0..MOST).map(|_| dial(&world, ports("tls").1)).collect();
    within(LIMIT, "all have begun", &mut || daemon.ctl.counter("out-tls", "/flows/active") == MOST);
    // the reset may come before connecting is over
    if let Ok(Client(mut next)) = Client::connect(&world.client, (RELAY, ports("tls").1)) {
        assert!(next.read(&mut [0]).is_err(), "a reset");
    }
    within(LIMIT, "it is counted", &mut || drops(&daemon.ctl, "out-tls", "handshakes_full") == 1);
    enter(&world, "wss").upload(1000).expect("other listeners have room");
    silent.truncate(10);
    within(LIMIT, "they are gone", &mut || daemon.ctl.counter("out-tls", "/flows/active") == 10);
    enter(&world, "tls").upload(1000).expect("there is room again");
    assert_eq!(drops(&daemon.ctl, "out-tls", "handshakes_full"), 1);
}

/// A backend that takes the connection, and says nothing.
#[test]
fn a_silent_backend_has_its_time_too() {
    let (world, _authority) = world();
    let silent = world.backend.run(|| TcpListener::bind("203.0.113.2:443")).expect("bind");
    let rules = entries("", "timeout = { handshake = \"500ms\" }\n");
    // the same backend for all
    let rules = TRANSPORTS
        .iter()
        .fold(rules, |rules, transport| rules.replace(&own(ports(transport).1), "\"203.0.113.2:443\""));
    let mut daemon = start(&world, &rules);
    for transport in TRANSPORTS {
        fails(&world, ports(transport).0, "nobody answers");
        let said = ["203.0.113.2:443", "timeout.handshake"];
        is_counted(&mut daemon, &format!("in-{transport}"), "backend_timeout", &said);
    }
    drop(silent);
}
