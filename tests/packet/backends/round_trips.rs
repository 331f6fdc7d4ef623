//! Round trips of handshakes, of either leg.

use std::thread::sleep;
use std::time::Duration;

use harness::packet::ACK;
use relay_common::round_trip::RoundTrips;

use super::*;
use crate::conversation::{BACKEND_ISN, CLIENT_ISN};

/// What the backend takes to answer, and the client.
const THERE: Duration = Duration::from_millis(20);
const BACK: Duration = Duration::from_millis(5);
/// As buckets have it: more than 16,384 microseconds; more than 4,096.
const THERE_IN: usize = 11;
const BACK_IN: usize = 9;

fn taken(plane: &Plane, rule: &DesiredRule, backend: usize) -> RoundTrips {
    let slot = plane.dataplane.slot(&rule.name).expect("a slot");
    let end = rule.carried.as_ref().expect("carried").kernel.ends[backend].expect("an address");
    plane.round_trips().of(slot, &end).copied().unwrap_or_default()
}

/// How many of both legs: the client's, the backend's.
fn counted(plane: &Plane, rule: &DesiredRule) -> (u64, u64) {
    let taken = taken(plane, rule, 0);
    (taken.client.total(), taken.backend.total())
}

fn send(plane: &Plane, packet: &Packet, is_clients: bool) {
    let side = if is_clients { plane.client } else { plane.backend };
    let ran = plane.programs.tc(side, &frame(side, packet), 0).expect("TEST_RUN");
    assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
}

/// The packets of a handshake.
struct Handshake {
    talk: Conversation,
    syn: Packet,
}

impl Handshake {
    fn begin(plane: &Plane, port: u16) -> Self {
        let mut talk = with(0, port);
        let syn = talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0));
        talk.open(plane, plane.client, &syn);
        Self { talk, syn }
    }

    fn syn(&self, plane: &Plane) {
        send(plane, &self.syn, true);
    }

    fn syn_ack(&self, plane: &Plane) {
        let segment = Segment::flags(SYN | ACK).at(BACKEND_ISN, CLIENT_ISN + 1);
        send(plane, &self.talk.backend_tcp(&segment), false);
    }

    fn ack(&self, plane: &Plane, payload: &[u8]) {
        let segment = Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)).carrying(payload);
        send(plane, &self.talk.client_tcp(&segment), true);
    }
}

#[test]
fn each_leg_by_itself() {
    let (mut plane, mut desired) = plane(Balance::First, &[1, 1]);
    let handshake = Handshake::begin(&plane, 28_000);
    assert_eq!(counted(&plane, &desired.rules[0]), (0, 0));
    sleep(THERE);
    handshake.syn_ack(&plane);
    assert_eq!(counted(&plane, &desired.rules[0]), (0, 1));
    sleep(BACK);
    handshake.ack(&plane, b"");
    handshake.ack(&plane, b"more");
    let known = taken(&plane, &desired.rules[0], 0);
    for (leg, at_least, bucket) in [(known.backend, THERE, THERE_IN), (known.client, BACK, BACK_IN)] {
        let (sum, at_least) = (u128::from(leg.sum()), at_least.as_micros());
        assert!(leg.total() == 1 && (at_least..at_least + 500_000).contains(&sum), "{leg:?}");
        assert_eq!(leg.counts()[..bucket], [0; 20][..bucket], "{leg:?}");
    }
    assert_eq!(taken(&plane, &desired.rules[0], 1), RoundTrips::default());
    swap(&mut plane, &mut desired, &[0, 1], &[0, 1]);
    assert_eq!(taken(&plane, &desired.rules[0], 0), known, "they stay with their backend");
    let alone = super::desired(&plane, Balance::First, &[1]);
    plane.take(&alone);
    plane.take(&desired);
    assert_eq!(taken(&plane, &desired.rules[0], 0), known);
}

/// Nobody can tell which of two packets an answer is for.
#[test]
fn what_was_sent_twice_tells_nothing() {
    let (plane, desired) = plane(Balance::First, &[1, 1]);
    let rule = &desired.rules[0];
    let handshake = Handshake::begin(&plane, 28_100);
    handshake.syn(&plane);
    handshake.syn_ack(&plane);
    handshake.ack(&plane, b"");
    assert_eq!(counted(&plane, rule), (0, 0), "a SYN twice");
    let handshake = Handshake::begin(&plane, 28_101);
    handshake.syn_ack(&plane);
    handshake.syn_ack(&plane);
    handshake.ack(&plane, b"");
    assert_eq!(counted(&plane, rule), (0, 1), "a SYN-ACK twice");
    let handshake = Handshake::begin(&plane, 28_102);
    handshake.syn_ack(&plane);
    handshake.syn(&plane);
    handshake.ack(&plane, b"");
    assert_eq!(counted(&plane, rule), (0, 2), "a SYN once more, since its answer was lost");
    let handshake = Handshake::begin(&plane, 28_103);
    handshake.syn_ack(&plane);
    handshake.ack(&plane, b"hello");
    assert_eq!(
        counted(&plane, rule),
        (0, 3),
        "an ACK that may have waited for its data, or come for a lost one"
    );
    with(0, 28_104).prove(&plane, plane.client, plane.backend);
    assert_eq!(counted(&plane, rule), (0, 3), "UDP");
}

/// Whoever gets an endpoint's number later begins at zero.
#[test]
fn they_end_with_their_backend() {
    let (mut plane, desired) = plane(Balance::First, &[1]);
    with(0, 28_200).establish(&plane, plane.client, plane.backend);
    assert_eq!(counted(&plane, &desired.rules[0]), (1, 1));
    plane.apply("", &[]);
    plane.take(&desired);
    assert_eq!(counted(&plane, &desired.rules[0]), (0, 0));
}

#[test]
fn between_the_families_too() {
    let mut plane = crate::plane("");
    let desired = plane.desired_with(WEB, |rule| {
        let backend = SocketAddr::from((BACKEND_V6, 80)).to_string();
        rule.to = [Backend::parse(&backend).expect("a backend")].into();
    });
    plane.take(&desired);
    let (client, listener) = ((CLIENT_V6, 28_300), (RELAY_V6, 8080));
    let run = |side: harness::plane::Side, packet: PacketV6| {
        let packet = PacketV6 { destination_mac: side.mac, ..packet };
        let ran = plane.programs.tc(side, &packet.frame(), 0).expect("TEST_RUN");
        assert_eq!(ran.verdict, Verdict::Redirect);
        PacketV6::parse_ip(&ran.frame[14..]).expect("a packet")
    };
    let syn = run(plane.client, PacketV6::tcp(client, listener, &Segment::flags(SYN).at(CLIENT_ISN, 0)));
    let source = (syn.source, u16::from_be_bytes([syn.body[0], syn.body[1]]));
    sleep(THERE);
    let answer = Segment::flags(SYN | ACK).at(BACKEND_ISN, CLIENT_ISN + 1);
    run(plane.backend, PacketV6::tcp((BACKEND_V6, 80), source, &answer));
    sleep(BACK);
    let proof = Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1));
    run(plane.client, PacketV6::tcp(client, listener, &proof));
    let known = taken(&plane, &desired.rules[0], 0);
    assert_eq!((known.client.total(), known.backend.total()), (1, 1));
    assert!(known.backend.sum() >= 20_000 && known.client.sum() >= 5_000, "{known:?}");
}
