//! Clients that take their time over a handshake keep nobody out, and are gone when it has had its time.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use harness::traffic::{Client, tcp_server};
use harness::within;

use super::{BACKEND, LIMIT, accept, connect, dial, drops, is_clean, is_counted, rule, world};

/// So many at once.
const SLOW: usize = 200;
const TIMEOUT: &str = "timeout = { handshake = \"3s\" }\n";
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[test]
fn many_slow_clients_keep_nobody_out() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let to = "\"198.51.100.1:443\"";
    for (transport, beginning) in
        [("tls", HELLO), ("ws", b"GET /tunnel HTTP/1.1\r\nhost: relay.test\r\n"), ("wss", HELLO)]
    {
        let leg = [accept(transport, "").as_str(), TIMEOUT].concat();
        let out = rule("out", 443, BACKEND, &leg);
        let mut daemon = world.start(&[rule("in", 80, to, &connect(transport, "")), out].concat());
        let begun = Instant::now();
        let mut slow: Vec<Client> = (0..SLOW).map(|_| dial(&world, 443)).collect();
        let served = server.count();
        // a byte now and then, as long as anybody takes it
        for bytes in beginning.chunks(1) {
            for Client(stream) in &mut slow {
                let _gone = stream.write_all(bytes);
            }
            dial(&world, 80).upload(1000).unwrap_or_else(|error| panic!("{transport}: {error}"));
            if begun.elapsed() > Duration::from_secs(1) {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(server.count() > served, "{transport}: others are served");
        within(LIMIT, "the slow ones have had their time", &mut || {
            drops(&daemon.ctl, "out", "handshake_timeout") == SLOW as u64
        });
        assert!(begun.elapsed() >= Duration::from_secs(3), "{transport}: {:?}", begun.elapsed());
        for Client(mut stream) in slow {
            let mut rest = Vec::new();
            // a reset, or an end
            let _reset = stream.read_to_end(&mut rest);
            assert_eq!(rest, b"", "{transport}");
        }
        is_clean(&daemon.ctl, "in");
        is_counted_many(&mut daemon);
    }
}

/// It is said in the log, not for each.
fn is_counted_many(daemon: &mut harness::Daemon) {
    within(LIMIT, "a line about the slow ones", &mut || {
        daemon.log().lines().any(|line| line.contains("rule out: ") && line.contains("timeout.handshake"))
    });
    let lines = daemon.log().lines().filter(|line| line.contains("rule out: ")).count();
    assert!(lines < 10, "{lines} lines");
}

/// A backend that takes the connection, and says nothing.
#[test]
fn a_silent_backend_has_its_time_too() {
    let (world, _authority) = world();
    let silent = world.backend.run(|| TcpListener::bind("203.0.113.2:443")).expect("bind");
    for transport in super::TRANSPORTS {
        let leg = [connect(transport, "").as_str(), "timeout = { handshake = \"500ms\" }\n"].concat();
        let mut daemon = world.start(&rule("in", 80, "\"203.0.113.2:443\"", &leg));
        super::fails(&world, 80, "nobody answers");
        is_counted(&mut daemon, "in", "backend_timeout", &["203.0.113.2:443", "handshake"]);
    }
    drop(silent);
}
