//! One port that a rule takes for itself, and the socket that takes it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use relay_common::net::Protocol;
use socket2::{Domain, Socket, Type};

use crate::rule::{ListenOn, Listener, PlaneChoice, Rule};

/// Listeners wider than this are not taken port by port.
const WIDEST: u32 = 1024;

/// A port that a rule wants for itself.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Claim {
    pub protocol: Protocol,
    pub address: IpAddr,
    /// For `%eth0:80`.
    pub interface: Option<Box<str>>,
    pub port: u16,
}

/// Whether the kernel knows IPv6 at all.
static HAS_IPV6: LazyLock<bool> = LazyLock::new(|| Socket::new(Domain::IPV6, Type::DGRAM, None).is_ok());

/// Every port that a listener of the rule wants; none of a listener that is too wide.
pub fn claims<'a>(rule: &'a Rule, listener: &'a Listener) -> impl Iterator<Item = Claim> + 'a {
    let ports = listener.ports;
    let wide = ports.len() > WIDEST;
    let addresses = addresses(rule, &listener.on);
    let ports = (ports.first()..=ports.last()).filter(move |_| !wide);
    ports.flat_map(move |port| {
        addresses.clone().into_iter().flat_map(move |address| {
            let interface = match &listener.on {
                ListenOn::Interface(name) => Some(name.clone()),
                _ => None,
            };
            rule.protocols.iter().map(move |protocol| Claim {
                protocol,
                address,
                interface: interface.clone(),
                port,
            })
        })
    })
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

impl Claim {
    /// A bound socket: of TCP it does not listen and so answers with a RST, of UDP it keeps next to nothing.
    ///
    /// `shared`: a socket of ours, or what is left of one (TIME_WAIT), may have the port already.
    pub fn bind(&self, shared: bool) -> io::Result<Socket> {
        let kind = match self.protocol {
            Protocol::Tcp => Type::STREAM,
            Protocol::Udp => Type::DGRAM,
        };
        let domain = if self.address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, kind.nonblocking(), None)?;
        if self.address.is_ipv6() {
            // IPv4 has a socket of its own
            socket.set_only_v6(true)?;
        }
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        if shared {
            socket.set_reuse_address(self.protocol == Protocol::Tcp)?;
            socket.set_reuse_port(true)?;
        }
        if self.protocol == Protocol::Udp {
            socket.set_recv_buffer_size(0)?;
        }
        socket.bind(&SocketAddr::from((self.address, self.port)).into())?;
        // so that more sockets of ours may join it
        socket.set_reuse_port(true)?;
        Ok(socket)
    }
}
