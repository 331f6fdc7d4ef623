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
use crate::proxy::service::Target;

/// RFC 8305's connection attempt delay.
const STAGGER: Duration = Duration::from_millis(250);

/// A connection to the backend, or why there is none. `limit` ends the only attempt there is; of several, each has a
/// limit of its own.
pub async fn connect(target: &Target, port: u16, limit: Pin<&mut Sleep>) -> Result<TcpStream, Refusal> {
    match &target.addresses[..] {
        [] => Err(Refusal::NoBackend),
        [only] => attempt(SocketAddr::new(*only, port), limit).await,
        several => race(several, port, target.timeouts.connect).await,
    }
}

async fn race(addresses: &[IpAddr], port: u16, limit: Duration) -> Result<TcpStream, Refusal> {
    let mut failure = Refusal::NoBackend;
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.iter();
    loop {
        let next = waiting.next();
        if let Some(&address) = next {
            attempts.spawn(attempt_for(SocketAddr::new(address, port), limit));
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

async fn attempt_for(address: SocketAddr, limit: Duration) -> Result<TcpStream, Refusal> {
    attempt(address, pin!(sleep(limit))).await
}

async fn attempt(address: SocketAddr, limit: Pin<&mut Sleep>) -> Result<TcpStream, Refusal> {
    tokio::select! {
        biased;
        result = dial(address) => result.map_err(|error| refusal(&error)),
        () = limit => Err(Refusal::BackendTimeout),
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = open(address).await?;
    // a connection from a free port of this host to itself: nobody listens there
    if stream.local_addr()? == address {
        return Err(Errno::ECONNREFUSED.into());
    }
    Ok(stream)
}

/// The kernel chooses the source port as long as it finds one.
async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    if ports::are_scarce() {
        match ports::connect_by_name(address).await {
            Err(error) if ports::is_taken(&error) => {
                return socket::outgoing(address)?.connect(address).await;
            }
            result => return result,
        }
    }
    match socket::outgoing(address)?.connect(address).await {
        Err(error) if ports::is_taken(&error) => ports::connect_by_name(address).await,
        result => result,
    }
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => Refusal::Descriptors,
        Some(Errno::EADDRNOTAVAIL) => Refusal::PortsExhausted,
        Some(Errno::ETIMEDOUT) => Refusal::BackendTimeout,
        _ => Refusal::BackendRefused,
    }
}
