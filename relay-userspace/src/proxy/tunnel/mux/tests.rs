//! Two ends of a connection, of which one does what the other cannot like.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream};

use super::connections::{Connection, Driver, begin, shake_hands};
use super::*;
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::{Fault, Layers, Opening};

/// More than h2 would keep if each cost what it charges for small frames.
const MANY: usize = 300_000;

fn plain() -> Opening {
    Opening {
        layers: Layers::default(),
        purpose: Purpose::Streams,
        undecoded: Vec::new(),
        payload: Vec::new(),
        end: false,
        grace: None,
    }
}

async fn legs() -> [Leg; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
    [one.expect("connected"), other.expect("accepted").0].map(|stream| {
        stream.set_nodelay(true).expect("no delay");
        Leg::new(stream)
    })
}

/// The end that opens streams.
struct Entry {
    connection: Connection,
    driver: Driver,
}

async fn ends(entry: Leg, exit: &Leg) -> (Entry, Exit<'_>) {
    let peer = exit.peer_addr().expect("a peer");
    let (entry, exit) = tokio::join!(shake_hands(entry, plain()), Exit::begin(exit, plain(), peer));
    let (connection, driver) = entry.expect("an entry");
    (Entry { connection, driver }, exit.expect("an exit"))
}

impl Entry {
    /// A stream, and the other end of it.
    async fn open(&mut self, exit: &mut Exit<'_>) -> [MuxStream; 2] {
        let ours = begin(&self.connection).await.expect("a stream");
        let theirs = poll_fn(|cx| {
            assert!(Pin::new(&mut self.driver).poll(cx).is_pending(), "the connection stands");
            pin!(exit.accept()).poll(cx)
        });
        [ours, theirs.await.expect("a connection").expect("a stream")]
    }
}

/// Sends byte after byte, each by itself, to somebody who reads none; then looks whether another stream works.
#[tokio::test]
async fn many_small_frames_for_who_does_not_read() {
    let [leg, other] = legs().await;
    let (mut entry, mut exit) = ends(leg, &other).await;
    let [mut ours, mut theirs] = entry.open(&mut exit).await;
    let mut sent = 0;
    poll_fn(|cx| {
        while sent < MANY && ours.poll_write(cx, &[7]).map(Result::unwrap).is_ready() {
            sent += 1;
            assert!(Pin::new(&mut entry.driver).poll(cx).is_pending(), "the connection stands");
        }
        assert!(Pin::new(&mut entry.driver).poll(cx).is_pending(), "the connection stands");
        assert!(pin!(exit.accept()).poll(cx).is_pending(), "the connection stands");
        assert!(theirs.poll_failure(cx).is_pending(), "and the stream");
        if sent == MANY { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let [mut question, mut asked] = entry.open(&mut exit).await;
    poll_fn(|cx| {
        assert!(question.poll_write(cx, b"?").is_ready());
        Poll::Ready(())
    })
    .await;
    let mut byte = [0];
    poll_fn(|cx| {
        assert!(Pin::new(&mut entry.driver).poll(cx).is_pending(), "the connection stands");
        assert!(pin!(exit.accept()).poll(cx).is_pending(), "the connection stands");
        asked.poll_read(cx, &mut byte)
    })
    .await
    .expect("a byte");
    assert_eq!(&byte, b"?");
    let (mut all, mut got) = (vec![0; MANY], 0);
    poll_fn(|cx| {
        assert!(Pin::new(&mut entry.driver).poll(cx).is_pending(), "the connection stands");
        assert!(pin!(exit.accept()).poll(cx).is_pending(), "the connection stands");
        while got < MANY
            && let Poll::Ready(read) = theirs.poll_read(cx, &mut all[got..])
        {
            got += read.expect("the bytes");
        }
        if got == MANY { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    assert!(all.iter().all(|byte| *byte == 7));
}

/// What a connection does not take is kept in large pieces: a small one waits.
#[tokio::test]
async fn few_small_pieces_wait_for_a_connection() {
    let [leg, other] = legs().await;
    let (mut entry, mut exit) = ends(leg, &other).await;
    let [mut ours, _theirs] = entry.open(&mut exit).await;
    poll_fn(|cx| {
        // nobody drives the connection
        let mut small = 0;
        while ours.poll_write(cx, &[7]).map(Result::unwrap).is_ready() {
            small += 1;
        }
        assert_eq!(small, FEW + 1);
        let mut large = 0;
        while let Poll::Ready(sent) = ours.poll_write(cx, &[7; 16 * 1024]) {
            large += sent.expect("taken");
        }
        assert!((UNSENT - 2 * LITTLE..=UNSENT).contains(&(small + large)), "{small}, {large}");
        Poll::Ready(())
    })
    .await;
}

/// Whoever was in a connection that breaks hears of it, whatever it waits for; what befalls a stream alone is another thing.
#[tokio::test]
async fn a_connection_that_breaks_is_no_reset() {
    let [leg, other] = legs().await;
    let (mut entry, mut exit) = ends(leg, &other).await;
    let [mut reset, theirs] = entry.open(&mut exit).await;
    let [mut reading, _kept] = entry.open(&mut exit).await;
    let [mut ended, mut also] = entry.open(&mut exit).await;
    drop(theirs);
    also.end().expect("an end");
    let failed = poll_fn(|cx| {
        _ = Pin::new(&mut entry.driver).poll(cx);
        _ = pin!(exit.accept()).poll(cx);
        reset.poll_failure(cx)
    });
    assert!(failed.await.downcast::<Fault>().is_err(), "it was reset");
    poll_fn(|cx| {
        _ = Pin::new(&mut entry.driver).poll(cx);
        _ = pin!(exit.accept()).poll(cx);
        ended.poll_read(cx, &mut [0; 8])
    })
    .await
    .map(|length| assert_eq!(length, 0))
    .expect("an end");
    drop(exit);
    drop(other);
    for stream in [&mut reading, &mut ended] {
        let failed = poll_fn(|cx| {
            _ = Pin::new(&mut entry.driver).poll(cx);
            stream.poll_failure(cx)
        });
        let fault = failed.await.downcast::<Fault>().expect("the connection's");
        assert_eq!(fault.as_str(), "tunnel_lost");
    }
}
