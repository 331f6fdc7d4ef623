//! A conversation with IPv6 on a leg or both, and what each packet of it must be translated to (RFC 7915): computed whole,
//! not by difference, and without Relay's arithmetic.

use std::net::{IpAddr, SocketAddr};

use harness::packet::{
    ACK, DONT_FRAGMENT, Extension, MORE_FRAGMENTS, Packet, PacketV6, SYN, Segment, UDP, Wire,
};
use harness::plane::{
    BACKEND_NARROW, BACKEND_NARROW_V6, Plane, RELAY_NARROW, RELAY_NARROW_V6, Side, Verdict,
};
use harness::world::{
    BACKEND, BACKEND_V6, CLIENT, CLIENT_V6, RELAY, RELAY_INSIDE, RELAY_INSIDE_V6, RELAY_V6,
};

use crate::WEB;
use crate::conversation::{BACKEND_ISN, CLIENT_ISN};

/// The families of clients and backends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pair {
    SixToFour,
    FourToSix,
    SixToSix,
}

impl Pair {
    pub(crate) const ALL: [Self; 3] = [Self::SixToFour, Self::FourToSix, Self::SixToSix];

    pub(crate) fn client_is_v6(self) -> bool {
        self != Self::FourToSix
    }

    pub(crate) fn backend_is_v6(self) -> bool {
        self != Self::SixToFour
    }

    /// Bytes of the clients' IP header.
    pub(crate) fn head(self) -> usize {
        if self.client_is_v6() { 40 } else { 20 }
    }

    /// The usual rule.
    pub(crate) fn rules(self) -> String {
        self.rules_to(self.backend(BACKEND.into(), BACKEND_V6.into()))
    }

    /// The same to a backend behind the narrow link.
    pub(crate) fn narrow_rules(self) -> String {
        self.rules_to(self.backend(BACKEND_NARROW.into(), BACKEND_NARROW_V6.into()))
    }

    pub(crate) fn rules_to(self, backend: IpAddr) -> String {
        WEB.replace("203.0.113.2:80", &SocketAddr::new(backend, 80).to_string())
    }

    fn backend(self, v4: IpAddr, v6: IpAddr) -> IpAddr {
        if self.backend_is_v6() { v6 } else { v4 }
    }

    fn between(self, client_port: u16, source: IpAddr, backend: IpAddr) -> Talk {
        let (client, listener) = if self.client_is_v6() {
            (CLIENT_V6.into(), RELAY_V6.into())
        } else {
            (CLIENT.into(), RELAY.into())
        };
        Talk {
            client: SocketAddr::new(client, client_port),
            listener: SocketAddr::new(listener, 8080),
            source: SocketAddr::new(source, 0),
            backend: SocketAddr::new(backend, 80),
        }
    }

    /// With the usual backend.
    pub(crate) fn talk(self, client_port: u16) -> Talk {
        let source = self.backend(RELAY_INSIDE.into(), RELAY_INSIDE_V6.into());
        self.between(client_port, source, self.backend(BACKEND.into(), BACKEND_V6.into()))
    }

    /// With the one behind the narrow link.
    pub(crate) fn narrow(self, client_port: u16) -> Talk {
        let source = self.backend(RELAY_NARROW.into(), RELAY_NARROW_V6.into());
        self.between(client_port, source, self.backend(BACKEND_NARROW.into(), BACKEND_NARROW_V6.into()))
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    pub(crate) client: SocketAddr,
    /// What the client talks to.
    pub(crate) listener: SocketAddr,
    /// What the backend sees; the port is known once the flow is open.
    pub(crate) source: SocketAddr,
    pub(crate) backend: SocketAddr,
}

impl Talk {
    /// Sends the first packet, and learns which source port it got.
    #[track_caller]
    pub(crate) fn open(&mut self, plane: &Plane, side: Side, first: &Wire) {
        let ran = plane.programs.tc(side, &first.frame(side.mac), 0).expect("TEST_RUN");
        assert_eq!(ran.verdict, Verdict::Redirect, "{self:?}");
        let sent = Wire::parse_ip(&ran.frame[14..]).expect("a packet");
        self.source.set_port(sent.ports().0);
        assert!((1024..=32767).contains(&self.source.port()), "{self:?}");
        compare(&format!("{self:?}"), &ran.frame, &self.to_backend(first));
    }

    #[track_caller]
    fn go(plane: &Plane, packets: [(Side, Wire); 2]) {
        for (side, packet) in packets {
            let ran = plane.programs.tc(side, &packet.frame(side.mac), 0).expect("TEST_RUN");
            assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
        }
    }

    /// Opens a TCP flow and proves it: SYN, SYN-ACK, ACK.
    #[track_caller]
    pub(crate) fn establish(&mut self, plane: &Plane, backend: Side) {
        self.open(plane, plane.client, &self.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
        let syn_ack = self.backend_tcp(&Segment::flags(SYN | ACK).at(BACKEND_ISN, CLIENT_ISN + 1));
        let ack = self.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)));
        Self::go(plane, [(backend, syn_ack), (plane.client, ack)]);
    }

    /// Opens a UDP flow and proves it: question, answer, question.
    #[track_caller]
    pub(crate) fn prove(&mut self, plane: &Plane, backend: Side) {
        self.open(plane, plane.client, &self.client_udp(b"question"));
        let (answer, more) = (self.backend_udp(b"answer"), self.client_udp(b"more"));
        Self::go(plane, [(backend, answer), (plane.client, more)]);
    }

    pub(crate) fn client_udp(&self, payload: &[u8]) -> Wire {
        Wire::udp(self.client, self.listener, payload)
    }

    pub(crate) fn backend_udp(&self, payload: &[u8]) -> Wire {
        Wire::udp(self.backend, self.source, payload)
    }

    pub(crate) fn client_tcp(&self, segment: &Segment) -> Wire {
        Wire::tcp(self.client, self.listener, segment)
    }

    pub(crate) fn backend_tcp(&self, segment: &Segment) -> Wire {
        Wire::tcp(self.backend, self.source, segment)
    }

    /// What a packet of the client becomes.
    pub(crate) fn to_backend(self, packet: &Wire) -> Wire {
        translated(packet, self.source, self.backend)
    }

    /// What a packet of the backend becomes.
    pub(crate) fn to_client(self, packet: &Wire) -> Wire {
        translated(packet, self.listener, self.client)
    }
}

/// What both families' headers say of a packet.
struct Head {
    service: u8,
    ttl: u8,
    /// Offset, more to come, identification.
    fragment: Option<(u16, bool, u32)>,
}

fn head(packet: &Wire) -> Head {
    match packet {
        Wire::V4(packet) => {
            let (offset, more) = ((packet.fragment & 0x1fff) * 8, packet.fragment & MORE_FRAGMENTS != 0);
            let fragment = (offset, more, packet.identification.into());
            let is_fragment = offset != 0 || more;
            Head { service: packet.service, ttl: packet.ttl, fragment: is_fragment.then_some(fragment) }
        }
        Wire::V6(packet) => {
            let fragment = packet.extensions.iter().find_map(|extension| match *extension {
                Extension::Fragment { offset, more, identification } => Some((offset, more, identification)),
                Extension::Padding(..) => None,
            });
            Head { service: packet.class, ttl: packet.hops, fragment }
        }
    }
}

/// IPv4 packets up to this size may be fragmented on their way (RFC 7915 section 5.1).
const MAY_FRAGMENT: usize = 1260;

/// Which segment of its stream a TCP packet is, if all are of its size; `None`: it carries nothing of a stream.
fn number_in_stream(protocol: u8, body: &[u8]) -> Option<u16> {
    if protocol == UDP {
        return None;
    }
    let sequence = u32::from_be_bytes([body[4], body[5], body[6], body[7]]);
    let payload = body.len() as u32 - u32::from(body[12] >> 4) * 4;
    sequence.checked_div(payload).map(|number| number as u16)
}

/// One hop on, between other sockets.
fn translated(packet: &Wire, source: SocketAddr, destination: SocketAddr) -> Wire {
    let Head { service, ttl, fragment } = head(packet);
    let (protocol, body, ttl) = (packet.protocol(), packet.body().clone(), ttl - 1);
    let mut sent: Wire = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (identification, fragment) = match fragment {
                Some((offset, more, identification)) => {
                    (identification as u16, (offset / 8) | if more { MORE_FRAGMENTS } else { 0 })
                }
                None if 20 + body.len() > MAY_FRAGMENT => (0, DONT_FRAGMENT),
                None => (number_in_stream(protocol, &body).unwrap_or_default(), 0),
            };
            let packet = Packet::new(protocol, from, to, body);
            Packet { service, ttl, identification, fragment, ..packet }.into()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let packet = PacketV6::new(protocol, from, to, body);
            let extension = fragment.map(|(offset, more, identification)| Extension::Fragment {
                offset,
                more,
                identification,
            });
            let extensions = extension.into_iter().collect();
            PacketV6 { class: service, hops: ttl, extensions, ..packet }.into()
        }
        _ => panic!("no packet goes from {source} to {destination}"),
    };
    let body = sent.body_mut();
    body[..2].copy_from_slice(&source.port().to_be_bytes());
    body[2..4].copy_from_slice(&destination.port().to_be_bytes());
    sent.fix_transport();
    sent
}

/// Everything from the IP header on. What may be fragmented, and is no part of a stream, has any identification.
#[track_caller]
fn compare(what: &str, frame: &[u8], expected: &Wire) {
    let mut expected = expected.clone();
    if let Wire::V4(packet) = &mut expected
        && packet.fragment == 0
        && number_in_stream(packet.protocol, &packet.body).is_none()
        && let Some(&[high, low]) = frame.get(18..20)
    {
        packet.identification = u16::from_be_bytes([high, low]);
    }
    let wanted = expected.ip_bytes();
    if frame[14..] != wanted {
        let got = Wire::parse_ip(&frame[14..]);
        panic!("{what}: tc sends\n{got:?}\ninstead of\n{expected:?}\n{:x?}\n{wanted:x?}", &frame[14..]);
    }
}

/// XDP leaves IPv6 to tc, whichever leg it is on.
#[track_caller]
fn run(plane: &Plane, what: &str, side: Side, frame: &[u8], change: &str) -> (Verdict, Vec<u8>) {
    let (ran, changed) = plane.xdp(side, frame);
    let (verdict, changed) = (ran.verdict, changed.to_string());
    assert_eq!((verdict, changed.as_str()), (Verdict::Pass, ""), "{what}: XDP");
    assert_eq!(ran.frame, frame, "{what}: XDP passes the packet as it came");
    let (ran, changed) = plane.tc(side, frame);
    assert_eq!(changed.to_string(), change, "{what}: tc counts, verdict {:?}", ran.verdict);
    (ran.verdict, ran.frame)
}

/// Checks a packet that goes on as another. `change`: all that is counted and stored for it.
#[track_caller]
pub(crate) fn sends(plane: &Plane, what: &str, side: Side, packet: &Wire, expected: &Wire, change: &str) {
    let (verdict, frame) = run(plane, what, side, &packet.frame(side.mac), change);
    assert_eq!(verdict, Verdict::Redirect, "{what}");
    compare(what, &frame, expected);
}

/// Checks a packet that is refused.
#[track_caller]
pub(crate) fn drops(plane: &Plane, what: &str, side: Side, packet: &Wire, change: &str) {
    let (verdict, _) = run(plane, what, side, &packet.frame(side.mac), change);
    assert_eq!(verdict, Verdict::Drop, "{what}");
}

/// Checks a packet that is left to the stack as it came.
#[track_caller]
pub(crate) fn passes(plane: &Plane, what: &str, side: Side, packet: &Wire, change: &str) {
    let came = packet.frame(side.mac);
    let (verdict, frame) = run(plane, what, side, &came, change);
    assert_eq!(verdict, Verdict::Pass, "{what}");
    assert_eq!(frame, came, "{what}: as it came");
}
