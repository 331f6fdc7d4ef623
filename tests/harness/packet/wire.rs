//! A packet of either family, where a test does not care which.

use std::net::{IpAddr, SocketAddr};

use super::{Extension, MORE_FRAGMENTS, Packet, PacketV6, Segment};

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wire {
    V4(Packet),
    V6(PacketV6),
}

impl From<Packet> for Wire {
    fn from(packet: Packet) -> Self {
        Self::V4(packet)
    }
}

impl From<PacketV6> for Wire {
    fn from(packet: PacketV6) -> Self {
        Self::V6(packet)
    }
}

/// Two ends are of one family in each packet.
fn mixed(source: SocketAddr, destination: SocketAddr) -> ! {
    panic!("no packet goes from {source} to {destination}")
}

impl Wire {
    #[track_caller]
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        let ports = (source.port(), destination.port());
        match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Packet::udp((from, ports.0), (to, ports.1), payload).into(),
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketV6::udp((from, ports.0), (to, ports.1), payload).into()
            }
            _ => mixed(source, destination),
        }
    }

    #[track_caller]
    pub fn tcp(source: SocketAddr, destination: SocketAddr, segment: &Segment) -> Self {
        let ports = (source.port(), destination.port());
        match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Packet::tcp((from, ports.0), (to, ports.1), segment).into(),
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketV6::tcp((from, ports.0), (to, ports.1), segment).into()
            }
            _ => mixed(source, destination),
        }
    }

    /// An error of the packet's own family, of which it quotes so many bytes behind the headers.
    #[track_caller]
    pub fn icmp_error(from: IpAddr, kind: u8, code: u8, rest: u32, about: &Self, quoted: usize) -> Self {
        match (from, about) {
            (IpAddr::V4(from), Self::V4(about)) => {
                Packet::icmp_error(from, kind, code, rest, about, quoted).into()
            }
            (IpAddr::V6(from), Self::V6(about)) => {
                PacketV6::icmp_error(from, kind, code, rest, about, quoted).into()
            }
            _ => panic!("{from} makes no error about {about:?}"),
        }
    }

    /// An IP packet, apart.
    pub fn parse_ip(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Packet::parse_ip(bytes).map(Self::V4),
            _ => PacketV6::parse_ip(bytes).map(Self::V6),
        }
    }

    pub const fn is_v6(&self) -> bool {
        matches!(self, Self::V6(_))
    }

    pub fn ip_bytes(&self) -> Vec<u8> {
        match self {
            Self::V4(packet) => packet.ip_bytes(),
            Self::V6(packet) => packet.ip_bytes(),
        }
    }

    /// As it comes in for this link address.
    pub fn frame(&self, destination_mac: [u8; 6]) -> Vec<u8> {
        match self {
            Self::V4(packet) => Packet { destination_mac, ..packet.clone() }.frame(),
            Self::V6(packet) => PacketV6 { destination_mac, ..packet.clone() }.frame(),
        }
    }

    /// TCP, UDP or ICMP with what follows.
    pub const fn body(&self) -> &Vec<u8> {
        match self {
            Self::V4(packet) => &packet.body,
            Self::V6(packet) => &packet.body,
        }
    }

    pub const fn body_mut(&mut self) -> &mut Vec<u8> {
        match self {
            Self::V4(packet) => &mut packet.body,
            Self::V6(packet) => &mut packet.body,
        }
    }

    pub const fn protocol(&self) -> u8 {
        match self {
            Self::V4(packet) => packet.protocol,
            Self::V6(packet) => packet.protocol,
        }
    }

    /// Source and destination port.
    pub fn ports(&self) -> (u16, u16) {
        let port = |at: usize| u16::from_be_bytes([self.body()[at], self.body()[at + 1]]);
        (port(0), port(2))
    }

    pub fn with_ttl(mut self, ttl: u8) -> Self {
        match &mut self {
            Self::V4(packet) => packet.ttl = ttl,
            Self::V6(packet) => packet.hops = ttl,
        }
        self
    }

    /// Type of service, or traffic class.
    pub fn with_service(mut self, service: u8) -> Self {
        match &mut self {
            Self::V4(packet) => packet.service = service,
            Self::V6(packet) => packet.class = service,
        }
        self
    }

    pub fn fix_transport(&mut self) {
        match self {
            Self::V4(packet) => packet.fix_transport(),
            Self::V6(packet) => packet.fix_transport(),
        }
    }

    /// Bytes `from..to` of the body as a fragment.
    pub fn part(&self, from: usize, to: usize, identification: u32) -> Self {
        let (body, more) = (self.body()[from..to].to_vec(), to < self.body().len());
        match self {
            Self::V4(packet) => {
                let fragment = (from / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 };
                let identification = identification as u16;
                Packet { body, fragment, identification, ..packet.clone() }.into()
            }
            Self::V6(packet) => {
                let header = Extension::Fragment { offset: from as u16, more, identification };
                PacketV6 { body, extensions: vec![header], ..packet.clone() }.into()
            }
        }
    }
}
