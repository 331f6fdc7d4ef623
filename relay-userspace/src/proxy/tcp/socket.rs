//! What the sockets of a session are told, and how they end.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::AsRawFd;

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

    /// Whether the peer has everything that was sent to it.
    pub fn is_delivered(&self) -> bool {
        let mut bytes = 0;
        // SAFETY: TIOCOUTQ writes one int, to where `bytes` is.
        let asked = unsafe { outstanding(self.stream.as_raw_fd(), &raw mut bytes) };
        asked.is_err() || bytes == 0
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

/// Sets on a listening socket what accepted ones inherit.
pub fn prepare_listener(listener: &impl std::os::fd::AsFd, keepalive: Keepalive) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&probes(keepalive))
}

/// A socket for a connection to `address`.
pub fn outgoing(address: SocketAddr, keepalive: Keepalive) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let plain = SockRef::from(&socket);
    plain.set_tcp_nodelay(true)?;
    plain.set_tcp_keepalive(&probes(keepalive))?;
    Ok(socket)
}

fn probes(Keepalive { idle, interval, count }: Keepalive) -> TcpKeepalive {
    TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count.into())
}
