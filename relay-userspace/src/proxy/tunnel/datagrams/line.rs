//! One open tunnel with frames on it. It is read in pieces, whatever happens to what is sent: if each end waited for the
//! other to read, both would wait for ever.

use std::cell::RefCell;
use std::fmt;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;

use super::super::buffer::{Buffers, HEADROOM, PIECE, REST};
use super::super::fault::Fault;
use super::super::handshake::{self, Opening};
use super::super::layers::Layers;
use super::frame::{HEAD, LONGEST};
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tcp::transfer::{try_receive, try_send};

/// How much may wait for a slow peer. What comes then is dropped: the newest, since what waits is sealed, and a tunnel's
/// bytes cannot be taken out again.
const MOST_QUEUED: usize = 1024 * 1024;
/// How much of that the kernel may have that it has not sent yet.
const UNSENT: u32 = 128 * 1024;
/// Who does not take so much of what it has asked for is not heard until it does.
const MOST_OWED: usize = 16 * 1024;
/// A peer that acknowledges nothing for so long is gone: its host may not be there to say so.
const SILENCE: Duration = Duration::from_secs(10);

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
    /// The connection has ended, in peace or not.
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
    pub fn new(leg: Leg, opening: Opening) -> Self {
        let Opening { layers, undecoded, payload, end, .. } = opening;
        // what an old kernel does not know makes queues longer, and the end of a host later known
        let socket = SockRef::from(&*leg);
        _ = socket.set_tcp_notsent_lowat(UNSENT);
        _ = socket.set_tcp_user_timeout(Some(SILENCE));
        let (is_fresh, ended) = (!payload.is_empty(), end);
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
            return Poll::Ready(Err(Stop::Gone));
        }
        if self.owed > MOST_OWED {
            ready!(self.poll_flush(cx))?;
        }
        loop {
            ready!(self.leg.poll_read_ready(cx)).map_err(|_gone| Stop::Gone)?;
            if let Some(payload) = self.read(piece)? {
                return Poll::Ready(Ok(self.join(piece, payload)));
            }
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
            return Err(Stop::Gone);
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

    /// Ends the tunnel in peace; what waits to be sent is not waited for.
    pub fn close(mut self) {
        let mut closing = Vec::new();
        if self.layers.end(&mut closing).is_ok() {
            send(&self.leg, &mut self.queue, &closing);
        }
        // fails only for a connection that is gone already
        _ = SockRef::from(&*self.leg).shutdown(Shutdown::Write);
        self.leg.close();
    }
}

/// Sends what goes at once, and keeps the rest. What fails here reading tells of.
fn send(leg: &Leg, queue: &mut Vec<u8>, bytes: &[u8]) {
    let sent = if queue.is_empty() { try_send(leg, bytes).unwrap_or(bytes.len()) } else { 0 };
    queue.extend_from_slice(&bytes[sent..]);
}

/// The longest frame has room.
const _: () = assert!(LONGEST + HEAD <= KEPT);
