//! The sockets: how a listener is made ready, and a client's own towards the backend.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::proxy::service::UdpNat;

/// Bursts that a listener holds while its worker is busy: some ten thousand small datagrams.
const LISTENER_BUFFER: usize = 4 << 20;

/// Makes a bound socket ready: buffers for bursts, trains, and where every datagram came to if that is not known.
pub fn prepare_listener(listener: &UdpSocket) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // Without privileges the host's limit applies (net.core.rmem_max), which the plain option cuts down to.
    if setsockopt(listener, sockopt::RcvBufForce, &LISTENER_BUFFER).is_err() {
        setsockopt(listener, sockopt::RcvBuf, &LISTENER_BUFFER)?;
    }
    if setsockopt(listener, sockopt::SndBufForce, &LISTENER_BUFFER).is_err() {
        setsockopt(listener, sockopt::SndBuf, &LISTENER_BUFFER)?;
    }
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

/// A socket for one client. Connected, the kernel lets only the backend's datagrams and ICMP errors in.
pub fn open(backend: SocketAddr, nat: UdpNat) -> io::Result<OwnedFd> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(backend), kind, Some(Protocol::UDP))?;
    match nat {
        UdpNat::Restricted => socket.connect(&backend.into())?,
        UdpNat::FullCone => {}
    }
    take_trains(&socket);
    Ok(socket.into())
}

/// The kernel may hand over several datagrams of a sender as one. Linux before 5.0 never does.
fn take_trains(socket: impl std::os::fd::AsFd) {
    if let Err(error) = setsockopt(&socket, sockopt::UdpGroSegment, &true) {
        tracing::trace!("no UDP_GRO: {error}");
    }
}
