//! Tables that are full: the old flows go on, new ones are refused and counted.

use harness::packet::{ACK, SYN, Segment};
use harness::plane::{Plane, Verdict};
use relay::host::ClaimRange;

use crate::conversation::{BACKEND_ISN, CLIENT_ISN, Conversation};
use crate::table::Gives::{Drop, Sends, SendsFast};
use crate::table::{frame, row};
use crate::{ROOM, WEB, plane};

#[test]
fn a_full_table_refuses_new_udp_flows() {
    let plane = plane(WEB);
    let flows: Vec<Conversation> = (0..ROOM as u16)
        .map(|index| {
            let mut talk = Conversation::usual(48_000 + index);
            talk.prove(&plane, plane.client, plane.backend);
            talk
        })
        .collect();
    let mut newcomer = Conversation::usual(48_900);
    newcomer.open(&plane, plane.client, &newcomer.client_udp(b"hello"));
    let answer = newcomer.backend_udp(b"yes?");
    row(&plane, "answer", plane.backend, &answer, Sends(&newcomer.to_client(&answer)), "web: out 1/32");
    let more = newcomer.client_udp(b"hello again");
    row(&plane, "no room", plane.client, &more, Drop, "web: table_full 1");
    // known to be full: not even a first packet goes out
    let another = Conversation::usual(48_901).client_udp(b"hello");
    row(&plane, "known to be full", plane.client, &another, Drop, "web: table_full 1");
    all_go_on(&plane, &flows);
    let mut tcp = Conversation::usual(48_902);
    tcp.establish(&plane, plane.client, plane.backend);
}

#[track_caller]
fn all_go_on(plane: &Plane, flows: &[Conversation]) {
    for talk in flows {
        let (there, back) = (talk.client_udp(b"there"), talk.backend_udp(b"back"));
        row(plane, "there", plane.client, &there, SendsFast(&talk.to_backend(&there)), "web: in 1/33");
        row(plane, "back", plane.backend, &back, SendsFast(&talk.to_client(&back)), "web: out 1/32");
    }
}

#[test]
fn a_full_table_refuses_new_tcp_flows() {
    let plane = plane(WEB);
    for index in 0..ROOM as u16 {
        Conversation::usual(48_100 + index).establish(&plane, plane.client, plane.backend);
    }
    let mut newcomer = Conversation::usual(48_910);
    newcomer.open(&plane, plane.client, &newcomer.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
    let answer = newcomer.backend_tcp(&Segment::flags(SYN | ACK).at(BACKEND_ISN, CLIENT_ISN + 1));
    row(&plane, "answer", plane.backend, &answer, Sends(&newcomer.to_client(&answer)), "web: out 1/40");
    let proof = newcomer.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)));
    row(&plane, "no room", plane.client, &proof, Drop, "web: table_full 1");
    let syn = Conversation::usual(48_911).client_tcp(&Segment::flags(SYN));
    row(&plane, "known to be full", plane.client, &syn, Drop, "web: table_full 1");
}

/// Two flows never share a source port towards one backend, however many there are.
#[test]
fn every_flow_has_a_port_of_its_own() {
    let plane = plane(WEB);
    let mut ports = std::collections::BTreeSet::new();
    for index in 0..3000u16 {
        let mut talk = Conversation::usual(1024 + index);
        talk.open(&plane, plane.client, &talk.client_udp(b"hello"));
        assert!(ports.insert(talk.source.1), "{} twice", talk.source.1);
    }
}

/// Four ports are four live flows to one backend; the fifth has to wait.
#[test]
fn live_flows_keep_their_ports() {
    let mut plane = plane(WEB);
    plane.claims = ClaimRange { first: 5000, last: 5003 };
    plane.apply(WEB, &[]);
    let flows: Vec<Conversation> = (0..4)
        .map(|index| {
            let mut talk = Conversation::usual(48_200 + index);
            talk.prove(&plane, plane.client, plane.backend);
            talk
        })
        .collect();
    let fifth = Conversation::usual(48_204);
    let hello = fifth.client_udp(b"hello");
    row(&plane, "a fifth", plane.client, &hello, Drop, "web: ports_exhausted 1");
    all_go_on(&plane, &flows);
    // the other protocol has the same numbers to itself
    Conversation::usual(48_205).establish(&plane, plane.client, plane.backend);
}

/// A forged client's flow, which never saw an answer, gives way to a new one.
#[test]
fn unanswered_flows_give_their_ports_up() {
    let mut plane = plane(WEB);
    plane.claims = ClaimRange { first: 5000, last: 5003 };
    plane.apply(WEB, &[]);
    for index in 0..40 {
        let packet = Conversation::usual(48_300 + index).client_udp(b"forged?");
        let ran = plane.programs.tc(plane.client, &frame(plane.client, &packet), 0).expect("TEST_RUN");
        assert_eq!(ran.verdict, Verdict::Redirect, "flow {index}");
    }
}
