//! Both directions of a session of which a leg is a tunnel.
//!
//! What arrives is opened and wrapped again at once, in the thread's buffers. Kept are only the beginning of a record
//! that is not whole, and what the receiver has no room for; nothing more is read until that is out. How a session ends
//! follows the same rules as between plain legs.

mod input;
mod side;
mod trial;

use std::io;
use std::mem;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use self::input::{Input, Stop};
use self::side::Sending;
pub use self::side::Side;
use self::trial::Trial;
use super::buffer::{self, Buffers, HEADROOM, PIECE};
use super::fault::Fault;
use super::handshake::Opening;
use super::purpose::Purpose;
use super::unread::Unread;
use super::watch::Watch;
use crate::proxy::counters::Carried;
use crate::proxy::ending::Ending;
use crate::proxy::roster::Live;
use crate::proxy::tcp::carry::Carry;
use crate::proxy::tcp::remainder;
use crate::proxy::tcp::socket::{has_more, is_delivered, shortest_round_trip};
use crate::proxy::tcp::transfer::{ended_before_reset, try_receive};
use crate::rule::Keepalive;

/// Sides are numbered: the client is 0, the backend 1.
const SIDES: [usize; 2] = [0, 1];
/// How much a direction may carry before others get their turn.
const TURN: usize = 1024 * 1024;

#[derive(Debug)]
pub struct TunnelPump<'a> {
    sides: [Side<'a>; 2],
    carried: [&'a Carried; 2],
    /// The same of this session alone.
    live: &'a Live,
    /// A side's connection has ended, and not its stream alone: nothing more can come.
    closed: [bool; 2],
    /// A side was reset before it ended its stream.
    broken: bool,
    /// It was the backend's, before anything had come from there.
    broken_off: bool,
    /// What the client has sent, as long as another backend may have it.
    unread: Option<Unread>,
    /// Of the backend, as long as it is not known to be there.
    trial: Option<Trial>,
    /// The end of the backend's stream is no answer either.
    is_end_no_answer: bool,
    /// What has been counted of the client's payload for a backend before.
    counted: u64,
    fault: Option<(usize, Fault)>,
    /// How the session came to its end by what came with the handshakes.
    ended_early: Option<Ending>,
}

impl<'a> TunnelPump<'a> {
    /// `carried`, `live`: where payload is counted.
    pub fn new(sides: [Side<'a>; 2], carried: [&'a Carried; 2], live: &'a Live) -> Self {
        Self {
            unread: None,
            trial: None,
            is_end_no_answer: false,
            counted: live.bytes()[0],
            sides,
            carried,
            live,
            closed: [false; 2],
            broken: false,
            broken_off: false,
            fault: None,
            ended_early: None,
        }
    }

    /// Keeps what the client sends until the backend answers, for another one if this one breaks off. `is_end_no_answer`:
    /// one that ends its stream without a word has broken off, too, as a tunnel's end does whose own backend is gone.
    pub fn keep_unread(&mut self, is_end_no_answer: bool) {
        self.unread = Some(Unread::new());
        self.is_end_no_answer = is_end_no_answer;
    }

    /// A backend that was connected to long ago may be there no more. It has as long as for a connection to acknowledge the
    /// first that it is sent.
    pub fn try_for(&mut self, limit: Duration) {
        self.trial = Trial::begin(self.sides[1].leg, limit);
    }

    /// Asks peers that are silent whether they are still there, where that can be asked.
    pub fn watch_over(&mut self, keepalive: Keepalive) {
        for side in &mut self.sides {
            side.watch = side.layers.has_pings().then(|| Watch::new(keepalive, Instant::now()));
        }
    }

    /// The client, with all that it has sent, for another backend; `None`: this one may have read some of it.
    pub fn into_unread(self) -> Option<Opening> {
        let [Side { layers, undecoded, unsent, sending, .. }, _] = self.sides;
        let is_whole = unsent.is_none() && sending == Sending::Open;
        let payload = self.unread.filter(|_| is_whole && self.live.bytes()[1] == 0)?.lost()?;
        Some(Opening { layers, purpose: Purpose::Session, undecoded, payload, end: false, grace: None })
    }

    /// What the backend is sent ahead of everything, that is no client's.
    pub fn announce(&mut self, header: &[u8]) {
        if let Err(error) = self.sides[1].send(header) {
            self.lost(1, Some(&error));
        }
    }

    /// Payload of a side that came with its handshake. `end`: and the end of its stream.
    pub fn begin_with(&mut self, from: usize, payload: &[u8], end: bool) {
        for piece in payload.chunks(PIECE) {
            let wrapped = buffer::with(|buffers| {
                buffers.opened[HEADROOM..HEADROOM + piece.len()].copy_from_slice(piece);
                self.pass_on(from, buffers, piece.len())
            });
            self.stop_early(from, wrapped);
        }
        if end {
            let ended = self.end(from);
            self.stop_early(from, ended);
        }
    }

    /// Reading may never meet it again: behind the end of a stream there may be nothing more, not even the connection's.
    fn stop_early(&mut self, from: usize, done: Result<(), Stop>) {
        if let Err(stop) = done
            && let Err(ending) = self.stop(from, stop)
        {
            self.ended_early.get_or_insert(ending);
        }
    }

    /// Whether the backend was reset before it had sent anything.
    pub const fn has_broken_off(&self) -> bool {
        self.broken_off
    }

    /// Whose doing it was that the session broke, and what.
    pub const fn fault(&self) -> Option<&(usize, Fault)> {
        self.fault.as_ref()
    }

    fn poll_way(&mut self, cx: &mut Context<'_>, from: usize, moved: &mut bool) -> Result<(), Ending> {
        let mut turn = 0;
        while !self.sides[from].ended {
            match self.sides[1 - from].poll_flush(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => self.lost(1 - from, Some(&error)),
                Poll::Ready(Ok(())) => self.pong(from),
            }
            if self.sides[from].is_greedy() {
                match self.sides[from].poll_flush(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => self.lost(from, Some(&error)),
                    Poll::Ready(Ok(())) => {}
                }
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                break;
            }
            match self.sides[from].leg.poll_read_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(_gone)) => return self.stop(from, Stop::Receive),
                Poll::Ready(Ok(())) => {}
            }
            match self.read(from) {
                Ok(Input::Nothing) => {}
                Ok(Input::Some { length, is_traffic }) => {
                    turn += length;
                    *moved |= is_traffic;
                }
                Ok(Input::End) => *moved = true,
                Err(stop) => self.stop(from, stop)?,
            }
        }
        self.discard(cx, from);
        Ok(())
    }

    /// Reads what comes behind the end of a stream, and forgets it: what nobody has read makes a reset of a close.
    fn discard(&mut self, cx: &mut Context<'_>, from: usize) {
        while self.sides[from].ended
            && !self.closed[from]
            && self.sides[from].leg.poll_read_ready(cx).is_ready()
        {
            let read = buffer::with(|buffers| try_receive(self.sides[from].leg, &mut buffers.opened));
            self.closed[from] = !matches!(read, Ok(None | Some(1..)));
        }
    }

    /// Reads a piece, and hands on what is in it.
    fn read(&mut self, from: usize) -> Result<Input, Stop> {
        buffer::with(|buffers| {
            let side = &mut self.sides[from];
            let kept = side.undecoded.len();
            let place = &mut buffers.opened[HEADROOM..];
            place[..kept].copy_from_slice(&side.undecoded);
            let room = kept + remainder::room(PIECE);
            let length = match try_receive(side.leg, &mut place[kept..room]) {
                Err(error) => {
                    self.note(from, &error);
                    return Err(Stop::Receive);
                }
                Ok(None) => return Ok(Input::Nothing),
                Ok(Some(0)) => {
                    self.closed[from] = true;
                    // what is thrown away is not taken apart
                    if self.sides[1 - from].sending != Sending::Void {
                        let whole = self.sides[from].layers.end_of_stream(kept);
                        whole.map_err(|fault| Stop::Fault(from, fault))?;
                    }
                    self.end(from)?;
                    return Ok(Input::End);
                }
                Ok(Some(length)) => length,
            };
            if self.sides[1 - from].sending == Sending::Void {
                return Ok(Input::Some { length, is_traffic: true });
            }
            let is_traffic = self.open(from, buffers, kept + length)?;
            Ok(Input::Some { length, is_traffic })
        })
    }

    /// Takes apart what has come. Whether there was payload in it, or the beginning of something.
    fn open(&mut self, from: usize, buffers: &mut Buffers, length: usize) -> Result<bool, Stop> {
        let side = &mut self.sides[from];
        let data = &mut buffers.opened[HEADROOM..HEADROOM + length];
        let opened = side.layers.open_silently(data, &mut buffers.answers);
        let answered = if buffers.answers.is_empty() { Ok(()) } else { side.answer(&buffers.answers) };
        if let Err(error) = answered {
            // it may still have something to say
            self.lost(from, Some(&error));
        }
        let side = &mut self.sides[from];
        let data = &buffers.opened[HEADROOM..HEADROOM + length];
        let opened = opened.map_err(|fault| Stop::Fault(from, fault))?;
        let rest = &data[opened.rest..];
        let is_traffic = opened.payload > 0 || !rest.is_empty();
        // a question of the peer's own is neither: whoever asks first would keep the other one from ever asking
        if let Some(watch) = &mut side.watch {
            if is_traffic {
                watch.hear();
            }
            if let Some(question) = opened.pong {
                watch.hear_answer(question);
            }
        }
        if rest.is_empty() {
            // an idle session keeps nothing
            side.undecoded = Vec::new();
        } else {
            side.undecoded.clear();
            side.undecoded.extend_from_slice(rest);
        }
        if opened.payload > 0 {
            self.pass_on(from, buffers, opened.payload)?;
        }
        self.pong(from);
        if opened.end {
            self.end(from)?;
        }
        Ok(is_traffic || opened.end)
    }

    /// Answers a side's ping if the other one has taken all that came ahead of it: who is told that somebody listens
    /// takes a later silence for its end.
    fn pong(&mut self, from: usize) {
        if self.sides[1 - from].unsent.is_some() {
            return;
        }
        if let Err(error) = self.sides[from].pong() {
            // it may still have something to say
            self.lost(from, Some(&error));
        }
    }

    /// Wraps the payload at [`HEADROOM`] for the other side, and sends it.
    fn pass_on(&mut self, from: usize, buffers: &mut Buffers, length: usize) -> Result<(), Stop> {
        let backend = self.sides[1].leg;
        if let Some(trial) = self.trial.take_if(|trial| from == 1 || trial.is_passed(backend)) {
            trial.end(backend);
        }
        if from == 1 {
            self.unread = None;
        } else if let Some(unread) = &mut self.unread
            && !unread.keep(&buffers.opened[HEADROOM..HEADROOM + length])
        {
            self.unread = None;
        }
        let to = &mut self.sides[1 - from];
        if let Some(watch) = &mut to.watch {
            watch.say();
        }
        let Buffers { opened, sealed, .. } = buffers;
        let wrapped = to.layers.wrap(opened, HEADROOM, length, sealed);
        let wrapped = wrapped.map_err(|fault| Stop::Fault(1 - from, fault))?;
        to.send(wrapped).map_err(Stop::Send)?;
        let mut new = length as u64;
        if from == 0 {
            let again = new.min(self.counted);
            self.counted -= again;
            new -= again;
        }
        self.carried[from].add_bytes(new);
        self.live.add(from, new);
        Ok(())
    }

    /// A side has ended its stream.
    fn end(&mut self, from: usize) -> Result<(), Stop> {
        if self.broken {
            // after a failed send the kernel tells of the reset no more, and of an end in its place
            return Err(Stop::Receive);
        }
        if from == 1 && self.is_end_no_answer && self.breaks_off() {
            return Err(Stop::Receive);
        }
        self.sides[from].ended = true;
        self.sides[from].undecoded = Vec::new();
        let told = self.sides[1 - from].end().map_err(|fault| Stop::Fault(1 - from, fault))?;
        told.map_err(Stop::Send)
    }

    /// Carrying from a side has stopped.
    fn stop(&mut self, from: usize, stop: Stop) -> Result<(), Ending> {
        match stop {
            Stop::Receive => {
                _ = from == 1 && self.breaks_off();
                self.broken_off |= from == 1 && !self.broken && self.live.bytes()[1] == 0;
                self.broken = true;
                Err(Ending::Reset)
            }
            Stop::Send(error) => {
                self.lost(1 - from, Some(&error));
                // what the client still sends would be thrown away otherwise
                if from == 0 && self.breaks_off() { Err(Ending::Reset) } else { Ok(()) }
            }
            Stop::Fault(side, fault) => {
                let refusal = if side == 0 { fault.of_client() } else { fault.of_backend() };
                if (from, side) == (1, 1) {
                    self.breaks_off_by(&fault);
                    self.broken_off |= !self.broken && self.live.bytes()[1] == 0;
                }
                self.fault = Some((side, fault));
                Err(Ending::Refused(refusal))
            }
        }
    }

    /// The backend has gone. Whether it was too soon for it to have read anything, so that another one may have it.
    fn breaks_off(&mut self) -> bool {
        let backend = self.sides[1].leg;
        let Some(unread) = &mut self.unread else { return false };
        if self.trial.as_ref().is_some_and(|trial| trial.is_failed(backend)) {
            unread.lose_all();
        }
        let breaks_off =
            !self.sides[0].ended && !has_more(&**backend) && unread.lose(shortest_round_trip(&**backend));
        if !breaks_off {
            self.unread = None;
        }
        self.broken_off |= breaks_off;
        breaks_off
    }

    /// The backend has broken the tunnel.
    fn breaks_off_by(&mut self, fault: &Fault) {
        if let Some(unread) = &mut self.unread
            && fault.is_refusal()
        {
            unread.lose_all();
        }
        _ = self.breaks_off();
    }

    fn note(&mut self, side: usize, error: &io::Error) {
        if let Some(trial) = self.trial.as_mut().filter(|_| side == 1) {
            trial.lose(error);
        }
    }

    /// Nothing can be sent to a side any more. What it sent itself may still lie in its socket.
    fn lost(&mut self, side: usize, error: Option<&io::Error>) {
        if let Some(error) = error {
            self.note(side, error);
        }
        let is_reset = error.is_some_and(|error| !ended_before_reset(error));
        self.broken_off |= is_reset && side == 1 && !self.broken && self.live.bytes()[1] == 0;
        self.broken |= is_reset;
        self.sides[side].give_up();
    }

    /// Whether nothing more will be delivered of what a side sends.
    fn is_over(&self, from: usize) -> bool {
        let to = &self.sides[1 - from];
        to.sending == Sending::Void || (self.sides[from].ended && to.sending == Sending::Shut)
    }

    fn poll_end(&self) -> Poll<Ending> {
        if !self.is_lingering() {
            return Poll::Pending;
        }
        if self.broken {
            return Poll::Ready(Ending::Reset);
        }
        match SIDES.iter().find(|&&side| self.sides[1 - side].sending == Sending::Void) {
            None => Poll::Ready(Ending::Closed),
            // a reset now would throw away what this side has not received yet
            Some(&side) if !is_delivered(&**self.sides[side].leg) => Poll::Pending,
            Some(_) => Poll::Ready(Ending::Reset),
        }
    }
}

impl Carry for TunnelPump<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Ending> {
        if let Some(ending) = self.ended_early {
            return Poll::Ready(ending);
        }
        for side in SIDES {
            if let Err(end) = self.poll_way(cx, side, moved) {
                return Poll::Ready(end);
            }
        }
        for side in SIDES {
            // answers, and the end of a stream
            if let Poll::Ready(Err(error)) = self.sides[side].poll_flush(cx) {
                self.lost(side, Some(&error));
            }
            *moved |= mem::take(&mut self.sides[side].moved);
        }
        self.poll_end()
    }

    fn asks_at(&self) -> Option<Instant> {
        self.sides
            .iter()
            .filter(|side| side.can_ask())
            .filter_map(|side| Some(side.watch.as_ref()?.due()))
            .min()
    }

    fn ask(&mut self, now: Instant) -> Poll<Ending> {
        for side in SIDES {
            let stopped = match self.sides[side].look(now) {
                Ok(()) => Ok(()),
                Err(Stop::Send(error)) => self.stop(1 - side, Stop::Send(error)),
                Err(stop) => self.stop(side, stop),
            };
            if let Err(ending) = stopped {
                return Poll::Ready(ending);
            }
        }
        Poll::Pending
    }

    fn is_lingering(&self) -> bool {
        SIDES.iter().all(|&side| self.is_over(side))
    }

    fn is_half_closed(&self) -> bool {
        SIDES.iter().any(|&side| self.is_over(side))
    }

    fn is_unwatched(&self, side: usize) -> bool {
        self.sides[side].ended || self.sides[1 - side].unsent.is_some()
    }

    fn fail(&mut self, side: usize, error: Option<&io::Error>) -> Poll<Ending> {
        self.lost(side, error);
        if side == 1 && self.breaks_off() {
            return Poll::Ready(Ending::Reset);
        }
        if self.broken { Poll::Ready(Ending::Reset) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests;
