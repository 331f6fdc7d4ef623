//! Reaching one of a rule's backends: the one that is chosen; the next one when that fails, and beside it when that is
//! silent. The first to answer wins.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use relay_common::net::Protocol;
use tokio::time::{Instant, Sleep, sleep};

use super::connect::connect;
use super::socket::{Leg, round_trip};
use crate::proxy::counters::Refusal;
use crate::proxy::pool::{Lease, Signal};
use crate::proxy::service::{Service, Target};
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::{Connector, Fault, Opening};
use crate::rule::Backend;

/// How long a backend may be silent before the next one is tried beside it: as long as its first SYN, which may be lost,
/// waits to be sent again.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same where a tunnel's handshake is part of the answer, of several round trips.
const PATIENCE_WITH_TUNNELS: Duration = Duration::from_secs(3);

/// A backend that has accepted a session.
#[derive(Debug)]
pub struct Reached<T> {
    pub to: T,
    pub lease: Lease,
    /// Who will not be tried again, this one included; kept where there are several.
    pub tried: Vec<usize>,
}

/// A connection of the session's own.
#[derive(Debug)]
pub struct Connected {
    pub leg: Leg,
    /// What it is wrapped in.
    pub tunnel: Option<Box<Opening>>,
}

/// What there is then, and how long a handshake's round trip has taken, in microseconds.
pub type Dialled<T> = Result<(T, Option<u32>), Refusal>;

/// What a session may have to its backend.
pub trait Dial: Send + Sized {
    /// Reaches the backend of this index.
    fn dial(
        wanted: Wanted<'_>,
        index: usize,
        limit: Pin<&mut Sleep>,
    ) -> impl Future<Output = Dialled<Self>> + Send;
}

impl Dial for Connected {
    async fn dial(wanted: Wanted<'_>, index: usize, limit: Pin<&mut Sleep>) -> Dialled<Self> {
        dial(wanted, Purpose::Session, index, limit).await
    }
}

/// Who wants a backend.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub service: &'a Arc<Service>,
    pub target: &'a Arc<Target>,
    /// That the client has come in on.
    pub port: u16,
    pub client: IpAddr,
    /// What the backend is sent ahead of a tunnel.
    pub header: &'a [u8],
}

/// A connection to a backend that has not been tried, or why there is none: what the last one said. `limit` ends the
/// attempt at the only one there is.
pub async fn reach<T: Dial>(
    wanted: Wanted<'_>,
    tried: Vec<usize>,
    limit: Pin<&mut Sleep>,
) -> Result<Reached<T>, Refusal> {
    let Wanted { target, client, .. } = wanted;
    if target.ends.are_several() {
        // boxed, so that sessions of other rules need no room for it
        return Box::pin(reach_any(wanted, tried)).await;
    }
    let index = target.ends.choose(Protocol::Tcp, client).ok_or(Refusal::NoBackend)?;
    let lease = target.ends.lease(Protocol::Tcp, index);
    match T::dial(wanted, index, limit).await {
        Ok(dialled) => Ok(reached(dialled, lease, tried)),
        Err(refusal) => {
            Signal::of(refusal).into_iter().for_each(|signal| lease.fail(signal));
            Err(refusal)
        }
    }
}

/// The same, of several.
async fn reach_any<T: Dial>(wanted: Wanted<'_>, tried: Vec<usize>) -> Result<Reached<T>, Refusal> {
    let Wanted { service, target, client, .. } = wanted;
    let mut waiting = Some(target.ends.candidates(Protocol::Tcp, client, &service.gate).without(tried));
    let mut attempts: Vec<Attempt<'_, T>> = Vec::new();
    let mut failure = Refusal::NoBackend;
    let patience = if target.connector.is_some() { PATIENCE_WITH_TUNNELS } else { PATIENCE };
    loop {
        let next = waiting.as_mut().and_then(Iterator::next);
        attempts.extend(next.map(|index| Attempt::new(wanted, index)));
        if attempts.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            biased;
            (attempt, result) = first(&mut attempts) => match result {
                Ok(dialled) => {
                    let tried = waiting.map(|waiting| waiting.tried()).unwrap_or_default();
                    return Ok(reached(dialled, attempt.lease, tried));
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
            () = sleep(patience), if next.is_some() => attempts.iter_mut().for_each(Attempt::is_silent),
        }
    }
}

fn reached<T>((to, round_trip): (T, Option<u32>), lease: Lease, tried: Vec<usize>) -> Reached<T> {
    lease.begin();
    lease.answer();
    if let Some(micros) = round_trip {
        lease.round_trips().backend.count(micros);
    }
    Reached { to, lease, tried }
}

/// Connects to the backend of this index, and opens a tunnel for a purpose if the rule has any.
pub async fn dial(
    wanted: Wanted<'_>,
    purpose: Purpose,
    index: usize,
    mut limit: Pin<&mut Sleep>,
) -> Dialled<Connected> {
    let Wanted { target, port, .. } = wanted;
    let end = target.ends.end(index).ok_or(Refusal::NoBackend)?;
    let (port, each) = (end.port(target.first_port, port), target.timeouts.connect);
    let stream = connect(&end.addresses, port, &target.connect, each, limit.as_mut()).await?;
    let round_trip = round_trip(&stream);
    let leg = Leg::new(stream);
    let tunnel = match &target.connector {
        None => None,
        // boxed, so that sessions of other rules need no room for it
        Some(connector) => Some(Box::pin(wrap(wanted, connector, purpose, &leg, &end.name, limit)).await?),
    };
    Ok((Connected { leg, tunnel }, round_trip))
}

/// Opens the tunnel on a connection to a backend.
async fn wrap(
    wanted: Wanted<'_>,
    connector: &Connector,
    purpose: Purpose,
    leg: &Leg,
    backend: &str,
    mut limit: Pin<&mut Sleep>,
) -> Result<Box<Opening>, Refusal> {
    limit.as_mut().reset(Instant::now() + wanted.target.timeouts.handshake);
    let host = host_of(backend);
    let opened = tokio::select! {
        biased;
        opened = connector.connect_for(purpose, leg, &host, wanted.header) => opened,
        () = limit => Err(Fault::Late),
    };
    opened.map(Box::new).map_err(|fault| {
        let reason = fault.as_str();
        wanted.service.complain(format_args!("backend {backend}: {fault} ({reason})"));
        fault.of_backend()
    })
}

/// The host in a backend's text.
fn host_of(backend: &str) -> String {
    Backend::parse(backend).map_or_else(|_unheard_of| backend.to_owned(), |backend| backend.host.to_string())
}

/// One backend on trial.
struct Attempt<'a, T> {
    lease: Lease,
    /// Its silence has been told of.
    is_told: bool,
    dialling: Pin<Box<dyn Future<Output = Dialled<T>> + Send + 'a>>,
}

impl<'a, T: Dial + 'a> Attempt<'a, T> {
    fn new(wanted: Wanted<'a>, index: usize) -> Self {
        let target = wanted.target;
        let dialling =
            Box::pin(async move { T::dial(wanted, index, pin!(sleep(target.timeouts.connect))).await });
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
async fn first<'a, T>(attempts: &mut Vec<Attempt<'a, T>>) -> (Attempt<'a, T>, Dialled<T>) {
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
