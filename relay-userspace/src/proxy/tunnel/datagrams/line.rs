//! One open tunnel with frames on it. It is read in pieces, whatever happens to what is sent: if each end waited for the
//! other to read, both would wait for ever.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::time::{Sleep, sleep_until, timeout};

use super::super::buffer::{Buffers, HEADROOM, PIECE, REST};
use super::super::fault::Fault;
use super::super::handshake::{self, Opening, PARTING};
use super::super::layers::Layers;
use super::super::watch::{Next, Watch};
use super::frame::{HEAD, LONGEST};
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tcp::transfer::{try_receive, try_send};
use crate::rule::Keepalive;

/// How much may wait for a slow peer. What comes then is dropped: the newest, since what waits is sealed, and a tunnel's
/// bytes cannot be taken out again.
const MOST_QUEUED: usize = 1024 * 1024;
/// How much of that the kernel may have that it has not sent yet.
const UNSENT: u32 = 128 * 1024;
/// Who does not take so much of what it has asked for is not heard until it does.
const MOST_OWED: usize = 16 * 1024;
/// A peer that acknowledges nothing for so long is gone: its host may not be there to say so.
const SILENCE: Duration = Duration::from_secs(10);

/// Until a peer is looked at again that has not taken what it was sent.
const LOOK: Duration = Duration::from_secs(1);

/// Room before what has just been opened for what is left of the piece before: a frame, or all that came with the handshake.
const KEPT: usize = handshake::MOST;

/// Where frames are read.
pub struct Piece {
    pub memory: Box<[u8]>,
    answers: Vec<u8>,
}

thread_local! {
    pub static PIECES: RefCell<Piece> =
        RefCell::new(Piece { memory: vec![0; KEPT + REST + PIECE].into(), answers: Vec::new() });
}

/// Why nothing more is carried.
#[derive(Debug)]
pub enum Stop {
    /// The peer has ended it in peace.
    Ended,
    /// The connection is gone.
    Gone,
    /// The peer has sent what cannot be.
    Fault(Fault),
}

impl<T: Into<Fault>> From<T> for Stop {
    fn from(fault: T) -> Self {
        Self::Fault(fault.into())
    }
}

pub struct Line {
    leg: Leg,
    layers: Layers,
    /// The beginning of a record.
    undecoded: Vec<u8>,
    /// Payload that is not whole frames.
    partial: Vec<u8>,
    /// Nobody has looked at it yet.
    is_fresh: bool,
    /// The peer has ended its stream.
    ended: bool,
    /// What the peer has not taken yet, and how much of it is out.
    queue: Vec<u8>,
    sent: usize,
    /// How much of it are answers that only the peer has asked for.
    owed: usize,
    /// Asks a WebSocket's peer that is silent whether it is there.
    watch: Option<Box<(Watch, Pin<Box<Sleep>>)>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leg, layers, queue, .. } = self;
        f.debug_struct("Line")
            .field("leg", leg)
            .field("layers", layers)
            .field("queued", &queue.len())
            .finish_non_exhaustive()
    }
}

impl Line {
    /// `keepalive`: when a peer that is silent is asked whether it is there.
    pub fn new(leg: Leg, opening: Opening, keepalive: Keepalive) -> Self {
        let Opening { layers, undecoded, payload, end, .. } = opening;
        // what an old kernel does not know makes queues longer, and the end of a host later known
        let socket = SockRef::from(&*leg);
        _ = socket.set_tcp_notsent_lowat(UNSENT);
        _ = socket.set_tcp_user_timeout(Some(SILENCE));
        let (is_fresh, ended) = (!payload.is_empty(), end);
        let watch = layers.has_pings().then(|| {
            let watch = Watch::new(keepalive, Instant::now());
            let timer = Box::pin(sleep_until(watch.due().into()));
            Box::new((watch, timer))
        });
        Self {
            leg,
            layers,
            undecoded,
            partial: payload,
            is_fresh,
            ended,
            queue: Vec::new(),
            sent: 0,
            owed: 0,
            watch,
        }
    }

    /// The other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.leg.peer_addr().ok()
    }

    /// Whether a frame more may be sent, where so many bytes lie in a buffer already.
    pub const fn has_room_beside(&self, buffered: usize) -> bool {
        self.queue.len() - self.sent + buffered < MOST_QUEUED
    }

    /// Whether something waits to be sent.
    pub const fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Wraps what lies at [`HEADROOM`], and sends it.
    pub(super) fn wrap(&mut self, buffers: &mut Buffers, length: usize) -> Result<(), Fault> {
        let Buffers { opened, sealed, .. } = buffers;
        sealed.clear();
        let wrapped = self.layers.wrap(opened, HEADROOM, length, sealed)?;
        if let Some((watch, _)) = self.watch.as_deref_mut() {
            watch.say();
        }
        send(&self.leg, &mut self.queue, wrapped);
        Ok(())
    }

    /// Sends what waits. Ready when all is out.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        while !self.queue.is_empty() {
            ready!(self.leg.poll_write_ready(cx)).map_err(|_gone| Stop::Gone)?;
            self.sent += try_send(&self.leg, &self.queue[self.sent..]).map_err(|_gone| Stop::Gone)?;
            if self.sent == self.queue.len() {
                // an idle one keeps nothing
                (self.queue, self.sent, self.owed) = (Vec::new(), 0, 0);
            } else if self.sent >= MOST_QUEUED {
                self.queue.drain(..mem::take(&mut self.sent));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads a piece: where in its memory frames lie. What is left of them is to be given back by [`Line::keep`].
    pub fn poll_read(&mut self, cx: &mut Context<'_>, piece: &mut Piece) -> Poll<Result<Range<usize>, Stop>> {
        if mem::take(&mut self.is_fresh) {
            return Poll::Ready(Ok(self.join(piece, 0)));
        }
        if self.ended {
            return Poll::Ready(Err(Stop::Ended));
        }
        if self.owed > MOST_OWED {
            ready!(self.poll_flush(cx))?;
        }
        loop {
            match self.leg.poll_read_ready(cx) {
                Poll::Pending => return self.poll_watch(cx).map(Err),
                Poll::Ready(ready) => ready.map_err(|_gone| Stop::Gone)?,
            }
            if let Some(payload) = self.read(piece)? {
                return Poll::Ready(Ok(self.join(piece, payload)));
            }
        }
    }

    /// Asks a peer that is silent whether it is there. Ready when it is not.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        let Some((watch, timer)) = self.watch.as_deref_mut() else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            // who does not take what it is sent would not take a ping either, and TCP sees to whether it is there
            let next = if self.queue.is_empty() { watch.look(now) } else { Next::Wait };
            match next {
                Next::Wait => {}
                Next::Gone => return Poll::Ready(Stop::Gone),
                Next::Ask(question) => {
                    let mut ping = Vec::new();
                    // one that cannot be sealed is a fault of what is sent next, too
                    if self.layers.ping(question, &mut ping).is_ok() {
                        send(&self.leg, &mut self.queue, &ping);
                    }
                }
            }
            timer.as_mut().reset(watch.due().max(now + LOOK).into());
        }
    }

    /// Reads and opens. `None`: nothing has come.
    fn read(&mut self, piece: &mut Piece) -> Result<Option<usize>, Stop> {
        let Piece { memory, answers } = piece;
        let (kept, place) = (self.undecoded.len(), &mut memory[KEPT..]);
        place[..kept].copy_from_slice(&self.undecoded);
        let received = try_receive(&self.leg, &mut place[kept..kept + PIECE]).map_err(|_gone| Stop::Gone)?;
        let Some(length) = received else { return Ok(None) };
        if length == 0 {
            self.layers.end_of_stream(kept)?;
            return Err(Stop::Ended);
        }
        let data = &mut place[..kept + length];
        answers.clear();
        let opened = self.layers.open(data, answers);
        if !answers.is_empty() {
            send(&self.leg, &mut self.queue, answers);
            self.owed += if self.queue.is_empty() { 0 } else { answers.len() };
        }
        let opened = opened?;
        self.undecoded.clear();
        self.undecoded.extend_from_slice(&data[opened.rest..]);
        if self.undecoded.is_empty() {
            self.undecoded = Vec::new();
        }
        self.ended = opened.end;
        if let Some((watch, _)) = self.watch.as_deref_mut() {
            if opened.payload > 0 {
                watch.hear();
            }
            if let Some(question) = opened.pong {
                watch.hear_answer(question);
            }
        }
        Ok(Some(opened.payload))
    }

    /// Puts what was left right before what has come.
    fn join(&mut self, piece: &mut Piece, payload: usize) -> Range<usize> {
        let partial = mem::take(&mut self.partial);
        let begin = KEPT.saturating_sub(partial.len());
        piece.memory[begin..begin + partial.len()].copy_from_slice(&partial);
        begin..KEPT + payload
    }

    /// What is left of a piece: the beginning of a frame.
    pub fn keep(&mut self, rest: &[u8]) {
        self.partial = rest.to_vec();
    }

    /// Says that it ends here, behind what waits to be sent. `false`: not all of that is out, which [`Line::finish`] sees to.
    pub fn end(&mut self) -> bool {
        let mut closing = Vec::new();
        if self.layers.end(&mut closing).is_ok() {
            send(&self.leg, &mut self.queue, &closing);
        }
        if self.is_waiting() {
            return false;
        }
        // fails only for a connection that is gone already
        _ = SockRef::from(&*self.leg).shutdown(Shutdown::Write);
        self.leg.end_in_peace();
        true
    }

    /// Lets a peer that has been told of the end take what was sent, if it does so soon: a stream that is cut within a
    /// record is an attack to it.
    pub async fn finish(&mut self) {
        let flushed = timeout(PARTING, poll_fn(|cx| self.poll_flush(cx))).await;
        if matches!(flushed, Ok(Ok(()))) {
            handshake::say_farewell(&self.leg).await;
            self.leg.end_in_peace();
        }
    }
}

/// Sends what goes at once, and keeps the rest. What fails here reading tells of.
fn send(leg: &Leg, queue: &mut Vec<u8>, bytes: &[u8]) {
    let sent = if queue.is_empty() { try_send(leg, bytes).unwrap_or(bytes.len()) } else { 0 };
    queue.extend_from_slice(&bytes[sent..]);
}

/// The longest frame has room.
const _: () = assert!(LONGEST + HEAD <= KEPT);
