//! The PROXY protocol through tunnels: its header goes ahead of everything, in clear, as realm and HAProxy have it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::sync::mpsc;

use harness::haproxy::{Haproxy, WHO, who};
use harness::traffic::{Client, PATIENCE};
use harness::within;
use harness::world::CLIENT;

use super::{
    LIMIT, TRANSPORTS, accept, are_clean, connect, dial, drops, entries, exits, fails, is_clean, own, ports,
    rule, serve, start, ways_in, world,
};

const TRUSTING: &str = "proxy_protocol = true, trusted = \"198.51.100.0/24\"";

/// The header, and then what the transport begins with.
#[test]
fn the_header_is_first_and_in_clear() {
    let (world, _authority) = world();
    let (told, heard) = mpsc::channel();
    serve(&world.backend, 443, move |Client(stream)| {
        let mut reader = BufReader::new(stream);
        let (mut line, mut next) = (String::new(), [0; 3]);
        reader.read_line(&mut line)?;
        reader.read_exact(&mut next)?;
        told.send((line, next)).map_err(std::io::Error::other)
    });
    let begins = [("tls", b"\x16\x03\x01"), ("ws", b"GET"), ("wss", b"\x16\x03\x01")];
    let rules = entries("proxy_protocol = 1", "");
    // the same backend for all
    let rules = TRANSPORTS
        .iter()
        .fold(rules, |rules, transport| rules.replace(&own(ports(transport).1), "\"203.0.113.2:443\""));
    let _daemon = start(&world, &rules);
    for (transport, next) in begins {
        let port = ports(transport).0;
        let client = dial(&world, port);
        let from = client.0.local_addr().expect("address").port();
        let (line, begins) = heard.recv_timeout(PATIENCE).expect("a connection");
        assert_eq!(line, format!("PROXY TCP4 198.51.100.2 198.51.100.1 {from} {port}\r\n"), "{transport}");
        assert_eq!(&begins, next, "{transport}");
    }
}

/// Each hop says whose connection it is, and the backend learns it in the end.
#[test]
fn through_two_relays_to_haproxy() {
    let (world, _authority) = world();
    let front = format!("frontend who\n  bind :::80 v4v6 accept-proxy\n  {WHO}");
    let _haproxy = Haproxy::start(&world.backend, world.folder(), 80, &front);
    let out = exits(TRUSTING, "connect = { proxy_protocol = 2 }\n");
    let daemon = start(&world, &[entries("proxy_protocol = 2", ""), out].concat());
    for transport in TRANSPORTS {
        for to in ways_in(ports(transport).0) {
            let client = Client::connect(&world.client, to).expect("connect");
            let own = client.0.local_addr().expect("address");
            let expected = format!("{} {} {} {}", own.ip(), own.port(), to.ip(), to.port());
            assert_eq!(who(&client.0).unwrap_or_else(|error| panic!("{transport}: {error}")), expected);
        }
    }
    are_clean(&daemon.ctl);
}

/// HAProxy's own TLS at either end, with the header before it.
#[test]
fn haproxys_tls() {
    let (world, _authority) = world();
    let files = ["pem", "key"].map(|end| {
        std::fs::read_to_string(world.folder().join(format!("server.{end}"))).expect("certificate")
    });
    let both = world.folder().join("both.pem");
    std::fs::write(&both, files.concat()).expect("certificate");
    let after = format!("frontend who\n  bind :443 accept-proxy ssl crt {}\n  {WHO}", both.display());
    let _after = Haproxy::start(&world.backend, world.folder(), 443, &after);
    let before = format!(
        "frontend front\n  mode tcp\n  bind :90\n  default_backend relay\nbackend relay\n  mode tcp\n  \
         server relay 198.51.100.1:8443 send-proxy-v2 ssl verify required ca-file {} sni str(relay.test) verifyhost relay.test\n",
        world.folder().join("ca.pem").display()
    );
    let _before = Haproxy::start(&world.client, world.folder(), 90, &before);
    let legs = [accept("tls", TRUSTING), connect("tls", "proxy_protocol = 2")].concat();
    let daemon = start(&world, &rule("hop", 8443, "\"203.0.113.2:443\"", &legs));
    let to = SocketAddr::from((CLIENT, 90));
    let client = Client::connect(&world.client, to).expect("connect");
    let own = client.0.local_addr().expect("address");
    assert_eq!(who(&client.0).expect("an answer"), format!("{} {} {CLIENT} 90", own.ip(), own.port()));
    is_clean(&daemon.ctl, "hop");
}

/// A tunnel without the header, where one is expected.
#[test]
fn a_tunnel_without_a_header() {
    let (world, _authority) = world();
    let daemon = start(&world, &[entries("", ""), exits(TRUSTING, "")].concat());
    for transport in TRANSPORTS {
        let rule = format!("out-{transport}");
        fails(&world, ports(transport).0, "no header");
        within(LIMIT, "it is counted", &mut || drops(&daemon.ctl, &rule, "proxy_missing") == 1);
        assert_eq!(daemon.ctl.counter(&rule, "/flows/total"), 0, "{transport}");
    }
}
