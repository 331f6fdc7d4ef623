//! Many clients in few connections between two Relays.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use harness::datagrams::Datagrams;
use harness::kaminari::Kaminari;
use harness::traffic::{Client, PATIENCE, tcp_server, text, udp_server};
use harness::world::{BACKEND as HOST_OF_BACKEND, RELAY};
use harness::{Ctl, Daemon, World, eventually, within};

use super::datagrams::{THROUGH, with_udp};
use super::hop::Hop;
use super::{
    BACKEND, LIMIT, TRANSPORTS, accept, are_clean, carries, connect, dial, drops, enter, entries, exits,
    is_clean, own, ports, rule, serve, start, world,
};

const MUX: &str = "mux = true";

fn both_ends() -> String {
    [entries(MUX, ""), exits("", "")].concat()
}

/// Sessions under way at the exit, and the connections that they are in.
fn active(ctl: &Ctl, transport: &str) -> u64 {
    ctl.counter(&format!("out-{transport}"), "/flows/active")
}

#[test]
fn bulk_both_ways() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        carries(transport, &|| enter(&world, transport));
        let shown = daemon.ctl.rule(&format!("in-{transport}"));
        assert_eq!(shown["counters"]["flows"]["total"], 11, "{shown}");
        // one by each worker at most
        let total = daemon.ctl.counter(&format!("out-{transport}"), "/flows/total");
        assert!((12..=13).contains(&total), "{transport}: {total}");
    }
    are_clean(&daemon.ctl);
}

/// A hop between two others: clients share what comes in to it, what goes on from it, or both. UDP has tunnels of its own.
#[test]
fn a_hop_in_the_middle() {
    let (world, _authority) = world();
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let hops = [(true, true), (true, false), (false, true)];
    let mut rules = String::new();
    for (port, (first, second)) in (8000..).zip(hops) {
        let keys = |mux| format!("{THROUGH}, mux = {mux}");
        let legs = [accept("tls", THROUGH), connect("wss", &keys(second))].concat();
        rules += &rule(&format!("in-{port}"), port, &own(port + 100), &connect("tls", &keys(first)));
        rules += &rule(&format!("middle-{port}"), port + 100, &own(port + 200), &legs);
        rules += &rule(&format!("out-{port}"), port + 200, BACKEND, &accept("wss", THROUGH));
    }
    let daemon = start(&world, &with_udp(&rules));
    for (port, (first, second)) in (8000..).zip(hops) {
        carries(&format!("{first} and {second}"), &|| dial(&world, port));
        Datagrams::new(&world.client, (RELAY, port)).echo(&text(9000)).expect("a datagram");
        ["in", "middle", "out"].iter().for_each(|name| is_clean(&daemon.ctl, &format!("{name}-{port}")));
    }
}

/// A thousand clients need a few connections, and none of them waits for one that reads nothing.
#[test]
fn a_thousand_sessions() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    serve(&world.backend, 81, |Client(mut stream)| {
        loop {
            stream.write_all(&[7; 65_536])?;
        }
    });
    let more = rule("in-flood", 90, &own(490), &connect("wss", MUX))
        + &rule("out-flood", 490, "\"203.0.113.2:81\"", &accept("wss", ""));
    let daemon = start(&world, &[both_ends(), more].concat());
    let stalled: Vec<Client> = (0..8).map(|_| dial(&world, 90)).collect();
    for transport in TRANSPORTS {
        let mut clients: Vec<_> =
            (0..1000).map(|_| enter(&world, transport).start_echo().expect("echo")).collect();
        let connections = active(&daemon.ctl, transport) - 1000;
        assert!((16..=20).contains(&connections), "{transport}: {connections}");
        for (length, client) in clients.iter_mut().enumerate() {
            client.echo(&text(length + 1)).unwrap_or_else(|error| panic!("{transport}, {length}: {error}"));
        }
        drop(clients);
        eventually("the sessions are over", || active(&daemon.ctl, transport) <= connections);
        is_clean(&daemon.ctl, &format!("in-{transport}"));
    }
    drop(stalled);
}

#[test]
fn each_direction_ends_by_itself() {
    let (world, _authority) = world();
    serve(&world.backend, 80, |Client(mut stream)| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)
    });
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        let mut answer = Vec::new();
        let Client(mut stream) = enter(&world, transport);
        stream.write_all(&text(200_000)).expect("send");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        stream.read_to_end(&mut answer).expect("an answer");
        assert!(answer == text(200_000), "{transport}: {} bytes came back", answer.len());
        eventually("the session is over", || active(&daemon.ctl, transport) == 1);
    }
    are_clean(&daemon.ctl);
}

/// A reset at one end is one at the other, and not the end of a stream; also when one end reads nothing.
#[test]
fn resets_go_through() {
    let (world, _authority) = world();
    let (told, heard) = mpsc::channel();
    let (read, may_read) = mpsc::channel::<()>();
    let may_read = Arc::new(Mutex::new(may_read));
    serve(&world.backend, 80, move |client| {
        let mut order = [0];
        client.0.set_read_timeout(Some(PATIENCE))?;
        (&client.0).write_all(b"hello")?;
        match (&client.0).read(&mut order) {
            Ok(1) if order == *b"r" => client.reset(),
            Ok(1) => {
                let _given_up = may_read.lock().map(|turn| turn.recv_timeout(PATIENCE));
                let ended = std::io::copy(&mut &client.0, &mut std::io::sink()).map_err(|error| error.kind());
                told.send(ended.map(drop)).map_err(std::io::Error::other)?;
            }
            ended => {
                told.send(ended.map(drop).map_err(|error| error.kind())).map_err(std::io::Error::other)?
            }
        }
        Ok(())
    });
    let _daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        let greeted = || {
            let mut client = enter(&world, transport);
            client.0.read_exact(&mut [0; 5]).expect("hello");
            client
        };
        let mut other = greeted();
        greeted().reset();
        let ended = heard.recv_timeout(PATIENCE).expect("the backend hears of it");
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{transport}");
        let mut client = greeted();
        client.0.write_all(b"r").expect("an order");
        let ended = client.0.read(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{transport}");
        let mut client = greeted();
        client.0.write_all(b"x").expect("an order");
        client.0.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        while client.0.write(&[7; 65_536]).is_ok() {}
        client.reset();
        read.send(()).expect("the backend goes on");
        let ended = heard.recv_timeout(PATIENCE).expect("the backend hears of it");
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "{transport}");
        other.0.write_all(b"r").expect("the others have gone on");
    }
}

/// The first word is the server's.
#[test]
fn servers_may_speak_first() {
    let (world, _authority) = world();
    serve(&world.backend, 80, |Client(mut stream)| {
        stream.write_all(b"220 ready\r\n")?;
        stream.read(&mut [0; 1]).map(drop)
    });
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        for turn in 0..100 {
            let mut banner = [0; 11];
            let read = enter(&world, transport).0.read_exact(&mut banner);
            read.unwrap_or_else(|error| panic!("{transport}, {turn}: {error}"));
            assert_eq!(&banner, b"220 ready\r\n");
        }
    }
    are_clean(&daemon.ctl);
}

/// Whether a new client gets through.
fn is_let_in(world: &World, transport: &str) -> bool {
    let client = Client::connect(&world.client, (RELAY, ports(transport).0));
    client.and_then(|client| client.upload(1000)).is_ok()
}

/// An exit that goes and comes back: old sessions go on, and new ones get a connection of the new exit.
#[test]
fn another_connection_when_one_is_gone() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        let mut old = enter(&world, transport).start_echo().expect("echo");
        daemon.ctl.ok(&["disable", &format!("out-{transport}")]);
        old.echo(b"as before").expect("a session that there was");
        daemon.ctl.ok(&["enable", &format!("out-{transport}")]);
        within(LIMIT, "a new connection", &mut || is_let_in(&world, transport));
    }
}

/// An exit that drains takes no more streams, and carries those that it has.
#[test]
fn an_exit_drains() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        let mut old = enter(&world, transport).start_echo().expect("echo");
        daemon.ctl.ok(&["drain", &format!("out-{transport}")]);
        within(LIMIT, "nobody new is let in", &mut || !is_let_in(&world, transport));
        old.echo(&text(10_000)).expect("an old session");
    }
}

/// Streams count as clients do, and so does their connection.
#[test]
fn limits_hold() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let rules = [
        rule("in", 80, &own(443), &connect("wss", MUX)),
        rule("out", 443, BACKEND, &(accept("wss", "") + "limit = { connections_per_ip = 40 }\n")),
    ];
    let daemon = start(&world, &rules.concat());
    // who is refused may be reset before connect(2) is over
    let open = || Client::connect(&world.client, (RELAY, 80)).and_then(Client::start_echo);
    let mut inside: Vec<_> = (0..60).filter_map(|_| open().ok()).collect();
    // a connection of each worker
    assert!((38..=39).contains(&inside.len()), "{}", inside.len());
    assert!(drops(&daemon.ctl, "out", "limit_connections_per_ip") >= 21);
    inside[0].echo(b"still here").expect("those who are in");
}

/// Who reads nothing, and whoever a backend does not read from, fill windows of their own: others in the same connections
/// go on. So do they when one of them is reset.
#[test]
fn clients_do_not_hold_each_other_up() {
    let (world, _authority) = world();
    serve(&world.backend, 80, |Client(mut stream)| {
        let mut order = [0];
        stream.read_exact(&mut order)?;
        match &order {
            b"f" => loop {
                stream.write_all(&[7; 65_536])?;
            },
            b"s" => thread::sleep(Duration::from_secs(60)),
            _ => {
                let mut piece = [0; 16_384];
                loop {
                    let length = stream.read(&mut piece)?;
                    if length == 0 {
                        break;
                    }
                    stream.write_all(&piece[..length])?;
                }
            }
        }
        Ok(())
    });
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        let ordered = |order: &[u8]| {
            let mut client = enter(&world, transport);
            client.0.write_all(order).expect("an order");
            client
        };
        let mut talking: Vec<Client> = (0..20).map(|_| ordered(b"e")).collect();
        let mut stalled: Vec<Client> = (0..10).map(|_| ordered(b"f")).collect();
        for _ in 0..10 {
            let mut client = ordered(b"s");
            client.0.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
            while client.0.write(&[7; 65_536]).is_ok() {}
            stalled.push(client);
        }
        let total = active(&daemon.ctl, transport);
        assert!((41..=42).contains(&total), "{transport}: {total}");
        for client in &mut talking {
            client.echo(&text(100_000)).unwrap_or_else(|error| panic!("{transport}: {error}"));
        }
        stalled.into_iter().for_each(Client::reset);
        within(LIMIT, "who was reset is gone", &mut || active(&daemon.ctl, transport) <= 22);
        for client in &mut talking {
            client.echo(&text(100_000)).unwrap_or_else(|error| panic!("{transport}: {error}"));
        }
    }
    are_clean(&daemon.ctl);
}

/// A connection that breaks ends its clients, each of which is counted and logged; the next ones get another one.
#[test]
fn a_connection_that_breaks() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let rules =
        [rule("in", 80, &own(442), &connect("wss", MUX)), rule("out", 443, BACKEND, &accept("wss", ""))];
    let log = "[log]\nformat = \"json\"\nconnections = true\n\n";
    let mut daemon = start(&world, &[log, &rules.concat()].concat());
    let hop = Hop::start(&world.relay, 442, 443, Duration::ZERO, None);
    for round in 1..=2 {
        let mut clients: Vec<Client> =
            (0..20).map(|_| dial(&world, 80).start_echo().expect("by a connection")).collect();
        hop.cut();
        for client in &mut clients {
            let ended = client.0.read(&mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(ended, Err(ErrorKind::ConnectionReset), "it is no end of a stream");
        }
        for name in ["in", "out"] {
            within(LIMIT, "all are counted", &mut || drops(&daemon.ctl, name, "tunnel_lost") == 20 * round);
        }
    }
    dial(&world, 80).upload(10_000).expect("by another connection");
    let mut lines = String::new();
    within(LIMIT, "all are logged", &mut || {
        lines = daemon.log();
        let of = |rule: &str| {
            let name = format!("\"rule\":\"{rule}\"");
            let lost = |line: &&str| line.contains(&name) && line.contains("\"reason\":\"tunnel_lost\"");
            // the order, and a byte there and back
            let bytes = "\"ingress\":10,\"egress\":1,";
            lines.lines().filter(lost).filter(|line| line.contains(bytes)).count()
        };
        (of("in"), of("out")) == (40, 40)
    });
}

/// `relayctl test` goes the way of a client: in a stream, and to its end.
#[test]
fn a_test_goes_the_same_way() {
    let (world, _authority) = world();
    let server = tcp_server(&world.backend, 80);
    let options = "ws;host=relay.test;path=/tunnel";
    let _kaminari = Kaminari::server(&world.backend, 443, (HOST_OF_BACKEND, 80).into(), options);
    let rules = rule("stranger", 90, "\"203.0.113.2:443\"", &connect("ws", MUX));
    let daemon = start(&world, &[both_ends(), rules].concat());
    for transport in TRANSPORTS {
        let said = daemon.ctl.ok(&["test", &format!("in-{transport}")]);
        for part in ["ok      mux", "takes streams of many clients", "all is well\n"] {
            assert!(said.contains(part), "{transport}: {said}");
        }
    }
    assert_eq!(server.count(), 3, "each has reached the server");
    eventually("none has left anything", || TRANSPORTS.iter().all(|of| active(&daemon.ctl, of) == 0));
    are_clean(&daemon.ctl);
    let said = daemon.ctl.run(&["test", "stranger"]);
    assert!(said.code == 1 && said.out.contains("connect.mux"), "{}", said.out);
}

/// The next backend where the other end does not know what this is.
#[test]
fn a_peer_that_does_not_agree() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let options = "ws;host=relay.test;path=/tunnel";
    let _kaminari = Kaminari::server(&world.backend, 443, (HOST_OF_BACKEND, 80).into(), options);
    let more = [connect("ws", MUX).as_str(), "balance = \"first\"\ncheck = \"passive\"\n"].concat();
    let to = format!("[\"203.0.113.2:443\", {}]", own(ports("ws").1));
    let mut daemon: Daemon = start(&world, &[exits("", ""), rule("in", 80, &to, &more)].concat());
    dial(&world, 80).upload(10_000).expect("by the other one");
    within(LIMIT, "it is said which option it is", &mut || daemon.log().contains("connect.mux"));
}

/// A connection that nobody needs goes.
#[test]
fn idle_connections_go() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let daemon = start(&world, &both_ends());
    for transport in TRANSPORTS {
        enter(&world, transport).upload(1000).expect("upload");
        assert_eq!(active(&daemon.ctl, transport), 1);
    }
    within(Duration::from_secs(60), "they go", &mut || {
        TRANSPORTS.iter().all(|transport| active(&daemon.ctl, transport) == 0)
    });
    are_clean(&daemon.ctl);
}
