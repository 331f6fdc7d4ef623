//! The PROXY protocol with HAProxy at the other ends, and with nobody's.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};

use harness::haproxy::{self, Haproxy, WHO, who};
use harness::traffic::{Client, Datagrams, tcp_server, udp_server};
use harness::world::{CLIENT, CLIENT_V6, RELAY, RELAY_INSIDE, RELAY_V6};
use harness::{World, eventually};

fn text(client: SocketAddr, destination: SocketAddr) -> String {
    format!("{} {} {} {}", client.ip(), client.port(), destination.ip(), destination.port())
}

#[test]
fn a_backend_learns_who_the_client_is() {
    if haproxy::is_missing() {
        return;
    }
    let world = World::new();
    let daemon = world.start(
        "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nconnect = { proxy_protocol = 1 }\n",
    );
    let front = format!("frontend who\n  bind :::80 v4v6 accept-proxy\n  {WHO}");
    let _haproxy = Haproxy::start(&world.backend, world.folder(), 80, &front);
    let _udp = udp_server(&world.backend, 80);
    for version in ["1", "2"] {
        daemon.ctl.ok(&["set", "web", &format!("connect.proxy_protocol={version}")]);
        for to in [SocketAddr::from((RELAY, 8080)), SocketAddr::from((RELAY_V6, 8080))] {
            let client = Client::connect(&world.client, to).expect("connect");
            let own = client.0.local_addr().expect("address");
            assert_eq!(who(&client.0).expect("an answer"), text(own, to), "version {version}");
            Datagrams::new(&world.client, to).echo(b"no header here").expect("echo");
        }
    }
    let rule = daemon.ctl.rule("web");
    assert_eq!(rule["plane"]["ipv4"]["plane"], "user", "{rule}");
    let reason = rule["plane"]["ipv4"]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("connect.proxy_protocol") && reason.contains("UDP stays in the kernel"),
        "{rule}"
    );
    let explained = daemon.ctl.ok(&["explain", "web"]);
    assert!(explained.contains("port 8080/udp goes to 203.0.113.2:80"), "{explained}");
    daemon.ctl.ok(&["set", "web", "connect.proxy_protocol="]);
    assert_eq!(daemon.ctl.rule("web")["plane"]["ipv4"]["plane"], "kernel");
}

/// Runs HAProxy before the relay, and after it.
fn between_two(world: &World, server: &str, rules: &str) -> (harness::Daemon, [Haproxy; 2]) {
    let daemon = world.start(rules);
    let front = format!("frontend who\n  bind :::80 v4v6 accept-proxy\n  {WHO}");
    let after = Haproxy::start(&world.backend, world.folder(), 80, &front);
    let front = format!(
        "frontend front\n  mode tcp\n  unique-id-format mine\n  bind :::90 v4v6\n  default_backend relay\n\
         backend relay\n  mode tcp\n  server relay {server}\n"
    );
    let before = Haproxy::start(&world.client, world.folder(), 90, &front);
    (daemon, [before, after])
}

#[test]
fn a_proxys_word_goes_through_to_the_backend() {
    if haproxy::is_missing() {
        return;
    }
    for (server, to, unique) in [
        ("198.51.100.1:8080 send-proxy", 1, ""),
        ("198.51.100.1:8080 send-proxy", 2, ""),
        ("198.51.100.1:8080 send-proxy-v2 proxy-v2-options unique-id", 1, ""),
        ("198.51.100.1:8080 send-proxy-v2 proxy-v2-options unique-id,crc32c", 2, " mine"),
        ("[2001:db8:1::1]:8080 send-proxy-v2 proxy-v2-options unique-id", 2, " mine"),
    ] {
        let world = World::new();
        let rules = format!(
            "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nprotocol = \"tcp\"\n\
             accept = {{ proxy_protocol = true, trusted = [\"198.51.100.0/24\", \"2001:db8:1::2\"] }}\n\
             connect = {{ proxy_protocol = {to} }}\n"
        );
        let (daemon, _haproxies) = between_two(&world, server, &rules);
        for front in [SocketAddr::from((CLIENT, 90)), SocketAddr::from((CLIENT_V6, 90))] {
            let client = Client::connect(&world.client, front).expect("connect");
            let own = client.0.local_addr().expect("address");
            let said = who(&client.0).unwrap_or_else(|error| panic!("{server}, {to}: {error}"));
            assert_eq!(said, text(own, front) + unique, "{server}, {to}");
        }
        assert_eq!(daemon.ctl.rule("web")["counters"]["drops"], serde_json::json!({}));
    }
}

const EXPECTING: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nprotocol = \"tcp\"\n\
                         accept = { proxy_protocol = true, trusted = \"198.51.100.2\" }\n\
                         timeout = { handshake = \"1s\" }\n\
                         [[rule]]\nname = \"other\"\nlisten = \":8081\"\nto = \"203.0.113.2:80\"\n";

/// Sends bytes as a client, and expects nothing but the end.
fn is_refused(world: &World, to: impl Into<SocketAddr>, bytes: &[u8]) {
    // a reset may be quicker, even than connect(2)
    let mut stream = match Client::connect(&world.client, to) {
        Ok(Client(stream)) => stream,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{bytes:?}"),
    };
    let _sent = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"", "{bytes:?}");
}

#[test]
fn headers_that_are_none_are_refused_and_counted() {
    let world = World::new();
    let daemon = world.start(EXPECTING);
    let server = tcp_server(&world.backend, 80);
    let other = Client::connect(&world.client, (RELAY_V6, 8081)).and_then(Client::start_echo);
    let mut other = other.expect("another rule's");
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 8080\r\n";
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    let huge = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff";
    let cases: [(&str, &[u8]); 6] = [
        ("proxy_missing", b"GET / HTTP/1.1\r\n\r\n"),
        ("proxy_malformed", b"PROXY TCP4 nobody knows 1 2\r\n"),
        ("proxy_too_long", &endless),
        ("proxy_too_long", huge),
        ("handshake_timeout", &line[..20]),
        ("handshake_timeout", b""),
    ];
    for (count, (reason, bytes)) in cases.into_iter().enumerate() {
        is_refused(&world, (RELAY, 8080), bytes);
        let counted = || {
            let drops = &daemon.ctl.rule("web")["counters"]["drops"];
            drops[reason].as_u64() > Some(0) && drops.as_object().map(total) == Some(count as u64 + 1)
        };
        eventually(reason, counted);
    }
    // the same header from somebody whose word is worth nothing
    is_refused(&world, (RELAY_V6, 8080), line);
    eventually("it is counted", || daemon.ctl.counter("web", "/drops/proxy_untrusted") == 1);
    // ends early
    let Client(mut stream) = Client::connect(&world.client, (RELAY, 8080)).expect("connect");
    stream.write_all(&line[..10]).expect("some of it");
    stream.shutdown(Shutdown::Write).expect("shutdown");
    eventually("it is counted", || daemon.ctl.counter("web", "/drops/proxy_malformed") == 2);
    // and one that looks whether anybody listens
    drop(Client::connect(&world.client, (RELAY, 8080)).expect("connect"));
    assert_eq!(server.count(), 1, "no backend has heard of them");
    other.echo(b"never noticed").expect("echo");
    // byte by byte, with the client's own data right behind
    let Client(mut stream) = Client::connect(&world.client, (RELAY, 8080)).expect("connect");
    for byte in line {
        stream.write_all(&[*byte]).expect("a byte");
    }
    Client(stream).upload(1 << 20).expect("upload");
    let drops = daemon.ctl.rule("web")["counters"]["drops"].as_object().map(total);
    assert_eq!(drops, Some(8));
}

fn total(drops: &serde_json::Map<String, serde_json::Value>) -> u64 {
    drops.values().filter_map(serde_json::Value::as_u64).sum()
}

#[test]
fn without_a_list_only_internal_proxies_are_believed() {
    let world = World::new();
    let expecting = EXPECTING.replace(", trusted = \"198.51.100.2\"", "");
    let daemon = world.start(&expecting);
    let _server = tcp_server(&world.backend, 80);
    world.client.add_address("client", [10, 1, 2, 3], 32);
    world.relay.route(([10, 1, 2, 3].into(), 32), None, "uplink", 254);
    let begin = |source: [u8; 4]| {
        let Client(mut stream) = Client::connect_as(&world.client, source.into(), (RELAY, 8080))?;
        stream.write_all(b"PROXY UNKNOWN\r\n")?;
        Client(stream).seen_as()
    };
    assert_eq!(begin([10, 1, 2, 3]).expect("internal").ip(), RELAY_INSIDE);
    begin([198, 51, 100, 2]).expect_err("anybody's");
    eventually("it is counted", || daemon.ctl.counter("web", "/drops/proxy_untrusted") == 1);
    let explained = daemon.ctl.ok(&["explain", "web"]);
    assert!(explained.contains("accept.proxy_protocol"), "{explained}");
}
