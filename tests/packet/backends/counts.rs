//! What is known of each backend's flows.

use harness::packet::{ACK, FIN, RST};
use harness::plane::GATEWAY;

use super::*;
use crate::conversation::{BACKEND_ISN, CLIENT_ISN};
use crate::table::Gives::Sends;
use crate::table::row;

/// Flows of TCP and of UDP that a backend has answered.
fn answered(plane: &Plane, rule: &DesiredRule, backend: usize) -> [u64; 2] {
    let usage = plane.dataplane.backend_usage(rule).expect("a carried rule");
    let usage = usage.of(backend).expect("an endpoint");
    Protocol::ALL.map(|protocol| usage.answered(protocol).get())
}

/// The plane with one backend that gets everything of two that there are.
fn first_of_two() -> (Held, Desired) {
    plane(Balance::First, &[1, 1])
}

fn send(plane: &Plane, packet: &Packet, is_clients: bool) {
    let side = if is_clients { plane.client } else { plane.backend };
    let ran = plane.programs.tc(side, &frame(side, packet), 0).expect("TEST_RUN");
    assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
}

#[test]
fn flows_are_counted_where_they_go() {
    let (mut plane, mut desired) = first_of_two();
    let mut talk = with(0, 27_000);
    talk.establish(&plane, plane.client, plane.backend);
    with(0, 27_001).prove(&plane, plane.client, plane.backend);
    first(&plane, (client(5), 27_002), Protocol::Udp).expect("a backend");
    assert_eq!(known(&plane, &desired.rules[0], 0), (2, [1, 2], [0, 0], 0));
    assert_eq!(answered(&plane, &desired.rules[0], 0), [1, 1], "not the one that was not proven");
    assert_eq!(known(&plane, &desired.rules[0], 1), (0, [0, 0], [0, 0], 0));
    swap(&mut plane, &mut desired, &[0, 1], &[0, 1]);
    with(1, 27_003).prove(&plane, plane.client, plane.backend);
    assert_eq!(known(&plane, &desired.rules[0], 0), (2, [1, 2], [0, 0], 0), "old flows stay");
    assert_eq!(known(&plane, &desired.rules[0], 1), (1, [0, 1], [0, 0], 0));
    let more = talk.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)));
    send(&plane, &more, true);
    plane.apply("", &[]);
    plane.sweep();
    assert_eq!(plane.counts().entries(harness::plane::Table::Tcp), 0);
}

#[test]
fn lost_counts_are_put_right() {
    let (mut plane, desired) = first_of_two();
    with(0, 27_100).prove(&plane, plane.client, plane.backend);
    let usage = plane.dataplane.backend_usage(&desired.rules[0]).expect("a rule");
    usage.of(0).expect("an endpoint").active().add(7);
    usage.of(1).expect("an endpoint").active().add(-3);
    for _ in 0..4 {
        plane.sweep();
    }
    assert_eq!((known(&plane, &desired.rules[0], 0).0, known(&plane, &desired.rules[0], 1).0), (1, 0));
}

#[test]
fn who_does_not_answer() {
    let (plane, desired) = first_of_two();
    let mut talk = with(0, 27_200);
    let syn = talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0));
    talk.open(&plane, plane.client, &syn);
    for _ in 0..3 {
        send(&plane, &syn, true);
    }
    assert_eq!(known(&plane, &desired.rules[0], 0), (0, [1, 0], [0, 0], 3));
    send(&plane, &talk.backend_tcp(&Segment::flags(SYN | ACK).at(BACKEND_ISN, CLIENT_ISN + 1)), false);
    send(&plane, &syn, true);
    assert_eq!(known(&plane, &desired.rules[0], 0).3, 3, "the answer was lost on the way to the client");
}

#[test]
fn who_refuses() {
    let (plane, desired) = first_of_two();
    let mut talk = with(0, 27_300);
    talk.open(&plane, plane.client, &talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
    let reset = talk.backend_tcp(&Segment::flags(RST | ACK).at(0, CLIENT_ISN + 1));
    for what in ["refused", "once more"] {
        row(&plane, what, plane.backend, &reset, Sends(&talk.to_client(&reset)), "web: out 1/40");
    }
    assert_eq!(known(&plane, &desired.rules[0], 0), (0, [1, 0], [1, 0], 0));
}

/// A backend that takes connections and resets them without a word.
#[test]
fn who_breaks_off() {
    let (plane, desired) = first_of_two();
    let first = BACKEND_ISN.wrapping_add(1);
    let answers = || answered(&plane, &desired.rules[0], 0)[0];
    let establish = |port| {
        let mut talk = with(0, port);
        talk.establish(&plane, plane.client, plane.backend);
        talk
    };
    let reset = |talk: &Conversation, sequence| {
        send(&plane, &talk.backend_tcp(&Segment::flags(RST).at(sequence, 0)), false);
    };
    let talk = establish(27_301);
    let data = talk.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, first).carrying(b"question"));
    let taken = talk.backend_tcp(&Segment::flags(ACK).at(first, CLIENT_ISN + 9));
    assert_eq!(answers(), 1);
    send(&plane, &data, true);
    send(&plane, &taken, false);
    // of a forger, who does not know the number
    reset(&talk, first.wrapping_add(5000));
    assert_eq!((known(&plane, &desired.rules[0], 0).2, answers()), ([0, 0], 1));
    send(&plane, &taken, false);
    for _ in 0..2 {
        reset(&talk, first);
    }
    assert_eq!((known(&plane, &desired.rules[0], 0).2, answers()), ([1, 0], 0));
    // after an answer, and after the client was done
    let (told, done) = (establish(27_302), establish(27_303));
    send(
        &plane,
        &told.backend_tcp(&Segment::flags(ACK).at(first, CLIENT_ISN + 1).carrying(b"answer")),
        false,
    );
    reset(&told, first.wrapping_add(6));
    send(&plane, &done.client_tcp(&Segment::flags(FIN | ACK).at(CLIENT_ISN + 1, first)), true);
    reset(&done, first);
    assert_eq!((known(&plane, &desired.rules[0], 0).2, answers()), ([1, 0], 2));
}

#[test]
fn who_cannot_be_reached() {
    let (plane, desired) = first_of_two();
    let (mut udp, mut syn, mut tcp) = (with(0, 27_400), with(0, 27_401), with(0, 27_402));
    let (hello, first) = (udp.client_udp(b"hello"), syn.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
    udp.open(&plane, plane.client, &hello);
    syn.open(&plane, plane.client, &first);
    tcp.establish(&plane, plane.client, plane.backend);
    let data = tcp.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)));
    let error = |kind, code, talk: &Conversation, about: &Packet| {
        let error = Packet::icmp_error(backend(0), kind, code, 0, &talk.to_backend(about), 8);
        send(&plane, &error, false);
    };
    for (kind, code) in [(3, 3), (3, 1)] {
        error(kind, code, &udp, &hello);
        error(kind, code, &syn, &first);
        error(kind, code, &tcp, &data);
    }
    assert_eq!(known(&plane, &desired.rules[0], 0).2, [2, 2], "not of one that has been answered");
    // too large, and too far
    error(3, 4, &udp, &hello);
    error(11, 0, &udp, &hello);
    // a client's
    let answer = udp.to_client(&udp.backend_udp(b"answer"));
    let of_client = Packet::icmp_error(GATEWAY, 3, 3, 0, &answer, 8);
    send(&plane, &udp.backend_udp(b"answer"), false);
    send(&plane, &of_client, true);
    assert_eq!(known(&plane, &desired.rules[0], 0).2, [2, 2]);
}
