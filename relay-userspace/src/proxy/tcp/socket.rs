//! What the sockets of a session are told, and how they end.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::rule::Keepalive;

nix::ioctl_read_bad!(
    /// How many bytes the peer has not acknowledged yet, a FIN included.
    outstanding,
    nix::libc::TIOCOUTQ,
    nix::libc::c_int
);

/// One of the two connections of a session. Dropping it resets the connection, unless it was closed.
#[derive(Debug)]
pub struct Leg {
    stream: TcpStream,
    closed: bool,
}

impl Leg {
    pub const fn new(stream: TcpStream) -> Self {
        Self { stream, closed: false }
    }

    /// Ends the connection in peace.
    pub fn close(mut self) {
        self.closed = true;
    }
}

impl Deref for Leg {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.closed {
            // fails only for a connection that is gone already
            _ = self.stream.set_zero_linger();
        }
    }
}

/// Whether the peer has everything that was sent to it.
pub fn is_delivered(socket: &impl AsRawFd) -> bool {
    let mut bytes = 0;
    // SAFETY: TIOCOUTQ writes one int, to where `bytes` is.
    let asked = unsafe { outstanding(socket.as_raw_fd(), &raw mut bytes) };
    asked.is_err() || bytes == 0
}

/// Sets on a listening socket what accepted ones inherit.
pub fn prepare_listener(listener: &impl AsFd, keepalive: Keepalive) -> io::Result<()> {
    SockRef::from(listener).set_tcp_nodelay(true)?;
    probe(listener, keepalive)
}

/// A socket for a connection to `address`.
pub fn outgoing(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    // what is left of it must not keep the next one from its port
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// Has the kernel ask a silent peer whether it is still there.
pub fn probe(socket: &impl AsFd, Keepalive { idle, interval, count }: Keepalive) -> io::Result<()> {
    // the kernel refuses what is beyond
    let seconds = |time: Duration| Duration::from_secs(time.as_secs().clamp(1, 32_767));
    let probes = TcpKeepalive::new()
        .with_time(seconds(idle))
        .with_interval(seconds(interval))
        .with_retries(count.clamp(1, 127).into());
    SockRef::from(socket).set_tcp_keepalive(&probes)
}
