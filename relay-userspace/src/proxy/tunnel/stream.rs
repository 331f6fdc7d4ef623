//! A leg and what it is wrapped in as a stream of its payload.

use std::borrow::Borrow;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use super::buffer::{self, Buffers, HEADROOM, PIECE};
use super::fault::Fault;
use super::handshake::Opening;
use super::layers::Layers;
use crate::proxy::tcp::remainder::{self, Remainder};
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tcp::transfer::{try_receive, try_send};

/// Who does not take so much of what it has asked for is not heard until it does.
const MOST_OWED: usize = 16 * 1024;

/// Reading fails with a [`Fault`] where what has come cannot be. Shutting down ends the stream in peace; what is dropped
/// without is reset, if the leg is owned.
#[derive(Debug)]
pub struct TunnelStream<L> {
    pub leg: L,
    layers: Layers,
    /// The beginning of a record.
    undecoded: Vec<u8>,
    /// Payload that nobody has taken yet, and how much of it somebody has.
    payload: (Vec<u8>, usize),
    /// What the peer has not taken yet.
    unsent: Option<Remainder>,
    /// How much of that are answers that only it has asked for.
    owed: usize,
    /// The peer has ended its stream.
    ended: bool,
    sending: Sending,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sending {
    Open,
    /// The end of the stream has been wrapped, too.
    Ends,
    Shut,
}

impl<L: Borrow<Leg>> TunnelStream<L> {
    pub fn new(leg: L, opening: Opening) -> Self {
        let Opening { layers, undecoded, payload, end, .. } = opening;
        let (sending, payload) = (Sending::Open, (payload, 0));
        Self { leg, layers, undecoded, payload, unsent: None, owed: 0, ended: end, sending }
    }

    /// Gives the peer what it has not taken yet, then the end of the stream if it has come. Ready when all is out.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let leg = self.leg.borrow();
        while let Some(unsent) = &mut self.unsent {
            ready!(leg.poll_write_ready(cx))?;
            unsent.take(try_send(leg, unsent.rest())?);
            if unsent.rest().is_empty() {
                self.unsent = None;
                self.owed = 0;
            }
        }
        if self.sending == Sending::Ends {
            self.sending = Sending::Shut;
            // fails only if the peer is gone, which reading from it will tell
            _ = SockRef::from(&**leg).shutdown(Shutdown::Write);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what goes at once, and keeps the rest.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let rest = match &self.unsent {
            Some(unsent) => [unsent.rest(), bytes].concat(),
            None => bytes[try_send(self.leg.borrow(), bytes)?..].to_vec(),
        };
        self.unsent = (!rest.is_empty()).then(|| Remainder::new(rest));
        Ok(())
    }

    /// Hands out payload that lies here.
    fn give(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let (payload, taken) = &mut self.payload;
        let rest = &payload[*taken..];
        let length = rest.len().min(out.remaining());
        out.put_slice(&rest[..length]);
        *taken += length;
        let is_some = length > 0;
        if *taken == payload.len() {
            // an idle stream keeps nothing
            self.payload = (Vec::new(), 0);
        }
        is_some
    }

    /// Reads a piece, and takes it apart.
    fn receive(&mut self, out: &mut ReadBuf<'_>) -> io::Result<()> {
        buffer::with(|buffers| {
            let kept = self.undecoded.len();
            let place = &mut buffers.opened[HEADROOM..];
            place[..kept].copy_from_slice(&self.undecoded);
            let room = kept + remainder::room(PIECE);
            match try_receive(self.leg.borrow(), &mut place[kept..room])? {
                None => Ok(()),
                Some(0) => {
                    self.layers.end_of_stream(kept).map_err(in_io)?;
                    self.ended = true;
                    Ok(())
                }
                Some(length) => self.open(buffers, kept + length, out),
            }
        })
    }

    fn open(&mut self, buffers: &mut Buffers, length: usize, out: &mut ReadBuf<'_>) -> io::Result<()> {
        let Buffers { opened: data, answers, .. } = buffers;
        let data = &mut data[HEADROOM..HEADROOM + length];
        let opened = self.layers.open(data, answers);
        if !answers.is_empty() {
            self.send(answers)?;
            self.owed += if self.unsent.is_some() { answers.len() } else { 0 };
        }
        let opened = opened.map_err(in_io)?;
        // an idle stream keeps nothing
        self.undecoded = data[opened.rest..].to_vec();
        let payload = &data[..opened.payload];
        let (now, later) = payload.split_at(payload.len().min(out.remaining()));
        out.put_slice(now);
        self.payload = (later.to_vec(), 0);
        self.ended |= opened.end;
        Ok(())
    }

    /// Wraps pieces, and sends what goes at once. How much of them it took.
    fn write(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        buffer::with(|buffers| {
            let Buffers { opened, sealed, .. } = buffers;
            let mut length = 0;
            for piece in pieces {
                let part = piece.len().min(PIECE - length);
                let at = HEADROOM + length;
                opened[at..at + part].copy_from_slice(&piece[..part]);
                length += part;
            }
            let wrapped = self.layers.wrap(opened, HEADROOM, length, sealed).map_err(in_io)?;
            self.send(wrapped)?;
            Ok(length)
        })
    }
}

/// What a tunnel does wrong is an error of reading.
fn in_io(fault: Fault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

impl<L: Borrow<Leg> + Unpin> AsyncRead for TunnelStream<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // who reads much at once has its turn, and so have those that it reads for
        let turn = ready!(coop::poll_proceed(cx));
        let before = out.filled().len();
        // what it is owed does not wait for somebody to write; what fails here, writing meets again
        _ = self.poll_out(cx);
        while out.filled().len() == before {
            if self.give(out) || self.ended || out.remaining() == 0 {
                break;
            }
            if self.owed > MOST_OWED {
                ready!(self.poll_out(cx))?;
            }
            ready!(self.leg.borrow().poll_read_ready(cx))?;
            self.receive(out)?;
        }
        turn.made_progress();
        Poll::Ready(Ok(()))
    }
}

impl<L: Borrow<Leg> + Unpin> AsyncWrite for TunnelStream<L> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_out(cx))?;
        Poll::Ready(self.write(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        // so that the heads of what is sent do not become records of their own
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_out(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sending == Sending::Open {
            let mut closing = Vec::new();
            self.layers.end(&mut closing).map_err(in_io)?;
            self.send(&closing)?;
            self.sending = Sending::Ends;
        }
        self.poll_out(cx)
    }
}
