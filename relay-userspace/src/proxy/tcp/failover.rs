//! Reaching one of a rule's backends: the one that is chosen; the next one when that fails, and beside it when that is
//! silent. The first to answer wins.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use relay_common::net::Protocol;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::connect::connect;
use super::socket::{Leg, round_trip};
use crate::proxy::counters::Refusal;
use crate::proxy::gate::Gate;
use crate::proxy::pool::{Lease, Signal};
use crate::proxy::service::Target;

/// How long a backend may be silent before the next one is tried beside it: as long as its first SYN, which may be lost,
/// waits to be sent again.
const PATIENCE: Duration = Duration::from_secs(1);

/// A backend that has accepted a session.
#[derive(Debug)]
pub struct Reached {
    pub leg: Leg,
    pub lease: Lease,
    /// Who will not be tried again, this one included; kept where there are several.
    pub tried: Vec<usize>,
}

/// A connection to a backend that has not been tried, or why there is none: what the last one said. `limit` ends the
/// attempt at the only one there is.
pub async fn reach(
    target: &Target,
    gate: &Gate,
    port: u16,
    client: IpAddr,
    tried: Vec<usize>,
    limit: Pin<&mut Sleep>,
) -> Result<Reached, Refusal> {
    if target.ends.are_several() {
        // boxed, so that sessions of other rules need no room for it
        return Box::pin(reach_any(target, gate, port, client, tried)).await;
    }
    let index = target.ends.choose(Protocol::Tcp, client).ok_or(Refusal::NoBackend)?;
    let lease = target.ends.lease(Protocol::Tcp, index);
    match dial(target, index, port, limit).await {
        Ok(stream) => Ok(reached(stream, lease, tried)),
        Err(refusal) => {
            Signal::of(refusal).into_iter().for_each(|signal| lease.fail(signal));
            Err(refusal)
        }
    }
}

/// The same, of several.
async fn reach_any(
    target: &Target,
    gate: &Gate,
    port: u16,
    client: IpAddr,
    tried: Vec<usize>,
) -> Result<Reached, Refusal> {
    let mut waiting = Some(target.ends.candidates(Protocol::Tcp, client, gate).without(tried));
    let mut attempts: Vec<Attempt<'_>> = Vec::new();
    let mut failure = Refusal::NoBackend;
    loop {
        let next = waiting.as_mut().and_then(Iterator::next);
        attempts.extend(next.map(|index| Attempt::new(target, index, port)));
        if attempts.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            biased;
            (attempt, result) = first(&mut attempts) => match result {
                Ok(stream) => {
                    let tried = waiting.map(|waiting| waiting.tried()).unwrap_or_default();
                    return Ok(reached(stream, attempt.lease, tried));
                }
                Err(refusal) => {
                    attempt.fail(refusal);
                    failure = refusal;
                    if refusal == Refusal::Descriptors {
                        // another backend would need one, too
                        waiting = None;
                    }
                }
            },
            () = sleep(PATIENCE), if next.is_some() => attempts.iter_mut().for_each(Attempt::is_silent),
        }
    }
}

fn reached(stream: TcpStream, lease: Lease, tried: Vec<usize>) -> Reached {
    lease.begin();
    lease.answer();
    if let Some(micros) = round_trip(&stream) {
        lease.round_trips().backend.count(micros);
    }
    Reached { leg: Leg::new(stream), lease, tried }
}

async fn dial(
    target: &Target,
    index: usize,
    port: u16,
    limit: Pin<&mut Sleep>,
) -> Result<TcpStream, Refusal> {
    let end = target.ends.end(index).ok_or(Refusal::NoBackend)?;
    let (port, each) = (end.port(target.first_port, port), target.timeouts.connect);
    connect(&end.addresses, port, &target.connect, each, limit).await
}

/// One backend on trial.
struct Attempt<'a> {
    lease: Lease,
    /// Its silence has been told of.
    is_told: bool,
    dialling: Pin<Box<dyn Future<Output = Result<TcpStream, Refusal>> + Send + 'a>>,
}

impl<'a> Attempt<'a> {
    fn new(target: &'a Target, index: usize, port: u16) -> Self {
        let dialling =
            Box::pin(async move { dial(target, index, port, pin!(sleep(target.timeouts.connect))).await });
        Self { lease: target.ends.lease(Protocol::Tcp, index), is_told: false, dialling }
    }

    fn is_silent(&mut self) {
        if !self.is_told {
            self.is_told = true;
            self.lease.fail(Signal::Silent);
        }
    }

    fn fail(&self, refusal: Refusal) {
        if let Some(signal) = Signal::of(refusal).filter(|_| !self.is_told) {
            self.lease.fail(signal);
        }
    }
}

/// The first attempt that comes to an end, taken out.
async fn first<'a>(attempts: &mut Vec<Attempt<'a>>) -> (Attempt<'a>, Result<TcpStream, Refusal>) {
    poll_fn(|cx| {
        for place in 0..attempts.len() {
            if let Poll::Ready(result) = attempts[place].dialling.as_mut().poll(cx) {
                return Poll::Ready((attempts.swap_remove(place), result));
            }
        }
        Poll::Pending
    })
    .await
}
