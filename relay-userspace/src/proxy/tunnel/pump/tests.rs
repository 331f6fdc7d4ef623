//! Legs whose peers take nothing, ask for too much or break off.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use relay_common::net::Protocol;
use socket2::SockRef;

use super::side::MOST_OWED;
use super::*;
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tunnel::layers::{Layers, Ws};
use crate::proxy::tunnel::ws::{Masking, Role};

/// A leg, and its peer.
fn pair() -> (Leg, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
    let peer = TcpStream::connect(listener.local_addr().expect("address")).expect("peer");
    let (stream, _) = listener.accept().expect("client");
    stream.set_nonblocking(true).expect("non-blocking");
    (Leg::new(tokio::net::TcpStream::from_std(stream).expect("stream")), peer)
}

#[tokio::test]
async fn who_asks_and_does_not_listen_is_not_heard_until_it_does() {
    const PIECE: [u8; 4096] = [7; 4096];
    let (leg, mut peer) = pair();
    let mut side = Side::new(&leg, Layers::default(), Vec::new());
    let mut answered = 0;
    while !side.is_greedy() {
        side.answer(&PIECE).expect("sent or kept");
        answered += PIECE.len();
        assert!(answered < 64 << 20, "the kernel's buffers are smaller");
    }
    assert!(side.unsent.as_ref().is_some_and(|unsent| unsent.rest().len() <= MOST_OWED + 2 * PIECE.len()));
    let reading = std::thread::spawn(move || {
        let mut all = vec![0; answered];
        peer.read_exact(&mut all).map(|()| all.iter().all(|byte| *byte == 7))
    });
    poll_fn(|cx| side.poll_flush(cx)).await.expect("all is out");
    assert!(!side.is_greedy());
    assert!(reading.join().expect("a reader").expect("all came"));
}

/// What a client gets of a backend that is reset in the middle.
#[tokio::test]
async fn a_reset_that_sending_meets_is_no_end() {
    let ((client, mut client_peer), (backend, mut backend_peer)) = (pair(), pair());
    backend_peer.write_all(b"half").expect("sent");
    SockRef::from(&backend_peer).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(backend_peer);
    client_peer.write_all(b"more").expect("sent");
    let (ingress, egress) = (Carried::default(), Carried::default());
    let live = Live::new(Protocol::Tcp, ([198, 51, 100, 7], 1).into(), None);
    let sides = [&client, &backend].map(|leg| Side::new(leg, Layers::default(), Vec::new()));
    let mut pump = TunnelPump::new(sides, [&ingress, &egress], &live);
    let ending = poll_fn(|cx| pump.poll(cx, &mut false)).await;
    assert_eq!((ending, pump.has_broken_off()), (Ending::Reset, true));
    drop((client, backend));
    assert!(client_peer.read_to_end(&mut Vec::new()).is_err(), "not whole");
}

/// Who has asked for too much is heard again as soon as it takes what it has asked for.
#[tokio::test]
async fn the_greedy_are_heard_again() {
    let ((client, mut client_peer), (backend, mut backend_peer)) = (pair(), pair());
    let (ingress, egress) = (Carried::default(), Carried::default());
    let live = Live::new(Protocol::Tcp, ([198, 51, 100, 7], 1).into(), None);
    let sides = [&client, &backend].map(|leg| Side::new(leg, Layers::default(), Vec::new()));
    let mut pump = TunnelPump::new(sides, [&ingress, &egress], &live);
    let mut answered = 0;
    while !pump.sides[0].is_greedy() {
        pump.sides[0].answer(&[7; 4096]).expect("sent or kept");
        answered += 4096;
    }
    client_peer.write_all(b"question").expect("sent");
    let reading = std::thread::spawn(move || {
        client_peer.read_exact(&mut vec![0; answered]).expect("all answers");
        let mut question = [0; 8];
        backend_peer.read_exact(&mut question).expect("the question");
        question
    });
    let carried = poll_fn(|cx| pump.poll(cx, &mut false));
    let carried = tokio::time::timeout(Duration::from_secs(20), carried).await;
    assert_eq!(carried.expect("both have ended"), Ending::Closed);
    assert_eq!(&reading.join().expect("a reader"), b"question");
}

fn websocket() -> Layers {
    Layers::new(None, Some(Ws::new(Role::Client(Masking::Zero))))
}

/// Polls for a while, in which nothing ends.
async fn carry_on(pump: &mut TunnelPump<'_>) {
    let polled = tokio::time::timeout(Duration::from_millis(200), poll_fn(|cx| pump.poll(cx, &mut false)));
    assert!(polled.await.is_err(), "it goes on");
}

/// Whoever asks takes the answer to mean that all that it sent before has been read.
#[tokio::test]
async fn a_ping_is_answered_when_what_came_ahead_of_it_is_out() {
    let ((client, mut client_peer), (backend, mut backend_peer)) = (pair(), pair());
    let (ingress, egress) = (Carried::default(), Carried::default());
    let live = Live::new(Protocol::Tcp, ([198, 51, 100, 7], 1).into(), None);
    let mut filled = 0;
    client.writable().await.expect("connected");
    while let Ok(sent) = client.try_write(&[7; 65536]) {
        filled += sent;
    }
    let sides =
        [Side::new(&client, Layers::default(), Vec::new()), Side::new(&backend, websocket(), Vec::new())];
    let mut pump = TunnelPump::new(sides, [&ingress, &egress], &live);
    // what comes next would still find room where it is little
    let last = [&b"\x82\x7e\x40\x00"[..], &[8; 0x4000], b"\x89\x02hi"].concat();
    backend_peer.write_all(&last).expect("sent");
    carry_on(&mut pump).await;
    assert!(pump.sides[0].unsent.is_some(), "the client does not read");
    backend_peer.set_nonblocking(true).expect("non-blocking");
    assert!(backend_peer.read(&mut [0; 8]).is_err(), "no answer yet");
    let reading = std::thread::spawn(move || {
        client_peer.read_exact(&mut vec![0; filled + 0x4000]).expect("all of it");
        client_peer
    });
    carry_on(&mut pump).await;
    reading.join().expect("a reader");
    let mut pong = [0; 8];
    backend_peer.read_exact(&mut pong).expect("an answer");
    assert_eq!(&pong, b"\x8a\x82\0\0\0\0hi");
}

/// A peer that has ended its stream answers no more, and is not asked.
#[tokio::test]
async fn who_has_ended_its_stream_is_not_asked() {
    let ((client, _client_peer), (backend, mut backend_peer)) = (pair(), pair());
    let (ingress, egress) = (Carried::default(), Carried::default());
    let live = Live::new(Protocol::Tcp, ([198, 51, 100, 7], 1).into(), None);
    let sides =
        [Side::new(&client, Layers::default(), Vec::new()), Side::new(&backend, websocket(), Vec::new())];
    let mut pump = TunnelPump::new(sides, [&ingress, &egress], &live);
    let second = Duration::from_secs(1);
    pump.watch_over(Keepalive { idle: second, interval: second, count: 1 });
    assert!(pump.asks_at().is_some());
    backend_peer.write_all(b"\x88\0").expect("sent");
    carry_on(&mut pump).await;
    assert_eq!(pump.asks_at(), None);
    assert!(pump.ask(Instant::now() + 60 * second).is_pending());
    backend_peer.set_nonblocking(true).expect("non-blocking");
    assert!(backend_peer.read(&mut [0; 8]).is_err(), "no ping");
}

/// The end of a backend's stream that came with its handshake, and of its connection never.
#[tokio::test]
async fn an_end_with_the_handshake_ends_the_session() {
    let ((client, _client_peer), (backend, _backend_peer)) = (pair(), pair());
    let (ingress, egress) = (Carried::default(), Carried::default());
    let live = Live::new(Protocol::Tcp, ([198, 51, 100, 7], 1).into(), None);
    let sides = [&client, &backend].map(|leg| Side::new(leg, Layers::default(), Vec::new()));
    let mut pump = TunnelPump::new(sides, [&ingress, &egress], &live);
    pump.keep_unread(true);
    pump.begin_with(1, &[], true);
    let ending = tokio::time::timeout(Duration::from_secs(5), poll_fn(|cx| pump.poll(cx, &mut false)));
    assert_eq!(ending.await.expect("at once"), Ending::Reset);
    assert!(pump.has_broken_off());
}
