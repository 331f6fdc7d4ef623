//! Legs whose peers take nothing, ask for too much or break off.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::side::MOST_OWED;
use super::*;
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tunnel::layers::Layers;

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
    let mut bytes = [0; 2];
    let sides = [&client, &backend].map(|leg| Side::new(leg, Layers::default(), Vec::new()));
    let mut pump = TunnelPump::new(sides, [&ingress, &egress], &mut bytes);
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
    let mut bytes = [0; 2];
    let sides = [&client, &backend].map(|leg| Side::new(leg, Layers::default(), Vec::new()));
    let mut pump = TunnelPump::new(sides, [&ingress, &egress], &mut bytes);
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
