//! What the kernel tells of a datagram besides its payload, and is told: socket names and control messages, as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::libc;

/// A `sockaddr_in` or `sockaddr_in6`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Name {
    bytes: [u8; 28],
    length: u32,
}

impl Name {
    pub const ROOM: usize = 28;

    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    /// 0: no name.
    pub const fn len(&self) -> u32 {
        self.length
    }

    /// The kernel has written here.
    pub fn filled(&mut self, length: u32) {
        self.length = length.min(Self::ROOM as u32);
    }

    pub fn address(&self) -> Option<SocketAddr> {
        let bytes = self.bytes.get(..self.length as usize)?;
        let family = libc::c_int::from(u16::from_ne_bytes(take(bytes, 0)?));
        let port = u16::from_be_bytes(take(bytes, 2)?);
        match family {
            libc::AF_INET => Some((Ipv4Addr::from(take::<4>(bytes, 4)?), port).into()),
            libc::AF_INET6 => {
                let scope = u32::from_ne_bytes(take(bytes, 24)?);
                Some(SocketAddrV6::new(take::<16>(bytes, 8)?.into(), port, 0, scope).into())
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0; Self::ROOM];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (family, length) = match address {
            SocketAddr::V4(address) => {
                bytes[4..8].copy_from_slice(&address.ip().octets());
                (libc::AF_INET as u16, size_of::<libc::sockaddr_in>())
            }
            SocketAddr::V6(address) => {
                bytes[8..24].copy_from_slice(&address.ip().octets());
                bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
                (libc::AF_INET6 as u16, size_of::<libc::sockaddr_in6>())
            }
        };
        bytes[..2].copy_from_slice(&family.to_ne_bytes());
        Self { bytes, length: length as u32 }
    }
}

/// The host's own address that a datagram came to, or leaves from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Local {
    pub address: IpAddr,
    /// Only told of a link-local address, which means nothing without; 0 otherwise.
    pub interface: u32,
    /// Only told by sockets that many ports share; 0 otherwise.
    pub port: u16,
}

impl Local {
    /// Address and port together, for a socket to be bound to.
    pub fn socket_address(self) -> SocketAddr {
        match self.address {
            IpAddr::V4(address) => (address, self.port).into(),
            IpAddr::V6(address) => SocketAddrV6::new(address, self.port, 0, self.interface).into(),
        }
    }
}

/// Room for the control messages of one datagram: where it came to (or leaves from), and its segments' size.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Control {
    bytes: [u8; Self::ROOM],
    length: usize,
}

/// `struct cmsghdr`: length, level, type.
const HEADER: usize = size_of::<usize>() + 8;
const WORD: usize = size_of::<usize>();

impl Default for Control {
    fn default() -> Self {
        Self { bytes: [0; Self::ROOM], length: 0 }
    }
}

impl Control {
    pub const ROOM: usize = 64;

    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    pub const fn len(&self) -> usize {
        self.length
    }

    /// The kernel has written here.
    pub fn filled(&mut self, length: usize) {
        self.length = length.min(Self::ROOM);
    }

    /// For a datagram that is to leave from `local`.
    pub fn from_local(local: Option<Local>) -> Self {
        let mut control = Self::default();
        match local {
            None => {}
            Some(Local { address: IpAddr::V4(address), .. }) => {
                // struct in_pktinfo: interface, source, destination (not for sending).
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address.octets());
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(Local { address: IpAddr::V6(address), interface, .. }) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                info[16..].copy_from_slice(&interface.to_ne_bytes());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
        control
    }

    /// Has the kernel cut the payload into datagrams of `size` bytes.
    pub fn push_segment(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let room = &mut self.bytes[self.length..];
        room[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        room[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        room[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.length += (HEADER + data.len()).next_multiple_of(WORD);
    }

    fn messages(&self) -> impl Iterator<Item = (i32, i32, &[u8])> {
        let mut rest = &self.bytes[..self.length];
        std::iter::from_fn(move || {
            let length = usize::from_ne_bytes(take(rest, 0)?);
            let level = i32::from_ne_bytes(take(rest, WORD)?);
            let kind = i32::from_ne_bytes(take(rest, WORD + 4)?);
            let data = rest.get(HEADER..length)?;
            rest = rest.get(length.next_multiple_of(WORD)..).unwrap_or_default();
            Some((level, kind, data))
        })
    }

    /// Size of the datagrams that the kernel has put together, if it has.
    pub fn segment(&self) -> Option<usize> {
        self.messages().find_map(|(level, kind, data)| match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => usize::try_from(i32::from_ne_bytes(take(data, 0)?)).ok(),
            _ => None,
        })
    }

    /// Which of the host's addresses the datagram was sent to.
    pub fn local(&self) -> Option<Local> {
        self.messages().find_map(|(level, kind, data)| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // the address that would answer, where the kernel still knows it, and the one that was asked: they differ
                // if that is everybody's
                let (own, asked) = (take::<4>(data, 4)?, take::<4>(data, 8)?);
                let is_own = own == asked || own == [0; 4];
                let address = if is_own { asked.into() } else { IpAddr::V4(Ipv4Addr::BROADCAST) };
                Some(Local { address, interface: 0, port: 0 })
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let address = Ipv6Addr::from(take::<16>(data, 0)?);
                let interface = u32::from_ne_bytes(take(data, 16)?);
                let interface = if address.is_unicast_link_local() { interface } else { 0 };
                Some(Local { address: address.into(), interface, port: 0 })
            }
            // a `sockaddr_in`, a `sockaddr_in6`
            (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) => {
                let address = Ipv4Addr::from(take::<4>(data, 4)?).into();
                Some(Local { address, interface: 0, port: u16::from_be_bytes(take(data, 2)?) })
            }
            (libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR) => {
                let address = Ipv6Addr::from(take::<16>(data, 8)?).into();
                let interface = u32::from_ne_bytes(take(data, 24)?);
                Some(Local { address, interface, port: u16::from_be_bytes(take(data, 2)?) })
            }
            _ => None,
        })
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let link_local = SocketAddrV6::new("fe80::7".parse().unwrap(), 53, 0, 3).into();
        for address in ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:65535".parse().unwrap(), link_local] {
            assert_eq!(Name::from(address).address(), Some(address));
        }
        assert_eq!(Name::default().address(), None);
    }

    #[test]
    fn control_messages_stand_one_behind_the_other() {
        let address = "2001:db8::1".parse().unwrap();
        let mut control = Control::from_local(Some(Local { address, interface: 0, port: 0 }));
        control.push_segment(1200);
        let kinds: Vec<_> = control.messages().map(|(level, kind, data)| (level, kind, data.len())).collect();
        let expected = [(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20), (libc::SOL_UDP, libc::UDP_SEGMENT, 2)];
        assert_eq!(kinds, expected);
        assert_eq!(control.local(), Some(Local { address, interface: 0, port: 0 }));
        assert!(control.len() <= Control::ROOM);
    }

    #[test]
    fn an_interface_belongs_to_link_local_addresses_only() {
        let read = |address: &str| {
            let local = Local { address: address.parse().unwrap(), interface: 4, port: 0 };
            Control::from_local(Some(local)).local().map(|local| local.interface)
        };
        assert_eq!(read("fe80::1"), Some(4));
        assert_eq!(read("2001:db8::1"), Some(0));
    }

    #[test]
    fn a_message_that_ends_early_is_none() {
        let mut control = Control::default();
        control.push(libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes());
        assert_eq!(control.segment(), Some(1200));
        control.filled(HEADER + 2);
        assert_eq!(control.segment(), None);
    }
}
