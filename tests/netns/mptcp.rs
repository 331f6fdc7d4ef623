//! Multipath TCP on both legs, and without a kernel that has it.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use harness::netns::NetNs;
use harness::traffic::{Client, PATIENCE, tcp_server};
use harness::world::{BACKEND, RELAY, RELAY_V6};
use harness::{World, eventually};
use socket2::{Domain, Protocol, Socket, Type};

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n\
                    accept = { mptcp = true }\nconnect = { mptcp = true }\n";

/// Whether this kernel has Multipath TCP.
fn is_there() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).is_ok()
}

/// Whether a test cannot run.
fn is_missing() -> bool {
    let missing = !is_there();
    if missing {
        harness::skip("Multipath TCP is missing: it needs a kernel with CONFIG_MPTCP");
    }
    missing
}

fn connect(ns: &NetNs, to: SocketAddr) -> Client {
    let socket = ns.run(|| {
        let socket =
            Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP)).expect("socket");
        socket.connect_timeout(&to.into(), PATIENCE).map(|()| socket)
    });
    let stream = TcpStream::from(socket.expect("connect"));
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    Client(stream)
}

fn count(ns: &NetNs, counter: &str) -> u64 {
    ns.netstat("MPTcpExt", counter)
}

#[test]
fn both_legs_speak_it_with_who_does_and_tcp_with_others() {
    if is_missing() {
        return;
    }
    let world = World::new();
    let mut daemon = world.start(RULE);
    let _tcp = tcp_server(&world.backend, 80);
    let address = SocketAddr::from((BACKEND, 81));
    let listener = world.backend.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).expect("socket");
        socket.bind(&address.into()).and_then(|()| socket.listen(16)).expect("listen");
        TcpListener::from(socket)
    });
    for to in [SocketAddr::from((RELAY, 8080)), SocketAddr::from((RELAY_V6, 8080))] {
        let before = count(&world.relay, "MPCapableACKRX");
        connect(&world.client, to).upload(4 << 20).expect("upload");
        connect(&world.client, to).download(4 << 20).expect("download");
        assert_eq!(count(&world.relay, "MPCapableACKRX"), before + 2, "{to}: the client leg");
        // a client and a backend without it
        Client::connect(&world.client, to).and_then(|client| client.upload(4 << 20)).expect("plain");
        assert_eq!(count(&world.relay, "MPCapableACKRX"), before + 2, "{to}");
    }
    daemon.ctl.ok(&["set", "web", "to=203.0.113.2:81"]);
    let before = count(&world.backend, "MPCapableACKRX");
    let client = connect(&world.client, SocketAddr::from((RELAY, 8080)));
    let (mut accepted, _) = listener.accept().expect("accept");
    assert_eq!(count(&world.backend, "MPCapableACKRX"), before + 1, "the backend leg");
    // each direction ends by itself
    std::io::Write::write_all(&mut &client.0, b"question").expect("write");
    client.0.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut accepted, &mut text).expect("read");
    assert_eq!(text, "question");
    std::io::Write::write_all(&mut accepted, b"answer").expect("write");
    drop(accepted);
    text.clear();
    std::io::Read::read_to_string(&mut &client.0, &mut text).expect("read");
    assert_eq!(text, "answer");
    eventually("the session is over", || daemon.ctl.counter("web", "/flows/active") == 0);
    assert!(!daemon.log().contains("no Multipath TCP here"));
}

#[test]
fn the_kind_of_a_listener_changes_under_way() {
    if is_missing() {
        return;
    }
    let world = World::new();
    let daemon = world.start(RULE);
    let _tcp = tcp_server(&world.backend, 80);
    let to = SocketAddr::from((RELAY, 8080));
    let mut old = connect(&world.client, to).start_echo().expect("echo");
    for on in ["false", "true", "false", "true"] {
        daemon.ctl.ok(&["set", "web", &format!("accept.mptcp={on}")]);
        let multipath = || {
            let before = count(&world.relay, "MPCapableACKRX");
            connect(&world.client, to).upload(1000).expect("upload");
            count(&world.relay, "MPCapableACKRX") > before
        };
        // the listeners of the other kind close when they have taken in who was waiting
        eventually("only the other kind listens", || (0..8).all(|_| multipath() == (on == "true")));
        old.echo(b"still here").expect("echo");
    }
    daemon.ctl.ok(&["disable", "web"]);
    assert!(Client::connect(&world.client, to).is_err(), "nothing listens");
    daemon.ctl.ok(&["enable", "web"]);
    connect(&world.client, to).upload(1000).expect("upload");
    daemon.ctl.ok(&["drain", "web"]);
    assert!(Client::connect(&world.client, to).is_err(), "nothing listens");
    old.echo(b"still here").expect("echo");
    daemon.ctl.ok(&["enable", "web"]);
    connect(&world.client, to).upload(1000).expect("upload");
    daemon.ctl.ok(&["rm", "web"]);
    let port = world.relay.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080)));
    port.expect("the port is free");
}

#[test]
fn without_it_tcp_serves_and_that_is_said_once() {
    let world = World::new();
    if is_there() {
        world.relay.sysctl("net/mptcp/enabled", "0");
    }
    let mut daemon = world.start(RULE);
    let _tcp = tcp_server(&world.backend, 80);
    for to in [SocketAddr::from((RELAY, 8080)), SocketAddr::from((RELAY_V6, 8080))] {
        for _ in 0..3 {
            Client::connect(&world.client, to).and_then(|client| client.upload(1 << 20)).expect("upload");
        }
    }
    assert_eq!(daemon.log().matches("no Multipath TCP here").count(), 1);
    assert_eq!(daemon.ctl.rule("web")["state"], "active");
}
