//! Sockets that stand for many ports: connections and datagrams come to them by the socket lookup program alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use relay_common::net::Protocol;
use socket2::{Domain, Socket, Type};

use super::claim::HAS_IPV6;
use super::hold::BACKLOG;

/// The sockets of a protocol and a family, one for each worker.
#[derive(Debug)]
pub struct Group {
    pub protocol: Protocol,
    /// Unspecified; its family is the group's.
    pub family: IpAddr,
    pub sockets: Vec<Socket>,
}

impl Group {
    pub fn try_clone(&self) -> io::Result<Self> {
        let sockets = self.sockets.iter().map(Socket::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { protocol: self.protocol, family: self.family, sockets })
    }
}

/// Opens all groups, with so many sockets each, or as many as the relayd before has left.
pub fn open(
    workers: usize,
    mut inherited: impl FnMut(Protocol, IpAddr) -> Vec<Socket>,
) -> io::Result<Vec<Group>> {
    let mut families = vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    if *HAS_IPV6 {
        families.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    let mut groups = Vec::new();
    for family in families {
        for protocol in Protocol::ALL {
            let mut sockets = inherited(protocol, family);
            while sockets.len() < workers.max(1) {
                let beside = sockets.first().map(Socket::local_addr).transpose()?;
                let port = beside.and_then(|address| address.as_socket()).map_or(0, |address| address.port());
                sockets.push(socket(protocol, family, port)?);
            }
            groups.push(Group { protocol, family, sockets });
        }
    }
    Ok(groups)
}

/// Whether sockets are what [`open`] has made of a group.
pub fn is_of(sockets: &[Socket], protocol: Protocol, family: IpAddr) -> bool {
    let address = |socket: &Socket| socket.local_addr().ok()?.as_socket();
    let first = sockets.first().and_then(address);
    sockets.iter().all(|socket| {
        let own = address(socket);
        own == first
            && own.is_some_and(|own| own.ip() == home(family) && own.port() != 0)
            && socket.r#type().ok() == Some(kind(protocol))
    })
}

const fn kind(protocol: Protocol) -> Type {
    match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    }
}

/// The loopback address of a family.
const fn home(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// Bound where nobody from outside can reach it by itself. Such a port is needed, though of no meaning.
fn socket(protocol: Protocol, family: IpAddr, port: u16) -> io::Result<Socket> {
    let domain = if family.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind(protocol).nonblocking(), None)?;
    if family.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    if protocol == Protocol::Tcp {
        // connections inherit it: those that are left must not keep another program from their port
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((home(family), port)).into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_one_port_for_all_workers() {
        for group in open(3, |_, _| Vec::new()).expect("groups") {
            let address = |socket: &Socket| socket.local_addr().expect("address").as_socket().expect("IP");
            let first = address(&group.sockets[0]);
            assert!(first.ip().is_loopback() && first.is_ipv4() == group.family.is_ipv4(), "{first}");
            assert_eq!(group.sockets.len(), 3);
            assert!(group.sockets.iter().all(|socket| address(socket) == first), "{group:?}");
        }
    }

    #[test]
    fn what_is_inherited_goes_on() {
        let mut before = open(2, |_, _| Vec::new()).expect("groups");
        let port = |socket: &Socket| socket.local_addr().expect("address").as_socket().expect("IP").port();
        let ports: Vec<u16> = before.iter().map(|group| port(&group.sockets[0])).collect();
        let [tcp, udp] = [&before[0], &before[1]];
        assert!(is_of(&tcp.sockets, tcp.protocol, tcp.family) && is_of(&[], tcp.protocol, tcp.family));
        assert!(!is_of(&tcp.sockets, udp.protocol, tcp.family), "another protocol");
        assert!(!is_of(&tcp.sockets, tcp.protocol, Ipv6Addr::UNSPECIFIED.into()), "another family");
        for workers in [1, 3] {
            let left = std::mem::take(&mut before);
            let mut left = left.into_iter();
            before = open(workers, |_, _| left.next().expect("group").sockets).expect("groups");
            let again: Vec<u16> = before.iter().map(|group| port(&group.sockets[0])).collect();
            assert_eq!(again, ports);
            assert!(before.iter().all(|group| group.sockets.len() == workers.max(2)), "{before:?}");
        }
    }
}
