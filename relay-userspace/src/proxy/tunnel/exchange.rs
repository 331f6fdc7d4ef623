//! Both directions of a session of which a leg is a stream among others in a connection.
//!
//! What arrives is handed on at once, by a buffer that all sessions of the thread share. What the receiver has no room
//! for is kept, and nothing more is read until it is out: a sender has its window, and nobody else is held up.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::buffer::PIECE;
use super::fault::Fault;
use super::mux::MuxStream;
use super::stream::TunnelStream;
use crate::proxy::counters::Carried;
use crate::proxy::ending::Ending;
use crate::proxy::roster::Live;
use crate::proxy::tcp::remainder::{self, Remainder};
use crate::proxy::tcp::socket::{Leg, is_delivered};
use crate::proxy::tcp::transfer::ended_before_reset;
use crate::rule::Timeouts;

/// Sides are numbered: the client is 0, the backend 1.
const SIDES: [usize; 2] = [0, 1];
/// How much a direction may carry before others get their turn.
const TURN: usize = 256 * 1024;
/// How often to look whether a side has everything, before it is reset.
const DELIVERY: Duration = Duration::from_millis(50);

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// A side of a session.
#[derive(Debug)]
pub enum Road<'a> {
    /// A connection of its own.
    Leg(Box<TunnelStream<&'a Leg>>),
    /// One of many in a connection.
    Stream(Box<MuxStream>),
}

impl<'a> Road<'a> {
    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Leg(leg) => {
                let mut out = ReadBuf::new(out);
                ready!(Pin::new(leg).poll_read(cx, &mut out))?;
                Poll::Ready(Ok(out.filled().len()))
            }
            Self::Stream(stream) => stream.poll_read(cx, out),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Leg(leg) => Pin::new(leg).poll_write(cx, data),
            Self::Stream(stream) => stream.poll_write(cx, data),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Leg(leg) => Pin::new(leg).poll_flush(cx),
            Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Leg(leg) => Pin::new(leg).poll_shutdown(cx),
            Self::Stream(stream) => Poll::Ready(stream.end()),
        }
    }

    /// The connection, if it is the session's own.
    fn leg(&self) -> Option<&'a Leg> {
        match self {
            Self::Leg(leg) => Some(leg.leg),
            Self::Stream(_) => None,
        }
    }

    /// Waits for a stream to fail, which nobody reads from so far. A leg is for others to watch.
    pub async fn gone(&mut self) {
        match self {
            Self::Leg(_) => pending().await,
            Self::Stream(stream) => _ = poll_fn(|cx| stream.poll_failure(cx)).await,
        }
    }

    fn is_delivered(&self) -> bool {
        self.leg().is_none_or(|leg| is_delivered(&**leg))
    }
}

/// A direction.
#[derive(Debug, Default)]
struct Way {
    /// What the receiver has not taken yet.
    kept: Option<Remainder>,
    /// The receiver has not taken all that it was given, and nothing is read until it has.
    is_held: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Open,
    /// The sender has ended its stream, and the receiver is not told yet.
    Ends,
    Done,
    /// The receiver takes nothing any more: what comes is thrown away.
    Void,
}

/// What carries a session.
#[derive(Debug)]
pub struct Exchange<'a> {
    sides: [Road<'a>; 2],
    ways: [Way; 2],
    carried: [&'a Carried; 2],
    /// The same of this session alone.
    live: &'a Live,
    /// Who broke off.
    broken: Option<usize>,
    fault: Option<Fault>,
}

impl<'a> Exchange<'a> {
    /// `first`: what the backend is sent ahead of everything, that is no client's.
    pub fn new(sides: [Road<'a>; 2], first: &[u8], carried: [&'a Carried; 2], live: &'a Live) -> Self {
        let mut ways = <[Way; 2]>::default();
        ways[0].kept = (!first.is_empty()).then(|| Remainder::new(first.to_vec()));
        Self { sides, ways, carried, live, broken: None, fault: None }
    }

    /// Whose doing it was that the session broke, and what.
    pub fn fault(&self) -> Option<(usize, &Fault)> {
        self.broken.zip(self.fault.as_ref())
    }

    /// Whether the backend has broken off without having said anything.
    pub fn has_broken_off(&self) -> bool {
        self.broken == Some(1) && self.live.bytes()[1] == 0
    }

    /// Carries until it is over, one side is gone, or nothing has moved for longer than allowed.
    pub async fn run(&mut self, timeouts: &Timeouts, mut timer: Pin<&mut Sleep>) -> Ending {
        let [client, backend] = self.sides.each_ref().map(Road::leg);
        let mut failures: [Pin<&mut (dyn Future<Output = ()> + Send)>; 2] =
            [pin!(failure(client)), pin!(failure(backend))];
        let mut last = Instant::now();
        poll_fn(|cx| {
            let mut moved = false;
            if let Poll::Ready(end) = self.poll(cx, &mut moved) {
                return Poll::Ready(end);
            }
            for side in SIDES {
                if self.is_unwatched(side)
                    && let Poll::Ready(error) = self.poll_failure(cx, side, failures[side].as_mut())
                {
                    return Poll::Ready(self.broken(side, error));
                }
            }
            if moved {
                last = Instant::now();
                self.live.touch(last.into_std());
            }
            let silence = if self.is_half_closed() { timeouts.half_close } else { timeouts.tcp_idle };
            let due = if self.is_lingering() { Instant::now() + DELIVERY } else { last + silence };
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            loop {
                ready!(timer.as_mut().poll(cx));
                if last.elapsed() >= silence {
                    return Poll::Ready(if self.is_half_closed() {
                        Ending::HalfClosed
                    } else {
                        Ending::Idle
                    });
                }
                if self.is_lingering()
                    && let Poll::Ready(end) = self.poll_end()
                {
                    return Poll::Ready(end);
                }
                timer.as_mut().reset(if self.is_lingering() { Instant::now() + DELIVERY } else { due });
            }
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Ending> {
        for from in SIDES {
            if let Err(end) = self.poll_way(cx, from, moved) {
                return Poll::Ready(end);
            }
        }
        self.poll_end()
    }

    fn poll_way(&mut self, cx: &mut Context<'_>, from: usize, moved: &mut bool) -> Result<(), Ending> {
        let mut turn = 0;
        loop {
            let delivered = self.poll_deliver(cx, from, moved);
            self.ways[from].is_held = delivered.is_pending();
            match delivered {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => self.lost(1 - from, error)?,
                Poll::Ready(Ok(())) => {}
            }
            if self.ways[from].state == State::Done {
                return Ok(());
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            match self.poll_receive(cx, from) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(self.broken(from, error)),
                Poll::Ready(Ok(0)) if self.ways[from].state == State::Void => {
                    self.ways[from].state = State::Done;
                    return Err(Ending::Reset);
                }
                Poll::Ready(Ok(0)) => self.ways[from].state = State::Ends,
                Poll::Ready(Ok(length)) => turn += length,
            }
            *moved = true;
        }
    }

    /// Hands on what is kept, and the end of the stream.
    fn poll_deliver(&mut self, cx: &mut Context<'_>, from: usize, moved: &mut bool) -> Poll<io::Result<()>> {
        let (way, to) = (&mut self.ways[from], &mut self.sides[1 - from]);
        if way.state == State::Void {
            return Poll::Ready(Ok(()));
        }
        while let Some(kept) = &mut way.kept {
            let sent = ready!(to.poll_write(cx, kept.rest()))?;
            kept.take(sent);
            *moved = true;
            if kept.rest().is_empty() {
                way.kept = None;
            }
        }
        ready!(to.poll_flush(cx))?;
        if way.state == State::Ends {
            ready!(to.poll_end(cx))?;
            way.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads a piece, and hands on what goes at once. How much it was; 0 at the end of the stream.
    fn poll_receive(&mut self, cx: &mut Context<'_>, from: usize) -> Poll<io::Result<usize>> {
        SHARED.with_borrow_mut(|buffer| {
            let room = remainder::room(buffer.len());
            let length = ready!(self.sides[from].poll_read(cx, &mut buffer[..room]))?;
            if length == 0 || self.ways[from].state == State::Void {
                return Poll::Ready(Ok(length));
            }
            let mut data = &buffer[..length];
            while !data.is_empty()
                && let Poll::Ready(Ok(sent)) = self.sides[1 - from].poll_write(cx, data)
            {
                data = &data[sent..];
            }
            // what failed, delivering the rest meets again
            self.ways[from].kept = (!data.is_empty()).then(|| Remainder::new(data.to_vec()));
            self.carried[from].add_bytes(length as u64);
            self.live.add(from, length as u64);
            Poll::Ready(Ok(length))
        })
    }

    /// A side has failed.
    fn broken(&mut self, side: usize, error: io::Error) -> Ending {
        self.broken = Some(side);
        let Ok(fault) = error.downcast::<Fault>() else { return Ending::Reset };
        let refusal = if side == 0 { fault.of_client() } else { fault.of_backend() };
        self.fault = Some(fault);
        Ending::Refused(refusal)
    }

    /// Nothing can be sent to a side any more. If it had ended its stream before, the other side gets all of that.
    fn lost(&mut self, side: usize, error: io::Error) -> Result<(), Ending> {
        if !ended_before_reset(&error) {
            return Err(self.broken(side, error));
        }
        self.ways[1 - side] = Way { state: State::Void, ..Way::default() };
        Ok(())
    }

    /// Whether nobody reads from a side for now, so that its failure would go unnoticed.
    const fn is_unwatched(&self, side: usize) -> bool {
        let way = &self.ways[side];
        // a leg that has ended its stream is written to, or silent for no longer than that may be
        let has_ended =
            matches!((&self.sides[side], way.state), (Road::Stream(_), State::Ends | State::Done));
        way.is_held || has_ended
    }

    fn poll_failure(
        &mut self,
        cx: &mut Context<'_>,
        side: usize,
        failure: Pin<&mut (dyn Future<Output = ()> + Send)>,
    ) -> Poll<io::Error> {
        match &mut self.sides[side] {
            Road::Leg(_) => failure.poll(cx).map(|()| io::ErrorKind::ConnectionReset.into()),
            Road::Stream(stream) => stream.poll_failure(cx),
        }
    }

    fn is_half_closed(&self) -> bool {
        self.ways.iter().any(|way| matches!(way.state, State::Done | State::Void))
    }

    /// Whether all that is left to do is to see what was sent delivered, which no event tells.
    fn is_lingering(&self) -> bool {
        self.ways.iter().all(|way| matches!(way.state, State::Done | State::Void))
    }

    fn poll_end(&self) -> Poll<Ending> {
        if !self.is_lingering() {
            return Poll::Pending;
        }
        match SIDES.iter().find(|&&side| self.ways[side].state == State::Void) {
            None => Poll::Ready(Ending::Closed),
            // a reset now would throw away what this side has not received yet
            Some(&side) if !self.sides[side].is_delivered() => Poll::Pending,
            Some(_) => Poll::Ready(Ending::Reset),
        }
    }
}

async fn failure(leg: Option<&Leg>) {
    match leg {
        Some(leg) => _ = leg.ready(Interest::ERROR).await,
        None => pending().await,
    }
}
