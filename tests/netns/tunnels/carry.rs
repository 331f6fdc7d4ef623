//! Both ends are Relays: what goes in comes out, whatever the pieces, and each direction ends by itself.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::mpsc;

use harness::eventually;
use harness::traffic::{Client, tcp_server, text};

use super::{
    BACKEND, TRANSPORTS, accept, carries, connect, dial, entry, exit, is_clean, rule, serve, ways_in, world,
};

#[test]
fn bulk_both_ways() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    for transport in TRANSPORTS {
        let daemon = world.start(&[entry(transport), exit(transport)].concat());
        for to in ways_in(80) {
            carries(transport, &|| Client::connect(&world.client, to).expect("connect"));
        }
        for name in ["in", "out"] {
            is_clean(&daemon.ctl, name);
            let shown = daemon.ctl.rule(name);
            assert_eq!(shown["plane"]["ipv4"]["plane"], "user", "{shown}");
            assert_eq!(shown["counters"]["flows"]["total"], 22, "{shown}");
        }
    }
}

/// A hop between two others, which unwraps one thing and wraps another.
#[test]
fn a_hop_in_the_middle() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    for (from, to) in [("wss", "tls"), ("tls", "ws"), ("ws", "wss"), ("wss", "wss")] {
        let middle =
            rule("middle", 443, "\"198.51.100.1:444\"", &[accept(from, ""), connect(to, "")].concat());
        let out = rule("out", 444, BACKEND, &accept(to, ""));
        let daemon = world.start(&[entry(from), middle, out].concat());
        carries(&format!("{from} to {to}"), &|| dial(&world, 80));
        ["in", "middle", "out"].iter().for_each(|name| is_clean(&daemon.ctl, name));
    }
}

/// Each direction ends when its sender says so, and the other one goes on.
#[test]
fn each_direction_ends_by_itself() {
    let (world, _authority) = world();
    let (told, heard) = mpsc::channel();
    // first to end its stream, and then it listens on
    serve(&world.backend, 81, move |Client(mut stream)| {
        stream.write_all(&text(100_000))?;
        stream.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        told.send(all).map_err(std::io::Error::other)
    });
    // answers when it has heard everything
    serve(&world.backend, 80, |Client(mut stream)| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)
    });
    for transport in TRANSPORTS {
        let legs = [
            entry(transport),
            exit(transport),
            rule("in-other", 81, "\"198.51.100.1:444\"", &connect(transport, "")),
            rule("out-other", 444, "\"203.0.113.2:81\"", &accept(transport, "")),
        ];
        let daemon = world.start(&legs.concat());
        let mut answer = Vec::new();
        let Client(mut stream) = dial(&world, 80);
        stream.write_all(&text(200_000)).expect("send");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        stream.read_to_end(&mut answer).expect("an answer");
        assert!(answer == text(200_000), "{transport}: {} bytes came back", answer.len());
        answer.clear();
        let Client(mut stream) = dial(&world, 81);
        stream.read_to_end(&mut answer).expect("the server's");
        assert!(answer == text(100_000), "{transport}: {} bytes came", answer.len());
        stream.write_all(&text(300_000)).expect("send after the other end has ended");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        let got = heard.recv_timeout(harness::traffic::PATIENCE).expect("the server hears the end");
        assert!(got == text(300_000), "{transport}: {} bytes arrived", got.len());
        for name in ["in", "out", "in-other", "out-other"] {
            eventually("the session is over", || {
                daemon.ctl.counter(name, "/flows/active") == 0
                    && daemon.ctl.counter(name, "/flows/total") == 1
            });
            is_clean(&daemon.ctl, name);
        }
    }
}

/// A reset at one end is one at the other, and not the end of a stream.
#[test]
fn a_reset_goes_through() {
    let (world, _authority) = world();
    let (told, heard) = mpsc::channel();
    serve(&world.backend, 80, move |Client(mut stream)| {
        stream.write_all(b"hello")?;
        let ended = stream.read(&mut [0; 8]).map_err(|error| error.kind());
        told.send(ended).map_err(std::io::Error::other)
    });
    for transport in TRANSPORTS {
        let _daemon = world.start(&[entry(transport), exit(transport)].concat());
        let mut client = dial(&world, 80);
        client.0.read_exact(&mut [0; 5]).expect("hello");
        client.reset();
        let ended = heard.recv_timeout(harness::traffic::PATIENCE).expect("the backend hears of it");
        assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset), "{transport}");
    }
}

/// The first word is the server's, and nobody has to say anything before.
#[test]
fn servers_may_speak_first() {
    let (world, _authority) = world();
    serve(&world.backend, 80, |Client(mut stream)| {
        stream.write_all(b"220 ready\r\n")?;
        stream.read(&mut [0; 1]).map(drop)
    });
    for transport in TRANSPORTS {
        let daemon = world.start(&[entry(transport), exit(transport)].concat());
        for turn in 0..50 {
            let mut banner = [0; 11];
            let read = dial(&world, 80).0.read_exact(&mut banner);
            read.unwrap_or_else(|error| panic!("{transport}, {turn}: {error}"));
            assert_eq!(&banner, b"220 ready\r\n");
        }
        is_clean(&daemon.ctl, "in");
    }
}

/// Old tunnels go on while the rules change, and new ones go by the new rules.
#[test]
fn rules_change_under_a_tunnel() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = world.start(&[entry("ws"), exit("ws")].concat());
    let mut old = dial(&world, 80).start_echo().expect("echo");
    for (out, into) in [
        (&["accept.path=/other"][..], &["connect.path=/other"][..]),
        (&["accept.token=secret"], &["connect.token=secret"]),
        (
            &["accept.transport=wss", "accept.cert=server.pem", "accept.key=server.key"],
            &["connect.transport=wss", "connect.sni=relay.test", "connect.ca=ca.pem"],
        ),
    ] {
        daemon.ctl.ok(&[&["set", "out"], out].concat());
        daemon.ctl.ok(&[&["set", "in"], into].concat());
        old.echo(b"as before").expect("an old tunnel");
        dial(&world, 80).upload(100_000).expect("a new one");
    }
    is_clean(&daemon.ctl, "in");
    is_clean(&daemon.ctl, "out");
}
