//! Which programs have which ports: the kernel's socket list (sock_diag(7)), and /proc for the names.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use relay_common::net::Protocol;

/// A socket that listens (TCP) or is bound and takes packets from anyone (UDP).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listening {
    pub protocol: Protocol,
    /// Unspecified: every address of the family.
    pub address: IpAddr,
    pub port: u16,
    pub interface: u32,
    pub uid: u32,
    pub inode: u32,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const TCP_LISTEN: u32 = 10;
/// State of an unconnected UDP socket.
const TCP_CLOSE: u32 = 7;
const HEADER: usize = 16;
/// `struct inet_diag_msg` (include/uapi/linux/inet_diag.h).
const MESSAGE: usize = 72;

/// Every listening socket of this network namespace.
pub fn listening() -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    for (protocol, state) in [(Protocol::Tcp, TCP_LISTEN), (Protocol::Udp, TCP_CLOSE)] {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            dump(protocol, family, state, &mut found)?;
        }
    }
    Ok(found)
}

fn dump(protocol: Protocol, family: AddressFamily, state: u32, found: &mut Vec<Listening>) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
    send(socket.as_raw_fd(), &request(protocol, family, state), MsgFlags::empty())?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body
                        .get(..4)
                        .map_or(0, |bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => found.extend(socket_of(protocol, body)),
            }
            rest = next;
        }
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(protocol: Protocol, family: AddressFamily, state: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 56);
    bytes.extend((HEADER as u32 + 56).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family as i32 as u8, protocol.number(), 0, 0]);
    bytes.extend((1u32 << state).to_ne_bytes());
    bytes.extend([0; 48]);
    bytes
}

/// Type and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

fn socket_of(protocol: Protocol, body: &[u8]) -> Option<Listening> {
    let body: &[u8; MESSAGE] = body.get(..MESSAGE)?.try_into().ok()?;
    let word = |at: usize| u32::from_ne_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    let address = if i32::from(body[0]) == AddressFamily::Inet as i32 {
        IpAddr::V4(Ipv4Addr::from([body[8], body[9], body[10], body[11]]))
    } else {
        let octets: [u8; 16] = body[8..24].try_into().ok()?;
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    Some(Listening {
        protocol,
        address,
        port: u16::from_be_bytes([body[4], body[5]]),
        interface: word(40),
        uid: word(64),
        inode: word(68),
    })
}

/// The sockets that this process has open, by inode.
pub fn own_sockets() -> io::Result<HashSet<u64>> {
    let files = fs::read_dir("/proc/self/fd")?;
    let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Ok(links.filter_map(inode).collect())
}

/// `nginx (pid 123)`, or as much of it as we may see.
pub fn owner(socket: &Listening) -> String {
    match process_with(socket.inode) {
        Some((pid, name)) => format!("{name} (pid {pid})"),
        None => format!("another program (of uid {})", socket.uid),
    }
}

fn process_with(inode: u32) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let has =
            |file: fs::DirEntry| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == &*wanted);
        if files.flatten().any(has) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn our_own_sockets_are_found_and_named() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
        let udp = UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0")).expect("bind");
        let sockets = listening().expect("sockets");
        let find =
            |protocol, port| sockets.iter().find(|socket| socket.protocol == protocol && socket.port == port);
        let found = find(Protocol::Tcp, tcp.local_addr().expect("address").port()).expect("tcp socket");
        assert_eq!(found.address, IpAddr::from([127, 0, 0, 1]));
        assert!(owner(found).contains(&format!("(pid {})", std::process::id())), "{}", owner(found));
        assert!(find(Protocol::Udp, udp.local_addr().expect("address").port()).is_some());
    }
}
