//! What the sockets of a session are told, and how they end.

use std::io;
use std::net::{self, SocketAddr};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{IPPROTO_TCP, TCP_INFO, getsockopt, socklen_t, tcp_info};
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, SockRef, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::net::mptcp;
use crate::proxy::{descriptors, outgoing};
use crate::rule::{Connect, Keepalive};

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

    /// The socket, for another thread to wait for.
    pub fn into_std(self) -> io::Result<net::TcpStream> {
        let socket = self.stream.as_fd().try_clone_to_owned()?;
        self.close();
        Ok(socket.into())
    }

    /// Ends the connection in peace.
    pub fn close(mut self) {
        self.end_in_peace();
    }

    /// The same when it is dropped.
    pub const fn end_in_peace(&mut self) {
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

/// How many microseconds the handshake's round trip took, of a connection that has sent nothing since; `None`: the kernel
/// does not know, such as of a packet that it sent twice.
pub fn round_trip(socket: &impl AsRawFd) -> Option<u32> {
    // SAFETY: all of its fields are integers.
    let mut info: tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<tcp_info>() as socklen_t;
    let (place, socket) = ((&raw mut info).cast(), socket.as_raw_fd());
    // SAFETY: the kernel writes `length` bytes at most, to where `info` is, and how many to where `length` is.
    let asked = unsafe { getsockopt(socket, IPPROTO_TCP, TCP_INFO, place, &raw mut length) };
    (asked == 0 && info.tcpi_rtt > 0).then_some(info.tcpi_rtt)
}

/// How much of `struct tcp_info` (include/uapi/linux/tcp.h) has `tcpi_min_rtt` at its end, in words. The C libraries' own
/// forms of it end at different places.
const WORDS_TO_MIN_RTT: usize = 38;

/// The words of it that tell how many bytes the peer has acknowledged.
const WORDS_OF_BYTES_ACKED: [usize; 2] = [30, 31];

/// The shortest round trip of a connection so far, also of one that has just been reset.
pub fn shortest_round_trip(socket: &impl AsRawFd) -> Option<Duration> {
    let [.., micros] = info_to_min_rtt(socket)?;
    // all ones: there has been none
    (micros != u32::MAX).then(|| Duration::from_micros(micros.into()))
}

/// How much of what was sent the peer's host has acknowledged, as a number that only counts up; also of a connection that
/// has just failed.
pub fn acknowledged(socket: &impl AsRawFd) -> Option<[u32; 2]> {
    let info = info_to_min_rtt(socket)?;
    Some(WORDS_OF_BYTES_ACKED.map(|word| info[word]))
}

fn info_to_min_rtt(socket: &impl AsRawFd) -> Option<[u32; WORDS_TO_MIN_RTT]> {
    let mut info = [0_u32; WORDS_TO_MIN_RTT];
    let mut length = size_of_val(&info) as socklen_t;
    let (place, socket) = (info.as_mut_ptr().cast(), socket.as_raw_fd());
    // SAFETY: the kernel writes `length` bytes at most, to where `info` is, and how many to where `length` is.
    let asked = unsafe { getsockopt(socket, IPPROTO_TCP, TCP_INFO, place, &raw mut length) };
    (asked == 0 && length as usize == size_of_val(&info)).then_some(info)
}

/// Whether the peer has everything that was sent to it.
pub fn is_delivered(socket: &impl AsRawFd) -> bool {
    let mut bytes = 0;
    // SAFETY: TIOCOUTQ writes one int, to where `bytes` is.
    let asked = unsafe { outstanding(socket.as_raw_fd(), &raw mut bytes) };
    asked.is_err() || bytes == 0
}

/// Whether the peer has sent something that nobody has read yet.
pub fn has_more(socket: &impl AsRawFd) -> bool {
    let peeked = recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    peeked.is_ok_and(|length| length > 0)
}

/// Sets on a listening socket what accepted ones inherit.
pub fn prepare_listener(listener: &impl AsFd, keepalive: Keepalive) -> io::Result<()> {
    unless_unknown(SockRef::from(listener).set_tcp_nodelay(true))?;
    unless_unknown(probe(listener, keepalive))
}

/// A socket for a connection to `address`, not bound to a source yet.
pub fn outgoing(address: SocketAddr, connect: &Connect) -> io::Result<TcpSocket> {
    let socket = match address {
        _ if connect.mptcp => {
            let socket = mptcp::socket(Domain::for_address(address), Type::STREAM.nonblocking().cloexec())?;
            TcpSocket::from_std_stream(socket.into())
        }
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    descriptors::check(&socket)?;
    unless_unknown(socket.set_nodelay(true))?;
    // what is left of it must not keep the next one from its port
    socket.set_reuseaddr(true)?;
    outgoing::bind_interface(&socket, connect)?;
    Ok(socket)
}

/// Older kernels do not know every option of TCP on a socket of Multipath TCP.
fn unless_unknown(result: io::Result<()>) -> io::Result<()> {
    let errno = |error: &io::Error| error.raw_os_error().map(Errno::from_raw);
    match result {
        Err(error) if matches!(errno(&error), Some(Errno::EOPNOTSUPP | Errno::ENOPROTOOPT)) => Ok(()),
        result => result,
    }
}

/// Tells an accepted socket what it has not inherited.
pub fn probe_anew(client: &impl AsFd, inherited: Keepalive, wanted: Keepalive) {
    if wanted != inherited {
        // fails only for a connection that is gone already
        _ = probe(client, wanted);
    }
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
