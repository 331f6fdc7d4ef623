//! The life of a session once both legs are there: carried, watched for failures, ended when it is silent.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{self, Duration};

use tokio::io::Interest;
use tokio::time::{Instant, Sleep};

use super::pump::SIDES;
use super::socket::{Leg, probe};
use crate::proxy::ending::Ending;
use crate::proxy::roster::Live;
use crate::rule::Timeouts;

/// How often to look whether a side has everything, before it is reset.
const DELIVERY: Duration = Duration::from_millis(50);

/// Something that carries both ways between two legs.
pub trait Carry {
    /// Carries what there is. `moved` becomes true if there was anything, the end of a stream included.
    fn poll(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Ending>;

    /// Whether all that is left to do is to see what was sent delivered, which no event tells.
    fn is_lingering(&self) -> bool;

    /// Whether a direction is over.
    fn is_half_closed(&self) -> bool;

    /// When somebody is to be asked next whether it is still there.
    fn asks_at(&self) -> Option<time::Instant> {
        None
    }

    /// Asks whom it is time to ask. Ready when somebody is gone.
    fn ask(&mut self, _now: time::Instant) -> Poll<Ending> {
        Poll::Pending
    }

    /// Whether nobody reads from a side for now, so that its reset would go unnoticed.
    fn is_unwatched(&self, side: usize) -> bool;

    /// An unwatched side has failed.
    fn fail(&mut self, side: usize, error: Option<&io::Error>) -> Poll<Ending>;
}

/// Carries until it is over, one side is gone, or nothing has moved for longer than allowed.
pub async fn carry(
    legs: [&Leg; 2],
    pump: &mut impl Carry,
    live: &Live,
    timeouts: &Timeouts,
    mut timer: Pin<&mut Sleep>,
) -> Ending {
    let mut failures = [pin!(legs[0].ready(Interest::ERROR)), pin!(legs[1].ready(Interest::ERROR))];
    let mut noticed = [false; 2];
    let mut last = Instant::now();
    let mut probed = false;
    // what is asked may have to wait for room, which carrying sees to: after each time it is carried again
    poll_fn(|cx| {
        loop {
            let mut moved = false;
            loop {
                if let Poll::Ready(end) = pump.poll(cx, &mut moved) {
                    return Poll::Ready(end);
                }
                let new = |&side: &usize| {
                    !noticed[side] && pump.is_unwatched(side) && failures[side].as_mut().poll(cx).is_ready()
                };
                let Some(side) = SIDES.into_iter().find(new) else { break };
                noticed[side] = true;
                let error = legs[side].take_error().ok().flatten();
                if let Poll::Ready(end) = pump.fail(side, error.as_ref()) {
                    return Poll::Ready(end);
                }
            }
            if moved {
                last = Instant::now();
                live.touch(last.into_std());
            }
            let silence = if pump.is_half_closed() { timeouts.half_close } else { timeouts.tcp_idle };
            let due = if pump.is_lingering() { Instant::now() + DELIVERY } else { last + silence };
            let sooner = |asks_at: Option<time::Instant>| asks_at.map_or(due, |at| due.min(at.into()));
            let next = sooner(pump.asks_at());
            if timer.deadline() > next {
                timer.as_mut().reset(next);
            }
            ready!(timer.as_mut().poll(cx));
            if last.elapsed() >= silence {
                return Poll::Ready(if pump.is_half_closed() { Ending::HalfClosed } else { Ending::Idle });
            }
            if let Poll::Ready(end) = pump.ask(Instant::now().into_std()) {
                return Poll::Ready(end);
            }
            timer.as_mut().reset(sooner(pump.asks_at()));
            if !probed {
                // not before, since most sessions are short; a connection that refuses this is none any more
                probed = true;
                _ = probe(&**legs[1], timeouts.keepalive);
            }
        }
    })
    .await
}
