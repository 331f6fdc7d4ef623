//! The sockets: how a listener is made ready, a client's own towards the backend, and how those are waited for.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::clients::Id;
use crate::proxy::service::UdpNat;
use crate::proxy::{descriptors, outgoing};
use crate::rule::Connect;

/// Bursts that a listener holds while its worker is busy: some ten thousand small datagrams.
const LISTENER_BUFFER: usize = 4 << 20;

/// Makes a bound socket ready: buffers for bursts, trains, and where every datagram came to if that is not known.
pub fn prepare_listener(listener: &UdpSocket) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    grow_receive_buffer(listener)?;
    grow_send_buffer(listener)?;
    take_trains(listener);
    match listener.local_addr()? {
        SocketAddr::V4(address) if address.ip().is_unspecified() => {
            setsockopt(listener, sockopt::Ipv4PacketInfo, &true)?;
        }
        SocketAddr::V6(address) if address.ip().is_unspecified() => {
            setsockopt(listener, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        _ => {}
    }
    Ok(())
}

/// Makes a socket ready that many ports share: every datagram tells where it came to, its port included.
pub fn prepare_shared(listener: &UdpSocket) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    grow_receive_buffer(listener)?;
    if listener.local_addr()?.is_ipv4() {
        setsockopt(listener, sockopt::Ipv4OrigDstAddr, &true)?;
    } else {
        setsockopt(listener, sockopt::Ipv6OrigDstAddr, &true)?;
    }
    Ok(())
}

/// Makes a socket ready that only sends.
pub fn prepare_sender(socket: &Socket) -> io::Result<()> {
    socket.set_recv_buffer_size(0)?;
    grow_send_buffer(socket)
}

/// Without privileges the host's limit applies (net.core.rmem_max), which the plain option cuts down to.
fn grow_receive_buffer(socket: &impl AsFd) -> io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &LISTENER_BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &LISTENER_BUFFER)?;
    }
    Ok(())
}

/// As for receiving (net.core.wmem_max).
fn grow_send_buffer(socket: &impl AsFd) -> io::Result<()> {
    if setsockopt(socket, sockopt::SndBufForce, &LISTENER_BUFFER).is_err() {
        setsockopt(socket, sockopt::SndBuf, &LISTENER_BUFFER)?;
    }
    Ok(())
}

/// A socket for one client, if there is a way to the backend. Connected, the kernel lets only the backend's datagrams and
/// ICMP errors in.
pub fn open(backend: SocketAddr, nat: UdpNat, connect: &Connect) -> io::Result<OwnedFd> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(backend), kind, Some(Protocol::UDP))?;
    descriptors::check(&socket)?;
    outgoing::bind(&socket, connect)?;
    socket.connect(&backend.into())?;
    if nat == UdpNat::FullCone {
        socket.connect(&anybody())?;
        // which has let go of the interface (__udp_disconnect() in net/ipv4/udp.c)
        outgoing::bind_interface(&socket, connect)?;
    }
    take_trains(&socket);
    Ok(socket.into())
}

/// Connected to this, a socket lets everybody's datagrams in again (AF_UNSPEC in connect(2)).
fn anybody() -> SockAddr {
    let length = size_of::<libc::sa_family_t>() as libc::socklen_t;
    // SAFETY: AF_UNSPEC is 0, and nothing beyond the family belongs to such an address.
    unsafe { SockAddr::new(SockAddrStorage::zeroed(), length) }
}

/// Whether sockets take several datagrams of a sender as one.
static TRAINS: AtomicBool = AtomicBool::new(false);

/// One socket that does it makes the kernel look for a socket for every UDP packet of the host, long before the kernel
/// plane gets it (`udp_encap_needed_key` in net/ipv4/udp_offload.c): a sixth of the kernel plane's packet rate. So it is
/// for hosts without one.
pub fn use_trains(yes: bool) {
    TRAINS.store(yes, Ordering::Relaxed);
}

/// The kernel may hand over several datagrams of a sender as one. Linux before 5.0 never does.
fn take_trains(socket: impl AsFd) {
    if !TRAINS.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = setsockopt(&socket, sockopt::UdpGroSegment, &true) {
        tracing::trace!("no UDP_GRO: {error}");
    }
}

/// The clients' sockets in one descriptor, which costs a client less than a task of its own. Each is reported once for
/// what has come.
#[derive(Debug)]
pub struct Replies(Epoll);

impl Replies {
    pub fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Until it is closed.
    pub fn add(&self, socket: &OwnedFd, id: Id) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, id.number());
        Ok(self.0.add(socket, event)?)
    }

    /// Fills in clients for whom something has come, and says how many.
    pub fn reported(&self, events: &mut [EpollEvent]) -> usize {
        self.0.wait(events, EpollTimeout::ZERO).unwrap_or(0)
    }
}

impl AsRawFd for Replies {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}
