//! One port that a rule takes for itself, and the socket that takes it.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use nix::sys::stat::fstat;
use relay_common::net::Protocol;
use socket2::{Domain, SockAddr, Socket, Type};

use super::mptcp;
use crate::host::HostView;
use crate::rule::{ListenOn, Listener, PlaneChoice, Rule};

/// Listeners wider than this are not taken port by port.
const WIDEST: u32 = 1024;

/// A port that a rule wants for itself.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Claim {
    pub protocol: Protocol,
    pub address: IpAddr,
    /// For `%eth0:80`, with its index: one that is made anew is another.
    pub interface: Option<(Box<str>, u32)>,
    pub port: u16,
    /// By a socket of Multipath TCP.
    pub mptcp: bool,
}

/// Whether the kernel knows IPv6 at all.
pub(super) static HAS_IPV6: LazyLock<bool> =
    LazyLock::new(|| Socket::new(Domain::IPV6, Type::DGRAM, None).is_ok());

/// Every port that a listener of the rule wants and can have on this host; none of a listener that is too wide.
pub fn claims(rule: &Rule, listener: &Listener, host: &HostView) -> Vec<Claim> {
    let interface = match &listener.on {
        ListenOn::Interface(name) => match host.link_by_name(name) {
            Some(link) => Some((name.clone(), link.index)),
            None => return Vec::new(),
        },
        _ => None,
    };
    let ports = listener.ports;
    if ports.len() > WIDEST {
        return Vec::new();
    }
    let mut claims = Vec::new();
    for address in addresses(rule, &listener.on) {
        if !address.is_unspecified() && !host.is_own(address) {
            continue;
        }
        for protocol in rule.heard().iter() {
            let mptcp = is_mptcp(rule, protocol);
            let claim = |port| Claim { protocol, address, interface: interface.clone(), port, mptcp };
            claims.extend((ports.first()..=ports.last()).map(claim));
        }
    }
    claims
}

/// Whether every port of the rule can be taken by itself.
pub fn is_narrow(rule: &Rule) -> bool {
    rule.listen.iter().all(|listener| listener.ports.len() <= WIDEST)
}

/// The addresses that a listener binds. The kernel plane alone has no use for IPv6.
pub fn addresses(rule: &Rule, on: &ListenOn) -> Vec<IpAddr> {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let mut addresses = match on {
        ListenOn::Everywhere | ListenOn::Interface(_) => vec![v4, v6],
        ListenOn::EverywhereV4 => vec![v4],
        ListenOn::EverywhereV6 => vec![v6],
        ListenOn::Address(address) => vec![*address],
    };
    let without_ipv6 = rule.plane == PlaneChoice::Kernel || !*HAS_IPV6;
    addresses.retain(|address| address.is_ipv4() || !without_ipv6);
    addresses
}

fn is_mptcp(rule: &Rule, protocol: Protocol) -> bool {
    rule.accept.mptcp && protocol == Protocol::Tcp
}

/// Binds sockets of relayd, which those who watch for other programs must not take for one of them.
#[derive(Clone, Default)]
pub struct Binder {
    bind: Option<Arc<Bind>>,
    /// What was bound lately, by inode: now, and before [`Binder::forget`] was called last.
    lately: Arc<Mutex<[HashSet<u64>; 2]>>,
}

pub type Bind = dyn Fn(&Socket, &SockAddr) -> io::Result<()> + Send + Sync;

impl Binder {
    pub fn new(bind: Arc<Bind>) -> Self {
        Self { bind: Some(bind), lately: Arc::default() }
    }

    /// With nobody to watch, as any socket is.
    pub fn bind(&self, socket: &Socket, address: &SockAddr) -> io::Result<()> {
        self.lately()[0].insert(fstat(socket)?.st_ino);
        match &self.bind {
            Some(bind) => bind(socket, address),
            None => socket.bind(address),
        }
    }

    /// Sockets that may be seen bound, though they listen for nobody and will soon have a peer.
    pub fn bound_lately(&self) -> HashSet<u64> {
        self.lately().iter().flatten().copied().collect()
    }

    /// What was bound before this was called last has become what it was to be.
    pub fn forget(&self) {
        let mut lately = self.lately();
        lately[1] = std::mem::take(&mut lately[0]);
    }

    fn lately(&self) -> MutexGuard<'_, [HashSet<u64>; 2]> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Binder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Binder")
    }
}

impl Claim {
    /// Whether a listener wants this port.
    pub fn is_of(&self, listener: &Listener) -> bool {
        let on = match &listener.on {
            ListenOn::Interface(name) => self.interface.as_ref().is_some_and(|(own, _)| own == name),
            _ if self.interface.is_some() => false,
            ListenOn::Everywhere => self.address.is_unspecified(),
            ListenOn::EverywhereV4 => self.address.is_unspecified() && self.address.is_ipv4(),
            ListenOn::EverywhereV6 => self.address.is_unspecified() && self.address.is_ipv6(),
            ListenOn::Address(address) => self.address == *address,
        };
        on && listener.ports.contains(self.port)
    }

    /// Whether it is by the kind of socket that a rule wants.
    pub fn is_kind_for(&self, rule: &Rule) -> bool {
        self.mptcp == is_mptcp(rule, self.protocol)
    }

    /// The same port, taken by the other kind of TCP socket.
    pub fn of_other_kind(&self) -> Self {
        Self { mptcp: !self.mptcp, ..self.clone() }
    }

    /// A bound socket: of TCP it does not listen and so answers with a RST, of UDP it keeps next to nothing.
    ///
    /// `shared`: a socket of ours, or what is left of one (TIME_WAIT), may have the port already.
    pub fn bind(&self, shared: bool, binder: &Binder) -> io::Result<Socket> {
        let kind = match self.protocol {
            Protocol::Tcp => Type::STREAM,
            Protocol::Udp => Type::DGRAM,
        };
        let domain = if self.address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = if self.mptcp {
            mptcp::socket(domain, kind.nonblocking())?
        } else {
            Socket::new(domain, kind.nonblocking(), None)?
        };
        if self.address.is_ipv6() {
            // IPv4 has a socket of its own
            socket.set_only_v6(true)?;
        }
        if let Some((interface, _)) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        if shared {
            socket.set_reuse_address(self.protocol == Protocol::Tcp)?;
            socket.set_reuse_port(true)?;
        }
        if self.protocol == Protocol::Udp {
            socket.set_recv_buffer_size(0)?;
        }
        binder.bind(&socket, &SocketAddr::from((self.address, self.port)).into())?;
        Ok(socket)
    }
}
