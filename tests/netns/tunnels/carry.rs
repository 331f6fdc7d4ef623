//! Both ends are Relays: what goes in comes out, whatever the pieces, and each direction ends by itself.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::mpsc;

use harness::eventually;
use harness::traffic::{Client, PATIENCE, tcp_server, text};

use super::{
    BACKEND, TRANSPORTS, accept, are_clean, both_ends, carries, connect, dial, enter, is_clean, own, ports,
    rule, serve, start, ways_in, world,
};

#[test]
fn bulk_both_ways() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        for to in ways_in(ports(transport).0) {
            carries(transport, &|| Client::connect(&world.client, to).expect("connect"));
        }
        for end in ["in", "out"] {
            let shown = daemon.ctl.rule(&format!("{end}-{transport}"));
            assert_eq!(shown["plane"]["ipv4"]["plane"], "user", "{shown}");
            assert_eq!(shown["counters"]["flows"]["total"], 22, "{shown}");
        }
    }
    are_clean(&daemon.ctl);
}

/// A hop between two others, which unwraps one thing and wraps another.
#[test]
fn a_hop_in_the_middle() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let hops = [("wss", "tls"), ("tls", "ws"), ("ws", "wss"), ("wss", "wss")];
    let mut rules = String::new();
    for (port, (from, to)) in (8000..).zip(hops) {
        let legs = [accept(from, ""), connect(to, "")].concat();
        rules += &rule(&format!("in-{port}"), port, &own(port + 100), &connect(from, ""));
        rules += &rule(&format!("middle-{port}"), port + 100, &own(port + 200), &legs);
        rules += &rule(&format!("out-{port}"), port + 200, BACKEND, &accept(to, ""));
    }
    let daemon = start(&world, &rules);
    for (port, (from, to)) in (8000..).zip(hops) {
        carries(&format!("{from} to {to}"), &|| dial(&world, port));
        ["in", "middle", "out"].iter().for_each(|name| is_clean(&daemon.ctl, &format!("{name}-{port}")));
    }
}

/// Of a second pair of rules.
fn other_ports(transport: &str) -> (u16, u16) {
    let (port, exit) = ports(transport);
    (port + 10, exit + 10)
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
    let mut rules = both_ends();
    for transport in TRANSPORTS {
        let (port, exit) = other_ports(transport);
        rules += &rule(&format!("other-in-{transport}"), port, &own(exit), &connect(transport, ""));
        rules += &rule(&format!("other-out-{transport}"), exit, "\"203.0.113.2:81\"", &accept(transport, ""));
    }
    let daemon = start(&world, &rules);
    for transport in TRANSPORTS {
        let mut answer = Vec::new();
        let Client(mut stream) = enter(&world, transport);
        stream.write_all(&text(200_000)).expect("send");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        stream.read_to_end(&mut answer).expect("an answer");
        assert!(answer == text(200_000), "{transport}: {} bytes came back", answer.len());
        answer.clear();
        let Client(mut stream) = dial(&world, other_ports(transport).0);
        stream.read_to_end(&mut answer).expect("the server's");
        assert!(answer == text(100_000), "{transport}: {} bytes came", answer.len());
        stream.write_all(&text(300_000)).expect("send after the other end has ended");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        let got = heard.recv_timeout(PATIENCE).expect("the server hears the end");
        assert!(got == text(300_000), "{transport}: {} bytes arrived", got.len());
        for rule in ["in", "out", "other-in", "other-out"].map(|end| format!("{end}-{transport}")) {
            eventually("the session is over", || {
                let of = |counter: &str| daemon.ctl.counter(&rule, &format!("/flows/{counter}"));
                of("active") == 0 && of("total") == 1
            });
            is_clean(&daemon.ctl, &rule);
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
    let _daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        let mut client = enter(&world, transport);
        client.0.read_exact(&mut [0; 5]).expect("hello");
        client.reset();
        let ended = heard.recv_timeout(PATIENCE).expect("the backend hears of it");
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{transport}");
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
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        for turn in 0..50 {
            let mut banner = [0; 11];
            let read = enter(&world, transport).0.read_exact(&mut banner);
            read.unwrap_or_else(|error| panic!("{transport}, {turn}: {error}"));
            assert_eq!(&banner, b"220 ready\r\n");
        }
    }
    are_clean(&daemon.ctl);
}

/// Old tunnels go on while the rules change, and new ones go by the new rules.
#[test]
fn rules_change_under_a_tunnel() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &both_ends());
    let mut old = enter(&world, "ws").start_echo().expect("echo");
    for (out, into) in [
        (&["accept.path=/other"][..], &["connect.path=/other"][..]),
        (&["accept.token=secret"], &["connect.token=secret"]),
        (
            &["accept.transport=wss", "accept.cert=server.pem", "accept.key=server.key"],
            &["connect.transport=wss", "connect.sni=relay.test", "connect.ca=ca.pem"],
        ),
    ] {
        daemon.ctl.ok(&[&["set", "out-ws"], out].concat());
        daemon.ctl.ok(&[&["set", "in-ws"], into].concat());
        old.echo(b"as before").expect("an old tunnel");
        enter(&world, "ws").upload(100_000).expect("a new one");
    }
    are_clean(&daemon.ctl);
}
