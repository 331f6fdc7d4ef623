//! Backends that refuse, hang, break off, or answer before they are asked.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use harness::netns::NetNs;
use harness::traffic::{Client, PATIENCE, tcp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{World, eventually, patience};
use socket2::{Domain, Socket, Type};

use super::{Beside, RULES, active, refused};

/// Serves port 80 with a function, for so many connections.
fn backend(ns: &NetNs, connections: usize, serve: fn(TcpStream)) {
    let listener = ns.run(|| TcpListener::bind("0.0.0.0:80")).expect("bind");
    thread::spawn(move || {
        for stream in listener.incoming().take(connections).flatten() {
            thread::spawn(move || serve(stream));
        }
    });
}

/// What ends a client's connection, after everything that came before it.
fn end_of(client: &mut Client) -> std::io::Result<Vec<u8>> {
    let mut received = Vec::new();
    client.0.read_to_end(&mut received).map(|_| received)
}

#[test]
fn one_that_refuses() {
    let world = World::new();
    let daemon = world.start(RULES);
    let beside = Beside::start(&world);
    for number in 1..=5 {
        let client = Client::connect(&world.client, (RELAY_V6, 8080));
        // it may be there before the connection is looked at
        let error = client.and_then(|mut client| end_of(&mut client)).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        eventually("it is counted", || refused(&daemon, "backend_refused") == number);
    }
    beside.finish(&daemon);
    assert_eq!(active(&daemon), 0);
}

#[test]
fn one_that_never_answers_a_connection() {
    let world = World::new();
    let daemon = world.start(RULES);
    // a queue for one that nobody takes from: further connections are left without an answer
    let (_listener, _waiting) = world.backend.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        let address = std::net::SocketAddr::from(([203, 0, 113, 2], 80));
        socket.bind(&address.into()).expect("bind");
        socket.listen(0).expect("listen");
        let limit = Duration::from_millis(300);
        let waiting: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&address, limit)).collect();
        assert!(waiting.iter().any(Result::is_err), "the queue is full");
        (socket, waiting)
    });
    let beside = Beside::start(&world);
    let mut clients: Vec<Client> =
        (0..20).map(|_| Client::connect(&world.client, (RELAY, 8080)).expect("connect")).collect();
    let start = Instant::now();
    for client in &mut clients {
        end_of(client).expect_err("a reset");
    }
    assert!(start.elapsed() < patience(PATIENCE), "they wait side by side");
    eventually("they are counted", || refused(&daemon, "backend_timeout") == 20);
    beside.finish(&daemon);
    assert_eq!(active(&daemon), 0);
}

#[test]
fn one_that_breaks_off() {
    let world = World::new();
    let daemon = world.start(RULES);
    let beside = Beside::start(&world);
    backend(&world.backend, 10, |mut stream| {
        stream.write_all(&[0x41; 1000]).expect("send");
        // the client has it before the reset
        stream.read_exact(&mut [0]).expect("its word");
        Socket::from(stream).set_linger(Some(Duration::ZERO)).expect("linger");
    });
    for to in [(RELAY.into(), 8080), (RELAY_V6.into(), 8080)].repeat(5) {
        let to: (std::net::IpAddr, u16) = to;
        let mut client = Client::connect(&world.client, to).expect("connect");
        client.0.read_exact(&mut [0; 1000]).expect("what came before");
        client.0.write_all(b"!").expect("send");
        let error = end_of(&mut client).expect_err("a reset, not an end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    beside.finish(&daemon);
    eventually("they are over", || active(&daemon) == 0);
}

#[test]
fn one_that_answers_early_and_closes() {
    const ANSWER: usize = 3 << 20;
    const TRIES: usize = 10;
    let world = World::new();
    let daemon = world.start(RULES);
    let beside = Beside::start(&world);
    backend(&world.backend, TRIES, |mut stream| {
        stream.read_exact(&mut [0; 1000]).expect("the beginning");
        stream.write_all(&vec![0x41; ANSWER]).expect("the answer");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        let mut rest = Vec::new();
        let _gone = stream.read_to_end(&mut rest);
    });
    for _ in 0..TRIES {
        let mut client = Client::connect(&world.client, (RELAY_V6, 8080)).expect("connect");
        let mut sending = client.0.try_clone().expect("stream");
        // still at it while the answer comes
        let upload = thread::spawn(move || {
            for _ in 0..50 {
                sending.write_all(&[0x42; 16 << 10]).expect("the upload goes on");
                thread::sleep(Duration::from_millis(2));
            }
            sending.shutdown(Shutdown::Write).expect("shutdown");
        });
        assert_eq!(end_of(&mut client).expect("the answer").len(), ANSWER);
        upload.join().expect("upload");
    }
    beside.finish(&daemon);
    eventually("they are over", || active(&daemon) == 0);
}

#[test]
fn one_that_is_gone_without_a_word() {
    let world = World::new();
    let daemon = world.start(RULES);
    let _server = tcp_server(&world.backend, 80);
    let mut client =
        Client::connect(&world.client, (RELAY_V6, 8080)).and_then(Client::start_echo).expect("echo");
    client.echo(b"hello").expect("echo");
    let cable = "backend";
    world.backend.down(cable);
    // silence is all there is: the idle timeout ends it, and the client is told
    assert!(end_of(&mut client).is_err(), "a reset");
    eventually("it is over", || active(&daemon) == 0);
    world.backend.up(cable);
}
