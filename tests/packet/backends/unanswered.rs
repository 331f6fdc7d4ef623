//! Flows that a backend has never answered, when it is down: they choose anew, and all others stay.

use harness::packet::ACK;
use harness::plane::Table;

use super::*;
use crate::conversation::{BACKEND_ISN, CLIENT_ISN};

/// Has the first of two backends found to be down, or no more, for each protocol.
fn judge(plane: &mut Plane, desired: &mut Desired, is_down: [bool; 2]) {
    let weights = is_down.map(|is_down| if is_down { [0, 1] } else { [1, 1] });
    let rule = Arc::make_mut(&mut desired.rules[0]);
    rule.weights = Arc::new(Weights {
        tcp: weights[0].into(),
        udp: weights[1].into(),
        deserted: is_down.map(|is_down| [is_down, false].into()),
        ..Weights::default()
    });
    plane.dataplane.swap(0, &desired.rules[0]).expect("swap");
}

/// Where a client's packet goes.
fn sent(plane: &Plane, packet: &Packet) -> Option<u8> {
    index(&plane.programs.tc(plane.client, &frame(plane.client, packet), 0).expect("TEST_RUN"))
}

fn answer(plane: &Plane, packet: &Packet) {
    let ran = plane.programs.tc(plane.backend, &frame(plane.backend, packet), 0).expect("TEST_RUN");
    assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
}

fn syn(talk: &Conversation) -> Packet {
    talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0))
}

fn syn_ack(talk: &Conversation) -> Packet {
    talk.backend_tcp(&Segment::flags(SYN | ACK).at(BACKEND_ISN, CLIENT_ISN + 1))
}

#[test]
fn a_repeated_syn_goes_to_who_is_there() {
    let (mut plane, mut desired) = plane(Balance::First, &[1, 1]);
    let (mut waits, mut has_one) = (with(0, 29_000), with(0, 29_001));
    for talk in [&mut waits, &mut has_one] {
        let first = syn(talk);
        talk.open(&plane, plane.client, &first);
    }
    answer(&plane, &syn_ack(&has_one));
    assert_eq!(sent(&plane, &syn(&waits)), Some(0), "it is up");
    judge(&mut plane, &mut desired, [true, false]);
    let before = plane.counts().entries(Table::Unproven);
    assert_eq!([(); 2].map(|()| sent(&plane, &syn(&waits))), [Some(1); 2]);
    assert_eq!(plane.counts().entries(Table::Unproven), before, "nothing is left of the old one");
    assert_eq!(sent(&plane, &syn(&has_one)), Some(0), "it was answered: the answer was lost");
    let rule = &desired.rules[0];
    assert_eq!(known(&plane, rule, 0), (0, [2, 0], [0, 0], 2));
    assert_eq!(known(&plane, rule, 1), (0, [1, 0], [0, 0], 1));
    // nothing is wrong with the one that it goes to now
    let mut talk = with(1, 29_000);
    talk.source.1 = waits.source.1;
    let taken = plane.programs.tc(plane.client, &frame(plane.client, &syn(&waits)), 0).expect("TEST_RUN");
    talk.source.1 = Packet::parse(&taken.frame).expect("a packet").ports().0;
    answer(&plane, &syn_ack(&talk));
    let proof = Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1));
    assert_eq!(sent(&plane, &talk.client_tcp(&proof)), Some(1));
    assert_eq!(known(&plane, &desired.rules[0], 1).0, 1);
}

#[test]
fn datagrams_without_an_answer_go_to_who_is_there() {
    let (mut plane, mut desired) = plane(Balance::First, &[1, 1]);
    let (mut waits, mut has_one, mut proven) = (with(0, 29_100), with(0, 29_101), with(0, 29_102));
    let hello = |talk: &Conversation| talk.client_udp(b"hello");
    for talk in [&mut waits, &mut has_one] {
        let first = hello(talk);
        talk.open(&plane, plane.client, &first);
    }
    answer(&plane, &has_one.backend_udp(b"answer"));
    proven.prove(&plane, plane.client, plane.backend);
    judge(&mut plane, &mut desired, [true, false]);
    plane.age(1);
    assert_eq!(sent(&plane, &hello(&waits)), Some(0), "it is down for TCP alone");
    judge(&mut plane, &mut desired, [false, true]);
    plane.age(1);
    let before = plane.counts();
    assert_eq!([(); 2].map(|()| sent(&plane, &hello(&waits))), [Some(1); 2]);
    let later = plane.counts();
    assert_eq!(later.entries(Table::Unproven), before.entries(Table::Unproven));
    for talk in [&has_one, &proven] {
        assert_eq!(sent(&plane, &hello(talk)), Some(0), "who was answered stays");
    }
    // they stay where they are when it is back
    judge(&mut plane, &mut desired, [false, false]);
    plane.age(1);
    assert_eq!(sent(&plane, &hello(&waits)), Some(1));
}

/// Who drains, or stands back for a better one, may still answer.
#[test]
fn who_gets_no_new_flows_for_another_reason_keeps_its_own() {
    let (mut plane, mut desired) = plane(Balance::First, &[1, 1]);
    let (mut tcp, mut udp) = (with(0, 29_200), with(0, 29_201));
    let (first, hello) = (syn(&tcp), udp.client_udp(b"hello"));
    tcp.open(&plane, plane.client, &first);
    udp.open(&plane, plane.client, &hello);
    swap(&mut plane, &mut desired, &[0, 1], &[0, 1]);
    plane.age(1);
    assert_eq!([sent(&plane, &first), sent(&plane, &hello)], [Some(0); 2]);
}

/// What is said of a backend stays said when the rule is applied again.
#[test]
fn an_apply_changes_nothing_of_it() {
    let (mut plane, mut desired) = plane(Balance::First, &[1, 1]);
    let mut talk = with(0, 29_300);
    let first = syn(&talk);
    talk.open(&plane, plane.client, &first);
    judge(&mut plane, &mut desired, [true, true]);
    let edited = Arc::make_mut(&mut desired.rules[0]);
    edited.allow = None;
    plane.take(&desired);
    assert_eq!(sent(&plane, &first), Some(1));
}
