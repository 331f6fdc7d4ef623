//! Connecting to a backend: its addresses in their order, each a little after the one before it (RFC 8305), or at once
//! when that one has failed. The first to answer wins.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};

use super::{ports, socket};
use crate::proxy::counters::Refusal;
use crate::proxy::outgoing;
use crate::rule::Connect;

/// RFC 8305's connection attempt delay.
const STAGGER: Duration = Duration::from_millis(250);

/// A connection to the backend, or why there is none. `limit` ends the only attempt there is; of several, each has a
/// limit of its own, `each`.
pub async fn connect(
    addresses: &[IpAddr],
    port: u16,
    by: &Connect,
    each: Duration,
    limit: Pin<&mut Sleep>,
) -> Result<TcpStream, Refusal> {
    match addresses {
        [] => Err(Refusal::NoBackend),
        [only] => attempt(SocketAddr::new(*only, port), by, limit).await,
        several => race(several, port, by, each).await,
    }
}

async fn race(addresses: &[IpAddr], port: u16, by: &Connect, limit: Duration) -> Result<TcpStream, Refusal> {
    let mut failure = Refusal::NoBackend;
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.iter();
    loop {
        let next = waiting.next();
        if let Some(&address) = next {
            attempts.spawn(attempt_for(SocketAddr::new(address, port), by.clone(), limit));
        }
        tokio::select! {
            attempt = attempts.join_next() => match attempt {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(refusal))) => failure = refusal,
                Some(Err(_)) => {}
                None => return Err(failure),
            },
            () = sleep(STAGGER), if next.is_some() => {}
        }
    }
}

async fn attempt_for(address: SocketAddr, by: Connect, limit: Duration) -> Result<TcpStream, Refusal> {
    attempt(address, &by, pin!(sleep(limit))).await
}

async fn attempt(address: SocketAddr, by: &Connect, limit: Pin<&mut Sleep>) -> Result<TcpStream, Refusal> {
    tokio::select! {
        biased;
        result = dial(address, by) => result.map_err(|error| refusal(&error)),
        () = limit => Err(Refusal::BackendTimeout),
    }
}

/// A connection to one address. Whoever wants a limit sets it.
pub async fn dial(address: SocketAddr, by: &Connect) -> io::Result<TcpStream> {
    let stream = open(address, by).await?;
    // a connection from a free port of this host to itself: nobody listens there
    if stream.local_addr()? == address {
        return Err(Errno::ECONNREFUSED.into());
    }
    Ok(stream)
}

/// The kernel chooses the source port as long as it finds one.
async fn open(address: SocketAddr, by: &Connect) -> io::Result<TcpStream> {
    let are_scarce = ports::are_scarce();
    if !are_scarce {
        match connect_from_any(address, by).await {
            Err(error) if ports::is_taken(&error) => {}
            result => return result,
        }
    }
    if !outgoing::has_source(address, by) {
        return Err(Errno::ENETUNREACH.into());
    }
    match ports::connect_by_name(address, by).await {
        Err(error) if are_scarce && ports::is_taken(&error) => connect_from_any(address, by).await,
        result => result,
    }
}

/// Connects from a port of the kernel's choice.
async fn connect_from_any(address: SocketAddr, by: &Connect) -> io::Result<TcpStream> {
    let socket = socket::outgoing(address, by)?;
    outgoing::bind_source(&socket, by)?;
    socket.connect(address).await
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => Refusal::Descriptors,
        Some(Errno::EADDRNOTAVAIL) => Refusal::PortsExhausted,
        Some(Errno::ENETUNREACH | Errno::ENODEV) => Refusal::NoRoute,
        Some(Errno::ETIMEDOUT) => Refusal::BackendTimeout,
        _ => Refusal::BackendRefused,
    }
}
