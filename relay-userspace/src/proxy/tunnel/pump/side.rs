//! One leg of a session of which one is a tunnel: what is sent to it, and what of that it has not taken yet.

use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use socket2::SockRef;

use super::input::Stop;
use crate::proxy::tcp::remainder::Remainder;
use crate::proxy::tcp::socket::Leg;
use crate::proxy::tcp::transfer::try_send;
use crate::proxy::tunnel::fault::Fault;
use crate::proxy::tunnel::layers::Layers;
use crate::proxy::tunnel::watch::{Next, Watch};

/// Who does not take so much of what it has asked for is not heard until it does.
pub const MOST_OWED: usize = 16 * 1024;

/// One leg, what it is wrapped in, and what lies on its way in and out.
#[derive(Debug)]
pub struct Side<'a> {
    pub(super) leg: &'a Leg,
    pub(super) layers: Layers,
    /// The beginning of a record.
    pub(super) undecoded: Vec<u8>,
    /// What the peer has not taken yet.
    pub(super) unsent: Option<Remainder>,
    /// How much of that are answers that only it has asked for.
    owed: usize,
    /// The peer has taken something of it.
    pub(super) moved: bool,
    pub(super) sending: Sending,
    /// The stream that comes from it has ended.
    pub(super) ended: bool,
    pub(super) watch: Option<Watch>,
}

/// What becomes of what is sent to a side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sending {
    Open,
    /// The end of the stream has been wrapped, too.
    Ends,
    /// All of it is out, and the stream is shut.
    Shut,
    /// The peer takes nothing any more.
    Void,
}

impl<'a> Side<'a> {
    /// `undecoded`: what has come of a record that is not whole.
    pub const fn new(leg: &'a Leg, layers: Layers, undecoded: Vec<u8>) -> Self {
        let sending = Sending::Open;
        Self {
            leg,
            layers,
            undecoded,
            unsent: None,
            owed: 0,
            moved: false,
            sending,
            ended: false,
            watch: None,
        }
    }

    /// Sends what goes at once, and keeps the rest.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if matches!(self.sending, Sending::Shut | Sending::Void) {
            return Ok(());
        }
        let rest = match &self.unsent {
            Some(unsent) => [unsent.rest(), bytes].concat(),
            None => bytes[try_send(self.leg, bytes)?..].to_vec(),
        };
        self.unsent = (!rest.is_empty()).then(|| Remainder::new(rest));
        Ok(())
    }

    /// Sends what a codec answers by itself.
    pub(super) fn answer(&mut self, answers: &[u8]) -> io::Result<()> {
        self.send(answers)?;
        if self.unsent.is_some() {
            self.owed += answers.len();
        }
        Ok(())
    }

    /// Answers its last ping, once nothing that came ahead of that has still to go elsewhere.
    pub(super) fn pong(&mut self) -> io::Result<()> {
        let mut pong = Vec::new();
        // one that cannot be sealed is a fault of what is sent next, too
        if self.layers.pong(&mut pong).is_ok() && !pong.is_empty() {
            self.answer(&pong)?;
        }
        Ok(())
    }

    /// Who does not take what it is sent would not take a ping either, and TCP sees to whether it is there. Nor does
    /// whoever has ended its stream answer in it.
    pub(super) fn can_ask(&self) -> bool {
        self.sending == Sending::Open && !self.ended && self.unsent.is_none()
    }

    /// Looks after a peer that may have gone.
    pub(super) fn look(&mut self, now: Instant) -> Result<(), Stop> {
        let can_ask = self.can_ask();
        let Some(watch) = self.watch.as_mut().filter(|_| can_ask) else { return Ok(()) };
        match watch.look(now) {
            Next::Wait => {}
            Next::Gone => return Err(Stop::Receive),
            Next::Ask(question) => {
                let mut ping = Vec::new();
                // one that cannot be sealed is a fault of what is sent next, too
                if self.layers.ping(question, &mut ping).is_ok() {
                    self.send(&ping).map_err(Stop::Send)?;
                }
            }
        }
        Ok(())
    }

    /// Whether it asks for answers and does not take them.
    pub(super) const fn is_greedy(&self) -> bool {
        self.owed > MOST_OWED
    }

    /// Sends what was kept, and then the end of the stream if it has come. Ready when all is out.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(unsent) = &mut self.unsent {
            ready!(self.leg.poll_write_ready(cx))?;
            let sent = try_send(self.leg, unsent.rest())?;
            unsent.take(sent);
            self.moved |= sent > 0;
            if unsent.rest().is_empty() {
                self.unsent = None;
                self.owed = 0;
            }
        }
        if self.sending == Sending::Ends {
            self.sending = Sending::Shut;
            // fails only if the peer is gone, which reading from it will tell
            _ = SockRef::from(&**self.leg).shutdown(Shutdown::Write);
        }
        Poll::Ready(Ok(()))
    }

    /// Wraps the end of the stream.
    pub(super) fn end(&mut self) -> Result<io::Result<()>, Fault> {
        if self.sending != Sending::Open {
            return Ok(Ok(()));
        }
        let mut closing = Vec::new();
        self.layers.end(&mut closing)?;
        let sent = self.send(&closing);
        self.sending = Sending::Ends;
        Ok(sent)
    }

    /// Nothing can be sent to it any more.
    pub(super) fn give_up(&mut self) {
        if self.sending != Sending::Shut {
            self.sending = Sending::Void;
        }
        self.unsent = None;
        self.owed = 0;
    }
}
