//! Reaching one of a rule's backends: the one that is chosen; the next one when that fails, and beside it when that is
//! silent. The first to answer wins.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use relay_common::net::Protocol;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::connect::connect;
use super::socket::{Leg, round_trip};
use crate::proxy::counters::Refusal;
use crate::proxy::pool::{End, Lease, Signal};
use crate::proxy::proxy_protocol::{self, Header};
use crate::proxy::service::{Service, Target};
use crate::proxy::tunnel::purpose::Purpose;
use crate::proxy::tunnel::{By, Connector, Fault, Opening};
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
    /// It was held open for whoever came next.
    pub is_spare: bool,
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
        let place = place(wanted, index)?;
        let is_session = wanted.purpose == Purpose::Session;
        match is_session.then(|| spare(wanted.target, place)).flatten() {
            Some(connected) => Ok((connected, None)),
            None => open(wanted.service, wanted.target, place, (wanted.purpose, wanted.header), limit).await,
        }
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
    /// What the tunnel is for.
    pub purpose: Purpose,
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

/// The same backend again, for a client whose tunnel had been held open and has broken off: it gets one of its own. What
/// the session counts for stays as it is.
pub async fn renew(
    wanted: Wanted<'_>,
    lease: Lease,
    tried: Vec<usize>,
    mut limit: Pin<&mut Sleep>,
) -> Result<Reached<Connected>, (Refusal, Vec<usize>)> {
    let Wanted { service, target, header, purpose, .. } = wanted;
    limit.as_mut().reset(Instant::now() + target.timeouts.connect);
    let opened = match place(wanted, lease.index()) {
        Ok(place) => open(service, target, place, (purpose, header), limit).await,
        Err(refusal) => Err(refusal),
    };
    match opened {
        Ok((to, _)) => Ok(Reached { to, lease, tried }),
        Err(refusal) => {
            if Signal::of(refusal).is_some() {
                // it has counted as an answer
                lease.fail(Signal::Reset);
            }
            Err((refusal, tried))
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

/// A tunnel to one backend for something else than a session.
pub async fn open_for(
    purpose: Purpose,
    service: &Service,
    target: &Target,
    index: usize,
    port: u16,
) -> Result<(Leg, Opening), Refusal> {
    let header = target.connect.proxy_protocol.map(|version| proxy_protocol::write(&Header::LOCAL, version));
    let header = header.unwrap_or_default();
    let end = target.ends.end(index).ok_or(Refusal::NoBackend)?;
    let place = (end, end.port(target.first_port, port));
    let limit = pin!(sleep(target.timeouts.connect));
    let (Connected { leg, tunnel, .. }, _) = open(service, target, place, (purpose, &header), limit).await?;
    tunnel.map(|opening| (leg, *opening)).ok_or(Refusal::BackendTunnel)
}

/// A backend, and its port for a client.
fn place(wanted: Wanted<'_>, index: usize) -> Result<(&End, u16), Refusal> {
    let end = wanted.target.ends.end(index).ok_or(Refusal::NoBackend)?;
    Ok((end, end.port(wanted.target.first_port, wanted.port)))
}

/// A tunnel that has been held open.
fn spare(target: &Target, (end, port): (&End, u16)) -> Option<Connected> {
    let spares = target.ends.spares().filter(|_| target.connect.pool > 0)?;
    let by = By { connector: target.connector.clone()?, connect: target.connect.clone() };
    let (socket, opening) = spares.take((end.name.clone(), port), &by, &end.addresses)?;
    let leg = Leg::new(TcpStream::from_std(socket).ok()?);
    Some(Connected { leg, tunnel: Some(Box::new(opening)), is_spare: true })
}

/// Connects to a backend, with the tunnel that the rule wants, and what for. `header`: what goes ahead of a tunnel.
pub async fn open(
    service: &Service,
    target: &Target,
    (end, port): (&End, u16),
    (purpose, header): (Purpose, &[u8]),
    mut limit: Pin<&mut Sleep>,
) -> Dialled<Connected> {
    let each = target.timeouts.connect;
    let stream = connect(&end.addresses, port, &target.connect, each, limit.as_mut()).await?;
    let round_trip = round_trip(&stream);
    let leg = Leg::new(stream);
    let tunnel = match &target.connector {
        None => None,
        Some(connector) => {
            limit.as_mut().reset(Instant::now() + target.timeouts.handshake);
            // boxed, so that sessions of other rules need no room for it
            Some(Box::pin(wrap(service, connector, &leg, &end.name, (purpose, header), limit)).await?)
        }
    };
    Ok((Connected { leg, tunnel, is_spare: false }, round_trip))
}

/// Opens the tunnel on a connection to a backend.
async fn wrap(
    service: &Service,
    connector: &Connector,
    leg: &Leg,
    backend: &str,
    (purpose, header): (Purpose, &[u8]),
    limit: Pin<&mut Sleep>,
) -> Result<Box<Opening>, Refusal> {
    let host = host_of(backend);
    let opened = tokio::select! {
        biased;
        opened = connector.connect_for(purpose, leg, &host, header) => opened,
        () = limit => Err(Fault::Late),
    };
    opened.map(Box::new).map_err(|fault| {
        let reason = fault.as_str();
        service.complain(format_args!("backend {backend}: {fault} ({reason})"));
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
