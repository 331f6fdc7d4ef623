//! Two ends of a connection, of which one does what the other cannot like.

use std::future::{Future as _, poll_fn};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use socket2::SockRef;
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

/// Both ends.
struct Ends<'a> {
    connection: Connection,
    driver: Driver,
    exit: Exit<'a>,
}

impl<'a> Ends<'a> {
    async fn meet(entry: Leg, exit: &'a Leg) -> Self {
        let peer = exit.peer_addr().expect("a peer");
        let (entry, exit) = tokio::join!(shake_hands(entry, plain()), Exit::begin(exit, plain(), peer));
        let (connection, driver) = entry.expect("an entry");
        Self { connection, driver, exit: exit.expect("an exit") }
    }

    /// Carries what there is. What the exit takes meanwhile, and has not been told of.
    fn drive(&mut self, cx: &mut Context<'_>) -> Option<MuxStream> {
        assert!(Pin::new(&mut self.driver).poll(cx).is_pending(), "the connection stands");
        match pin!(self.exit.accept()).poll(cx) {
            Poll::Pending => None,
            Poll::Ready(taken) => Some(taken.expect("the connection stands").expect("a stream")),
        }
    }

    /// A stream, from both ends. `idle`: one whose reader has its turns meanwhile, and does not read.
    async fn open(&mut self, mut idle: Option<&mut MuxStream>) -> [MuxStream; 2] {
        let ours = begin(&self.connection).await.expect("a stream");
        let theirs = poll_fn(|cx| {
            let taken = self.drive(cx);
            if let Some(idle) = &mut idle {
                assert!(idle.poll_failure(cx).is_pending(), "it is whole");
            }
            taken.map_or(Poll::Pending, Poll::Ready)
        });
        [ours, theirs.await]
    }
}

/// Sends byte after byte, each by itself, to somebody who reads none; then looks whether another stream works.
#[tokio::test]
async fn many_small_frames_for_who_does_not_read() {
    let [leg, other] = legs().await;
    let mut ends = Ends::meet(leg, &other).await;
    let [mut ours, mut theirs] = ends.open(None).await;
    let mut sent = 0;
    poll_fn(|cx| {
        for _ in 0..1000 {
            sent += usize::from(sent < MANY && ours.poll_write(cx, &[7]).map(Result::unwrap).is_ready());
            assert!(Pin::new(&mut ends.driver).poll(cx).is_pending(), "the connection stands");
        }
        ends.drive(cx);
        assert!(theirs.poll_failure(cx).is_pending(), "and the stream");
        cx.waker().wake_by_ref();
        if sent == MANY { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let [mut question, mut asked] = ends.open(Some(&mut theirs)).await;
    let mut byte = [0];
    assert!(poll_fn(|cx| Poll::Ready(question.poll_write(cx, b"?").is_ready())).await);
    poll_fn(|cx| {
        ends.drive(cx);
        assert!(theirs.poll_failure(cx).is_pending(), "and the stream");
        asked.poll_read(cx, &mut byte)
    })
    .await
    .expect("a byte");
    assert_eq!(&byte, b"?");
    let (mut all, mut got) = (vec![0; MANY], 0);
    poll_fn(|cx| {
        ends.drive(cx);
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
    let mut ends = Ends::meet(leg, &other).await;
    let [mut ours, _theirs] = ends.open(None).await;
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
    let mut ends = Ends::meet(leg, &other).await;
    let [mut reset, theirs] = ends.open(None).await;
    let [mut reading, _kept] = ends.open(None).await;
    let [mut ended, mut also] = ends.open(None).await;
    drop(theirs);
    also.end().expect("an end");
    let failed = poll_fn(|cx| {
        ends.drive(cx);
        reset.poll_failure(cx)
    });
    assert!(failed.await.downcast::<Fault>().is_err(), "it was reset");
    let end = poll_fn(|cx| {
        ends.drive(cx);
        ended.poll_read(cx, &mut [0; 8])
    });
    assert_eq!(end.await.expect("an end"), 0);
    SockRef::from(&*other).shutdown(Shutdown::Both).expect("a connection");
    for stream in [&mut reading, &mut ended] {
        let failed = poll_fn(|cx| {
            _ = Pin::new(&mut ends.driver).poll(cx);
            stream.poll_failure(cx)
        });
        let fault = failed.await.downcast::<Fault>().expect("the connection's");
        assert_eq!(fault.as_str(), "tunnel_lost");
    }
}
