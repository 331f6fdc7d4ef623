//! Source ports towards a backend when the kernel finds none: most likely all of them rest (TIME_WAIT) after connections
//! that clients have closed first.
//!
//! A connection may begin at once where one of the same addresses and ports rests, if both ends had timestamps
//! (RFC 6191). The kernel does that by itself with net.ipv4.tcp_tw_reuse = 1, after a second, and without it where the
//! port is asked for by name. A port that was asked for by name is no other program's until its rest is over, so these
//! are few, and lie outside the range that the kernel gives ports out from where there is room.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::socket;
use crate::net::sysctl::local_ports;
use crate::proxy::outgoing;
use crate::proxy::shared::Bind;
use crate::rule::Connect;

/// Ports below may be the kernel plane's.
const LOWEST: u16 = 32_768;
/// How many ports are used by name.
const MOST: u16 = 4096;
/// The fewest that make it worth leaving the kernel's range.
const ENOUGH: u16 = 512;
/// Ports that one connection tries.
const TRIES: u16 = 64;
/// How long the kernel is not asked any more after it has had no port: a search through all of them is dear.
const WITHOUT_KERNEL: Duration = Duration::from_secs(30);

thread_local! {
    static SEARCH: RefCell<Option<Search>> = const { RefCell::new(None) };
}

/// How a port is asked for where programs are watched for that begin to listen.
static BIND: RwLock<Option<Arc<Bind>>> = RwLock::new(None);

/// From now on ports are asked for like this.
pub fn bind_by(bind: Arc<Bind>) {
    *BIND.write().unwrap_or_else(PoisonError::into_inner) = Some(bind);
}

fn bind(socket: &TcpSocket, address: SocketAddr) -> io::Result<()> {
    match &*BIND.read().unwrap_or_else(PoisonError::into_inner) {
        Some(bind) => bind(&SockRef::from(socket), &address.into()),
        None => socket.bind(address),
    }
}

/// While the kernel has no ports.
struct Search {
    until: Instant,
    ports: RangeInclusive<u16>,
    next: u16,
}

/// Whether ports are to be asked for by name for now.
pub fn are_scarce() -> bool {
    SEARCH.with_borrow_mut(|search| {
        if search.as_ref().is_some_and(|search| search.until <= Instant::now()) {
            *search = None;
        }
        search.is_some()
    })
}

/// Connects from a port of our choice.
pub async fn connect_by_name(address: SocketAddr, by: &Connect) -> io::Result<TcpStream> {
    let unspecified: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    for _ in 0..TRIES {
        let socket = socket::outgoing(address, by)?;
        match bind(&socket, outgoing::source(by.source.unwrap_or(unspecified), next_port()?, by)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            Err(error) => return Err(error),
        }
        match socket.connect(address).await {
            Err(error) if is_taken(&error) => {}
            result => return result,
        }
    }
    Err(Errno::EADDRNOTAVAIL.into())
}

/// Whether an error says that a port is in use, towards this backend or at all.
pub fn is_taken(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE))
}

/// The one that has rested longest.
fn next_port() -> io::Result<u16> {
    SEARCH.with_borrow_mut(|search| {
        let search = match search {
            Some(search) => search,
            None => search.insert(Search::start(&local_ports()?)),
        };
        let port = search.next;
        search.next = if port == *search.ports.end() { *search.ports.start() } else { port + 1 };
        Ok(port)
    })
}

impl Search {
    fn start(local: &RangeInclusive<u16>) -> Self {
        let ports = by_name(local);
        // workers begin in different places
        let number = std::thread::current().id();
        let spread = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), number);
        let length = u64::from(ports.end() - ports.start()) + 1;
        let next = ports.start() + u16::try_from(spread % length).unwrap_or(0);
        Self { until: Instant::now() + WITHOUT_KERNEL, ports, next }
    }
}

/// The ports to ask for by name: above the kernel's range, or its last eighth.
fn by_name(local: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let above = LOWEST.max(local.end().saturating_add(1));
    if *local.end() < u16::MAX - ENOUGH {
        return above.max(u16::MAX - (MOST - 1))..=u16::MAX;
    }
    let eighth = ((local.end() - local.start()) / 8).min(MOST - 1);
    LOWEST.max(local.end() - eighth)..=*local.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_by_name_are_few_and_nobodys() {
        for (local, by_name_) in [
            (32_768..=60_999, 61_440..=65_535),
            (40_000..=40_199, 61_440..=65_535),
            (32_768..=64_000, 64_001..=65_535),
            (1024..=65_535, 61_440..=65_535),
            (60_000..=65_535, 64_844..=65_535),
            (1024..=20_000, 61_440..=65_535),
        ] {
            assert_eq!(by_name(&local), by_name_, "{local:?}");
        }
    }
}
