//! One client's conversation with one backend, and what each packet of it must be translated to: computed whole, not
//! by difference, and without Relay's arithmetic.

use std::net::Ipv4Addr;

use harness::packet::{ACK, Packet, SYN, Segment, UDP};
use harness::plane::{Plane, Side, Verdict};
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_INSIDE};

use crate::table::frame;

type Socket = (Ipv4Addr, u16);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversation {
    pub(crate) client: Socket,
    /// What the client talks to.
    pub(crate) listener: Socket,
    /// What the backend sees; the port is known once the flow is open.
    pub(crate) source: Socket,
    pub(crate) backend: Socket,
}

/// Sequence numbers of both ends.
pub(crate) const CLIENT_ISN: u32 = 1000;
pub(crate) const BACKEND_ISN: u32 = 0xffff_fff0;

impl Conversation {
    /// From the usual client through port 8080 to port 80 of the usual backend.
    pub(crate) const fn usual(client_port: u16) -> Self {
        Self {
            client: (CLIENT, client_port),
            listener: (RELAY, 8080),
            source: (RELAY_INSIDE, 0),
            backend: (BACKEND, 80),
        }
    }

    /// Sends the first packet, and learns which source port it got.
    #[track_caller]
    pub(crate) fn open(&mut self, plane: &Plane, side: Side, first: &Packet) {
        let ran = plane.programs.tc(side, &frame(side, first), 0).expect("TEST_RUN");
        assert_eq!(ran.verdict, Verdict::Redirect, "{self:?}");
        let sent = Packet::parse(&ran.frame).expect("a packet");
        self.source.1 = sent.ports().0;
        assert!((1024..=32767).contains(&self.source.1), "{self:?}");
        assert_eq!(sent.frame()[14..], self.to_backend(first).frame()[14..], "{self:?}");
    }

    /// Opens a TCP flow and proves it: SYN, SYN-ACK, ACK.
    #[track_caller]
    pub(crate) fn establish(&mut self, plane: &Plane, client: Side, backend: Side) {
        self.open(plane, client, &self.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
        let syn_ack = self.backend_tcp(&Segment::flags(SYN | ACK).at(BACKEND_ISN, CLIENT_ISN + 1));
        let ack = self.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)));
        for (side, packet) in [(backend, syn_ack), (client, ack)] {
            let ran = plane.programs.tc(side, &frame(side, &packet), 0).expect("TEST_RUN");
            assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
        }
    }

    /// Opens a UDP flow and proves it: question, answer, question.
    #[track_caller]
    pub(crate) fn prove(&mut self, plane: &Plane, client: Side, backend: Side) {
        self.open(plane, client, &self.client_udp(b"question"));
        for (side, packet) in [(backend, self.backend_udp(b"answer")), (client, self.client_udp(b"more"))] {
            let ran = plane.programs.tc(side, &frame(side, &packet), 0).expect("TEST_RUN");
            assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
        }
    }

    pub(crate) fn client_udp(&self, payload: &[u8]) -> Packet {
        Packet::udp(self.client, self.listener, payload)
    }

    pub(crate) fn backend_udp(&self, payload: &[u8]) -> Packet {
        Packet::udp(self.backend, self.source, payload)
    }

    pub(crate) fn client_tcp(&self, segment: &Segment) -> Packet {
        Packet::tcp(self.client, self.listener, segment)
    }

    pub(crate) fn backend_tcp(&self, segment: &Segment) -> Packet {
        Packet::tcp(self.backend, self.source, segment)
    }

    /// What a packet of the client becomes.
    pub(crate) fn to_backend(self, packet: &Packet) -> Packet {
        translated(packet, self.source, self.backend)
    }

    /// What a packet of the backend becomes.
    pub(crate) fn to_client(self, packet: &Packet) -> Packet {
        translated(packet, self.listener, self.client)
    }
}

/// One hop on, between other sockets.
fn translated(packet: &Packet, source: Socket, destination: Socket) -> Packet {
    let mut packet =
        Packet { source: source.0, destination: destination.0, ttl: packet.ttl - 1, ..packet.clone() };
    packet.set_ports((source.1, destination.1));
    let unsummed = packet.protocol == UDP && packet.body[6..8] == [0, 0];
    if !unsummed {
        packet.fix_transport();
    }
    packet
}
