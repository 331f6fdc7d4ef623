//! Packets made by hand and seen on the wire: AF_PACKET sockets.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::netns::NetNs;
use crate::packet::Packet;

/// A socket that sends and sees whole frames of one interface.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    pub fn new(ns: &NetNs, interface: &str) -> Self {
        let index = ns.index(interface);
        let socket = ns.run(|| {
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
            let socket = socket.expect("a packet socket needs root");
            bind(socket.as_raw_fd(), &address(index)).expect("bind");
            socket
        });
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).expect("timeout");
        setsockopt(&socket, sockopt::RcvBufForce, &(16 * 1024 * 1024)).expect("buffer");
        Self { socket }
    }

    /// Sends a frame as it is, once the cable has room for it: with a flood on its way there may be none.
    pub fn send(&self, frame: &[u8]) {
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Err(Errno::ENOBUFS) if Instant::now() < until => thread::sleep(Duration::from_millis(1)),
                sent => {
                    sent.expect("send");
                    return;
                }
            }
        }
    }

    /// The next frame, going either way, that is an IPv4 packet and wanted.
    pub fn next(&self, wanted: impl Fn(&Packet) -> bool) -> Option<Packet> {
        self.next_within(Duration::from_secs(3), wanted)
    }

    pub fn next_within(&self, limit: Duration, wanted: impl Fn(&Packet) -> bool) -> Option<Packet> {
        let start = Instant::now();
        let mut buffer = vec![0; 128 * 1024];
        while start.elapsed() < limit {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    if let Some(packet) = Packet::parse(&buffer[..length])
                        && wanted(&packet)
                    {
                        return Some(packet);
                    }
                }
                Err(error) => match io::Error::from(error).kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    _ => panic!("recv: {error}"),
                },
            }
        }
        None
    }
}

/// `struct sockaddr_ll` for an interface.
fn address(index: u32) -> LinkAddr {
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
    let mut raw: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    raw.sll_family = libc::AF_PACKET as u16;
    raw.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    raw.sll_ifindex = index.cast_signed();
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: a live, initialised `sockaddr_ll` of the size given.
    unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(size)) }.expect("address")
}
