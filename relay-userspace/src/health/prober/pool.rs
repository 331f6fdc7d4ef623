//! TCP sockets that connect again and again: to break a connection off and begin another on the same socket costs three
//! quarters of a new one, and a reset, as HAProxy sends it, leaves no TIME_WAIT at either end.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::{SockAddr, SockAddrStorage, Socket};

use crate::health::probe;
use crate::health::prober::Probe;

/// Sockets that are kept when they are not in use.
const MOST: usize = 64;
/// Each change is told once.
const INTEREST: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLOUT).union(EpollFlags::EPOLLET);

/// Sockets that are bound and known to epoll, and not in use.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: VecDeque<(Way, Socket)>,
}

/// What a socket is bound to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Way {
    is_ipv4: bool,
    source: Option<IpAddr>,
    interface: Option<Box<str>>,
}

impl Way {
    pub fn of(probe: &Probe) -> Self {
        Self {
            is_ipv4: probe.address.is_ipv4(),
            source: probe.connect.source,
            interface: probe.connect.interface.clone(),
        }
    }
}

impl Pool {
    /// A socket for a connection that is made for its own sake, from the pool or new.
    pub fn take(&mut self, probe: &Probe, poller: &Epoll) -> io::Result<Socket> {
        let way = Way::of(probe);
        let kept = self.idle.iter().rposition(|(own, _)| *own == way);
        match kept.and_then(|index| self.idle.remove(index)) {
            Some((_, socket)) => Ok(socket),
            None => open(probe, poller),
        }
    }

    /// Breaks the connection off and keeps the socket, if it can be used again.
    pub fn give_back(&mut self, way: Way, socket: Socket) {
        if break_off(&socket).is_err() {
            return;
        }
        self.idle.push_back((way, socket));
        if self.idle.len() > MOST {
            self.idle.pop_front();
        }
    }
}

/// A new socket for a probe, known to epoll by its number.
pub(super) fn open(probe: &Probe, poller: &Epoll) -> io::Result<Socket> {
    let socket = probe::socket(probe.address, &probe.check.kind, &probe.connect)?;
    poller.add(&socket, EpollEvent::new(INTEREST, super::flights::number(&socket)))?;
    Ok(socket)
}

/// Ends whatever connection there is, by a reset if it stands. The socket keeps what it is bound to, but for the port.
fn break_off(socket: &Socket) -> io::Result<()> {
    let storage = SockAddrStorage::zeroed();
    let length = storage.size_of();
    // SAFETY: an address of zeroes is one of the family AF_UNSPEC, of which no more than the family is looked at.
    let unspecified = unsafe { SockAddr::new(storage, length) };
    socket.connect(&unspecified)?;
    // what it says of the connection that was broken off is no news
    socket.take_error().map(drop)
}

/// Lets the handshake's last segment wait, so that the reset goes instead of it and the endpoint's program is never
/// woken for a connection that nobody wants.
pub(super) fn withhold_ack(socket: &Socket) {
    // without it the endpoint accepts once more than it needs to
    _ = socket.set_tcp_quickack(false);
}
