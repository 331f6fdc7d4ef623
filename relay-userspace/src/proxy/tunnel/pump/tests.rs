//! A leg whose peer takes nothing.

use std::future::poll_fn;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};

use super::*;

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
        side.answer(&PIECE);
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
