//! A UDP client, and what it learns about datagrams that did not arrive.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use crate::netns::NetNs;
use crate::patience;
use crate::traffic::PATIENCE;

/// A UDP client of one address.
#[derive(Debug)]
pub struct Datagrams(pub UdpSocket);

impl Datagrams {
    pub fn new(ns: &NetNs, to: impl Into<SocketAddr>) -> Self {
        let to = to.into();
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self::bound(ns, (any, 0), to)
    }

    /// From one of the client's addresses and a port of its choice.
    pub fn bound(ns: &NetNs, source: impl Into<SocketAddr>, to: SocketAddr) -> Self {
        let source = source.into();
        let socket = ns.run(|| {
            let socket = UdpSocket::bind(source).expect("bind");
            socket.connect(to).expect("connect");
            socket
        });
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
        Self(socket)
    }

    /// Sends a datagram and gets it back.
    pub fn echo(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.send(bytes)?;
        let mut buffer = vec![0; 65_536];
        let length = self.0.recv(&mut buffer)?;
        if &buffer[..length] == bytes {
            Ok(())
        } else {
            Err(io::Error::other("the echo is another datagram"))
        }
    }

    /// Sets "don't fragment", and believes what routers say about sizes.
    pub fn never_fragment(&self) {
        if self.0.local_addr().expect("address").is_ipv4() {
            self.set_option(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
        } else {
            self.set_option(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO);
        }
    }

    fn set_option(&self, level: i32, option: i32, value: i32) {
        let size = size_of_val(&value) as libc::socklen_t;
        // SAFETY: an open socket and a live option value of the size given.
        let code =
            unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, (&raw const value).cast(), size) };
        assert_eq!(code, 0, "option {option}: {}", io::Error::last_os_error());
    }

    /// Leaves the checksum out, as IPv4 allows.
    pub fn leave_unsummed(&self) {
        self.set_option(libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
    }

    /// Sends datagrams that go so many hops, and lets errors about them be known.
    pub fn go_hops(&self, hops: i32) {
        if self.0.local_addr().expect("address").is_ipv4() {
            self.set_option(libc::IPPROTO_IP, libc::IP_TTL, hops);
            self.set_option(libc::IPPROTO_IP, libc::IP_RECVERR, 1);
        } else {
            self.set_option(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, hops);
            self.set_option(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1);
        }
    }

    /// Whom an error about a datagram comes from, and its ICMP type and code.
    pub fn complaint(&self) -> Option<(IpAddr, u8, u8)> {
        let mut buffer = [0; 2048];
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!([u8; 128]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
        message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                let from = Ipv4Addr::from(u32::from_be(from?.sin_addr.s_addr));
                Some((from.into(), error.ee_type, error.ee_code))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                Some((Ipv6Addr::from(from?.sin6_addr.s6_addr).into(), error.ee_type, error.ee_code))
            }
            _ => None,
        })
    }

    /// The same, sent again and again: a datagram may be lost.
    pub fn echo_patiently(&self, bytes: &[u8]) -> io::Result<()> {
        let usual = self.0.read_timeout()?;
        self.0.set_read_timeout(Some(patience(Duration::from_millis(500))))?;
        let start = Instant::now();
        let result = loop {
            match self.echo(bytes) {
                Ok(()) => break Ok(()),
                Err(error) if start.elapsed() > patience(PATIENCE) => break Err(error),
                Err(_lost) => {}
            }
        };
        self.0.set_read_timeout(usual)?;
        result
    }
}
