//! A source port that has changed hands: what is left of its former flow does nothing to the one that has it now.

use std::net::Ipv4Addr;

use harness::packet::{ACK, RST, SYN, Segment};
use harness::plane::{Plane, Table};
use relay::host::ClaimRange;
use relay_common::flow::FlowFlags;

use crate::conversation::{BACKEND_ISN, CLIENT_ISN, Conversation};
use crate::table::Gives::{Drop, Sends, SendsFast};
use crate::table::row;
use crate::{WEB, plane};

const FIRST: u32 = CLIENT_ISN + 1;
const ANSWER: u32 = BACKEND_ISN.wrapping_add(1);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// The only port that flows may claim.
fn one_port(plane: &mut Plane) {
    plane.claims = ClaimRange { first: 5000, last: 5000 };
    plane.apply(WEB, &[]);
}

/// A client whose backend half the table of unproven flows has evicted, so that another may claim its port.
fn evicted(plane: &mut Plane, client: (Ipv4Addr, u16)) -> Conversation {
    let mut talk = Conversation { client, ..Conversation::usual(client.1) };
    talk.open(plane, plane.client, &talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
    let halves: Vec<_> = plane.flows().collect();
    let [backend] =
        halves.iter().filter(|(_, _, half)| half.flags().has(FlowFlags::EGRESS)).collect::<Vec<_>>()[..]
    else {
        panic!("one backend half")
    };
    plane.take_out(Table::Unproven, &backend.1);
    talk
}

#[track_caller]
fn goes_on(plane: &Plane, talk: &Conversation) {
    let segment = |sequence, acknowledgment, payload| {
        Segment::flags(ACK).at(sequence, acknowledgment).carrying(payload)
    };
    let there = talk.client_tcp(&segment(FIRST, ANSWER, b"there"));
    row(plane, "there", plane.client, &there, SendsFast(&talk.to_backend(&there)), "web: in 1/45");
    let back = talk.backend_tcp(&segment(ANSWER, FIRST + 5, b"back"));
    row(plane, "back", plane.backend, &back, SendsFast(&talk.to_client(&back)), "web: out 1/44");
}

#[test]
fn a_syn_from_before_does_not_end_it() {
    let mut plane = plane(WEB);
    one_port(&mut plane);
    let before = evicted(&mut plane, Conversation::usual(44_100).client);
    let mut talk = Conversation::usual(44_101);
    talk.establish(&plane, plane.client, plane.backend);
    assert_eq!(talk.source, before.source, "the same port");
    let syn = before.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0));
    row(&plane, "once more", plane.client, &syn, Drop, "web: ports_exhausted 1; unproven -1");
    goes_on(&plane, &talk);
}

/// Nor does the sweep of who is not let in any more.
#[test]
fn a_client_that_has_to_go_takes_nobody_along() {
    let mut plane = plane(WEB);
    one_port(&mut plane);
    evicted(&mut plane, (STRANGER, 44_110));
    let mut talk = Conversation::usual(44_111);
    talk.establish(&plane, plane.client, plane.backend);
    plane.apply(&format!("{WEB}accept = {{ allow = \"198.51.100.0/24\" }}\n"), &[]);
    let deleted: u64 = (0..3).map(|_| plane.sweep().deleted).sum();
    assert_eq!((deleted, plane.counts().entries(Table::Unproven)), (1, 0));
    goes_on(&plane, &talk);
}

/// While the new flow is not proven either, a reset is no reason to take its port.
#[test]
fn a_reset_from_before_does_not_close_it() {
    let mut plane = plane(WEB);
    one_port(&mut plane);
    let before = evicted(&mut plane, Conversation::usual(44_120).client);
    let mut talk = Conversation::usual(44_121);
    talk.open(&plane, plane.client, &talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
    let reset = before.client_tcp(&Segment::flags(RST).at(FIRST, 0));
    row(&plane, "reset", plane.client, &reset, Sends(&before.to_backend(&reset)), "web: in 1/40");
    let closed = plane.flows().filter(|(_, _, half)| half.flags().has(FlowFlags::CLOSED)).count();
    assert_eq!(closed, 1, "the half that sent it");
}
