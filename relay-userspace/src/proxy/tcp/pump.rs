//! Both directions of a session, and when it is over.
//!
//! A side that ends its stream in peace is half closed: the other direction goes on. What a reset means depends on what
//! came before it. Without a FIN the session is over, and what was read before need not be delivered. After a FIN the
//! stream was whole and is delivered to the last byte, while what the other side still sends is thrown away.

use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll};

use socket2::SockRef;

use super::carry::Carry;
use super::socket::{Leg, has_more, is_delivered};
use super::transfer::ended_before_reset;
use super::way::{Fault, Moved, Way};
use crate::proxy::counters::Carried;
use crate::proxy::ending::Ending;
use crate::proxy::roster::Live;

/// Sides are numbered: the client is 0, the backend 1. Way 0 leads from the client to the backend.
pub const SIDES: [usize; 2] = [0, 1];

/// What the backend is sent first: a header of ours, then what the client has sent already.
#[derive(Debug, Default)]
pub struct Preamble {
    pub data: Vec<u8>,
    /// How much of it is ours.
    pub overhead: usize,
}

impl Preamble {
    pub fn new(header: &[u8], data: Vec<u8>) -> Self {
        let overhead = header.len();
        let data = if header.is_empty() { data } else { [header, &data].concat() };
        Self { data, overhead }
    }
}

pub struct Pump<'a> {
    legs: [&'a Leg; 2],
    carried: [&'a Carried; 2],
    /// The same of this session alone.
    live: &'a Live,
    ways: [Way; 2],
    /// A side was reset before it ended its stream.
    broken: bool,
    /// The backend's side failed while the client's was there.
    failed: bool,
    /// The backend has sent something, or ended its stream.
    heard: bool,
    /// Bytes still to be sent to the backend that are no client's.
    overhead: usize,
}

impl<'a> Pump<'a> {
    /// `preamble`: what the backend is sent before anything else. `carried`, `live`: where the rule's bytes and this
    /// session's own are counted.
    pub fn new(legs: [&'a Leg; 2], carried: [&'a Carried; 2], live: &'a Live, preamble: Preamble) -> Self {
        let ways = [Way::starting_with(preamble.data), Way::default()];
        Self {
            legs,
            carried,
            live,
            ways,
            broken: false,
            failed: false,
            heard: false,
            overhead: preamble.overhead,
        }
    }

    fn poll_way(&mut self, cx: &mut Context<'_>, side: usize, moved: &mut bool) -> Result<(), Ending> {
        while !self.ways[side].is_done() {
            let (from, to) = (self.legs[side], self.legs[1 - side]);
            let mut amount = Moved::default();
            let result = self.ways[side].poll(cx, from, to, &mut amount);
            self.heard |= side == 1 && (amount.received > 0 || matches!(result, Poll::Ready(Ok(()))));
            if amount.sent > 0 {
                let overhead = if side == 0 { amount.sent.min(self.overhead) } else { 0 };
                self.overhead -= overhead;
                let payload = (amount.sent - overhead) as u64;
                self.carried[side].add_bytes(payload);
                self.live.add(side, payload);
                *moved = true;
            }
            match result {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {
                    *moved = true;
                    self.end_stream(1 - side);
                }
                Poll::Ready(Err(Fault::Receive)) => {
                    self.note_failure(side);
                    self.broken = true;
                    return Err(Ending::Reset);
                }
                Poll::Ready(Err(Fault::Send(error))) => {
                    self.lost(1 - side, Some(&error));
                    if self.has_broken_off() {
                        return Err(Ending::Reset);
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells a side that the other has ended its stream.
    fn end_stream(&self, side: usize) {
        // when its own stream has ended too, closing the socket says the same
        if !self.broken && !self.ways[side].is_done() {
            // fails only if the peer is gone, which reading from it will tell
            _ = SockRef::from(&**self.legs[side]).shutdown(Shutdown::Write);
        }
    }

    /// Nothing can be sent to a side any more. What it sent itself may still lie in its socket.
    fn lost(&mut self, side: usize, error: Option<&io::Error>) {
        self.note_failure(side);
        self.broken |= error.is_some_and(|error| !ended_before_reset(error));
        self.heard |= side == 1 && has_more(&**self.legs[side]);
        // what lies there may be for another backend
        if !self.has_broken_off() {
            self.ways[1 - side].give_up();
        }
    }

    fn note_failure(&mut self, side: usize) {
        self.failed |= side == 1 && !self.broken && !self.ways[1].is_over();
    }

    /// Whether the backend was reset before it had sent anything. There is nothing more to carry then.
    pub fn has_broken_off(&self) -> bool {
        self.broken && self.failed && !self.heard
    }

    /// What the client has sent, if the backend has broken off and has got none of it.
    pub fn unsent(&self) -> Option<Vec<u8>> {
        let [way, _] = &self.ways;
        let is_whole = self.has_broken_off() && self.live.bytes()[0] == 0 && !way.is_over();
        let data = is_whole.then(|| way.kept())??;
        data.get(self.overhead..).map(<[u8]>::to_vec)
    }

    fn poll_end(&self) -> Poll<Ending> {
        if !self.is_lingering() {
            return Poll::Pending;
        }
        if self.broken {
            return Poll::Ready(Ending::Reset);
        }
        match SIDES.iter().find(|&&side| self.ways[side].is_void()) {
            None => Poll::Ready(Ending::Closed),
            // a reset now would throw away what this side has not received yet
            Some(&side) if !is_delivered(&**self.legs[side]) => Poll::Pending,
            Some(_) => Poll::Ready(Ending::Reset),
        }
    }
}

impl Carry for Pump<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Ending> {
        for side in SIDES {
            if let Err(end) = self.poll_way(cx, side, moved) {
                return Poll::Ready(end);
            }
        }
        self.poll_end()
    }

    fn is_lingering(&self) -> bool {
        SIDES.iter().all(|&side| self.ways[side].is_over())
    }

    fn is_half_closed(&self) -> bool {
        SIDES.iter().any(|&side| self.ways[side].is_over())
    }

    fn is_unwatched(&self, side: usize) -> bool {
        self.ways[side].is_done() || self.ways[side].is_blocked()
    }

    fn fail(&mut self, side: usize, error: Option<&io::Error>) -> Poll<Ending> {
        self.lost(side, error);
        if self.broken { Poll::Ready(Ending::Reset) } else { Poll::Pending }
    }
}
