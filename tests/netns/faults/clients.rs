//! Clients that say nothing, half of it, too much, or break off.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use harness::traffic::{Client, Datagrams, tcp_server, text};
use harness::world::{RELAY, RELAY_V6};
use harness::{World, eventually, within};

use super::{Beside, RULES, active, raise_descriptors, refused};

#[test]
fn ones_that_end_their_side_first_get_the_whole_answer() {
    let world = World::new();
    let daemon = world.start(RULES);
    let beside = Beside::start(&world);
    let listener = world.backend.run(|| TcpListener::bind("0.0.0.0:80")).expect("bind");
    let server = thread::spawn(move || {
        for mut stream in listener.incoming().take(4).flatten() {
            let mut question = Vec::new();
            stream.read_to_end(&mut question).expect("the question and its end");
            // long after the client has ended its side
            thread::sleep(Duration::from_millis(500));
            stream.write_all(&question.repeat(1000)).expect("the answer");
        }
    });
    for to in [(RELAY.into(), 8080), (RELAY_V6.into(), 8080)].repeat(2) {
        let to: (std::net::IpAddr, u16) = to;
        let Client(mut stream) = Client::connect(&world.client, to).expect("connect");
        stream.write_all(&text(1000)).expect("the question");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the answer");
        assert!(answer == text(1000).repeat(1000), "{} bytes of another answer", answer.len());
    }
    server.join().expect("server");
    beside.finish(&daemon);
}

#[test]
fn ones_that_never_speak_are_forgotten() {
    let world = World::new();
    let daemon = world.start(RULES);
    let _server = tcp_server(&world.backend, 80);
    let beside = Beside::start(&world);
    let silent: Vec<TcpStream> =
        (0..200).map(|_| Client::connect(&world.client, (RELAY_V6, 8080)).expect("connect").0).collect();
    eventually("they are there", || daemon.ctl.counter("web", "/flows/total") == 200);
    eventually("they are gone", || active(&daemon) == 0);
    drop(silent);
    beside.finish(&daemon);
}

#[test]
fn ones_that_vanish_are_noticed_as_the_rule_says_by_now() {
    let world = World::new();
    let range = "name = \"range\"\nlisten = \":2000-7999\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";
    let daemon = world.start(&format!("{}\n[[rule]]\n{range}", RULES.replace("tcp_idle = \"2s\", ", "")));
    let _server = tcp_server(&world.backend, 80);
    for name in ["web", "range"] {
        let keepalive = ["idle=1s", "interval=1s", "count=2"].map(|part| format!("timeout.keepalive.{part}"));
        daemon.ctl.ok(&["set", name, &keepalive[0], &keepalive[1], &keepalive[2]]);
    }
    let clients = [8080, 2000].map(|port| {
        let client = Client::connect(&world.client, (RELAY, port)).and_then(Client::start_echo);
        let mut client = client.expect("connect");
        client.echo(b"hello").expect("echo");
        client
    });
    // what has not been acknowledged would be sent again, for longer than the peer is asked whether it is there
    thread::sleep(Duration::from_millis(500));
    world.client.down("client");
    // a minute by what the listeners were opened with
    within(Duration::from_secs(20), "they are gone", &mut || {
        ["web", "range"].iter().all(|name| daemon.ctl.counter(name, "/flows/active") == 0)
    });
    drop(clients);
}

#[test]
fn ones_that_break_off_take_nobody_along() {
    let world = World::new();
    let daemon = world.start(RULES);
    let server = tcp_server(&world.backend, 80);
    let beside = Beside::start(&world);
    for _ in 0..100 {
        let mut client =
            Client::connect(&world.client, (RELAY_V6, 8080)).and_then(Client::start_echo).expect("echo");
        client.echo(b"hello").expect("echo");
        client.reset();
    }
    eventually("they are over", || active(&daemon) == 0);
    assert_eq!(server.count(), 100);
    beside.finish(&daemon);
}

#[test]
fn a_crowd_that_comes_at_once_is_served() {
    raise_descriptors();
    let world = World::new();
    // the first may have to wait until the last is there
    let daemon = world.start(&RULES.replace("tcp_idle = \"2s\", ", ""));
    let _server = tcp_server(&world.backend, 80);
    let beside = Beside::start(&world);
    let clients: Vec<Client> =
        (0..1000).map(|_| Client::connect(&world.client, (RELAY_V6, 8080)).expect("connect")).collect();
    for client in clients {
        client.upload(100).expect("upload");
    }
    eventually("they are over", || active(&daemon) == 0);
    assert_eq!(refused(&daemon, "descriptors"), 0);
    beside.finish(&daemon);
}

#[test]
fn one_way_datagrams_keep_their_session_and_its_port() {
    let world = World::new();
    let rules =
        RULES.replace("plane = \"user\"\ntimeout = { ", "plane = \"user\"\ntimeout = { udp = \"2s\", ");
    let daemon = world.start(&rules);
    let sink = world.backend.run(|| std::net::UdpSocket::bind("0.0.0.0:80")).expect("bind");
    sink.set_read_timeout(Some(harness::traffic::PATIENCE)).expect("timeout");
    let client = Datagrams::new(&world.client, (RELAY_V6, 8080));
    let mut ports = Vec::new();
    for _ in 0..10 {
        client.0.send(b"one way").expect("send");
        ports.push(sink.recv_from(&mut [0; 16]).expect("it arrives").1.port());
        thread::sleep(Duration::from_millis(300));
    }
    ports.dedup();
    assert_eq!(ports.len(), 1, "the session began anew: {ports:?}");
    assert_eq!(daemon.ctl.counter("web", "/flows/total"), 1);
    // and one that hears but does not speak keeps it, too
    let server = (RELAY_V6, 8080);
    drop((client, sink));
    let talker = world.backend.run(|| std::net::UdpSocket::bind("0.0.0.0:80")).expect("bind");
    talker.set_read_timeout(Some(harness::traffic::PATIENCE)).expect("timeout");
    let client = Datagrams::new(&world.client, server);
    client.0.send(b"talk to me").expect("send");
    let (_, session) = talker.recv_from(&mut [0; 16]).expect("it arrives");
    for number in 0..10 {
        talker.send_to(&[number], session).expect("send");
        client.0.recv(&mut [0; 16]).expect("heard");
        thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn strangers_are_not_let_through_to_a_datagram_client() {
    let world = World::new();
    let daemon = world.start(RULES);
    let backend = world.backend.run(|| std::net::UdpSocket::bind("0.0.0.0:80")).expect("bind");
    let stranger = world.backend.run(|| std::net::UdpSocket::bind("0.0.0.0:4444")).expect("bind");
    let client = Datagrams::new(&world.client, (RELAY_V6, 8080));
    let ask = || {
        client.0.send(b"who is there?").expect("send");
        let (_, session) = backend.recv_from(&mut [0; 64]).expect("it arrives");
        stranger.send_to(b"a stranger", session).expect("send");
        backend.send_to(b"the backend", session).expect("send");
        let mut answer = [0; 64];
        let length = client.0.recv(&mut answer).expect("an answer");
        answer[..length].to_vec()
    };
    assert_eq!(ask(), b"the backend");
    daemon.ctl.ok(&["set", "web", "udp_nat=fullcone"]);
    let client = Datagrams::new(&world.client, (RELAY, 8080));
    client.0.send(b"who is there?").expect("send");
    let (_, session) = backend.recv_from(&mut [0; 64]).expect("it arrives");
    stranger.send_to(b"a stranger", session).expect("send");
    assert_eq!(client.0.recv(&mut [0; 64]).expect("anybody"), b"a stranger".len());
}
