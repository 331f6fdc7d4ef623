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

/// Opens all groups, with so many sockets each.
pub fn open(workers: usize) -> io::Result<Vec<Group>> {
    let mut families = vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    if *HAS_IPV6 {
        families.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    let mut groups = Vec::new();
    for family in families {
        for protocol in Protocol::ALL {
            let mut sockets: Vec<Socket> = Vec::with_capacity(workers);
            for _ in 0..workers.max(1) {
                let beside = sockets.first().map(Socket::local_addr).transpose()?;
                let port = beside.and_then(|address| address.as_socket()).map_or(0, |address| address.port());
                sockets.push(socket(protocol, family, port)?);
            }
            groups.push(Group { protocol, family, sockets });
        }
    }
    Ok(groups)
}

/// Bound where nobody from outside can reach it by itself. Such a port is needed, though of no meaning.
fn socket(protocol: Protocol, family: IpAddr, port: u16) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let domain = if family.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind.nonblocking(), None)?;
    let address: IpAddr = if family.is_ipv4() {
        socket.set_freebind_v4(true)?;
        Ipv4Addr::LOCALHOST.into()
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
        Ipv6Addr::LOCALHOST.into()
    };
    if protocol == Protocol::Tcp {
        // connections inherit it: those that are left must not keep another program from their port
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from((address, port)).into())?;
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
        for group in open(3).expect("groups") {
            let address = |socket: &Socket| socket.local_addr().expect("address").as_socket().expect("IP");
            let first = address(&group.sockets[0]);
            assert!(first.ip().is_loopback() && first.is_ipv4() == group.family.is_ipv4(), "{first}");
            assert_eq!(group.sockets.len(), 3);
            assert!(group.sockets.iter().all(|socket| address(socket) == first), "{group:?}");
        }
    }
}
