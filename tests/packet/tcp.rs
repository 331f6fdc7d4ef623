//! TCP: a connection from SYN to its end, and segments that fit into none.

use harness::packet::{ACK, FIN, Packet, RST, SYN, Segment};
use harness::plane::Plane;

use crate::conversation::{BACKEND_ISN, CLIENT_ISN, Conversation};
use crate::table::Gives::{Drop, Pass, Sends, SendsFast};
use crate::table::row;
use crate::{WEB, plane};

const FIRST: u32 = CLIENT_ISN + 1;
const ANSWER: u32 = BACKEND_ISN.wrapping_add(1);

/// A connection and the rows of its two directions.
struct Lines<'a> {
    plane: &'a Plane,
    talk: Conversation,
}

impl Lines<'_> {
    fn client(&self, flags: u8, sequence: u32, acknowledgment: u32, payload: &[u8]) -> (Packet, Packet) {
        let packet =
            self.talk.client_tcp(&Segment::flags(flags).at(sequence, acknowledgment).carrying(payload));
        let sent = self.talk.to_backend(&packet);
        (packet, sent)
    }

    fn backend(&self, flags: u8, sequence: u32, acknowledgment: u32, payload: &[u8]) -> (Packet, Packet) {
        let packet =
            self.talk.backend_tcp(&Segment::flags(flags).at(sequence, acknowledgment).carrying(payload));
        let sent = self.talk.to_client(&packet);
        (packet, sent)
    }

    /// Client to backend by the slow path.
    #[track_caller]
    fn up(&self, what: &str, (packet, sent): &(Packet, Packet), change: &str) {
        row(self.plane, what, self.plane.client, packet, Sends(sent), change);
    }

    #[track_caller]
    fn up_fast(&self, what: &str, (packet, sent): &(Packet, Packet), change: &str) {
        row(self.plane, what, self.plane.client, packet, SendsFast(sent), change);
    }

    #[track_caller]
    fn down(&self, what: &str, (packet, sent): &(Packet, Packet), change: &str) {
        row(self.plane, what, self.plane.backend, packet, Sends(sent), change);
    }

    #[track_caller]
    fn down_fast(&self, what: &str, (packet, sent): &(Packet, Packet), change: &str) {
        row(self.plane, what, self.plane.backend, packet, SendsFast(sent), change);
    }
}

#[test]
fn a_connection_from_beginning_to_end() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(41_000);
    let before = plane.counts();
    let syn = talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0).with_mss(1460, 0));
    talk.open(&plane, plane.client, &syn);
    assert_eq!(before.change(&plane.counts()).to_string(), "web: in 1/44, flows 1; unproven +2");
    let lines = Lines { plane: &plane, talk };
    let again = (syn.clone(), talk.to_backend(&syn));
    lines.up("the SYN once more", &again, "web: in 1/44");
    lines.down("SYN-ACK", &lines.backend(SYN | ACK, BACKEND_ISN, FIRST, b""), "web: out 1/40");
    lines.down("SYN-ACK once more", &lines.backend(SYN | ACK, BACKEND_ISN, FIRST, b""), "web: out 1/40");
    lines.up("the proof", &lines.client(ACK, FIRST, ANSWER, b""), "web: in 1/40; tcp +2; unproven -2");
    lines.up_fast("data", &lines.client(ACK, FIRST, ANSWER, b"GET /"), "web: in 1/45");
    lines.down_fast("data back", &lines.backend(ACK, ANSWER, FIRST + 5, b"200 OK"), "web: out 1/46");
    lines.up("FIN with data", &lines.client(FIN | ACK, FIRST + 5, ANSWER + 6, b"bye"), "web: in 1/43");
    lines.down("its ACK", &lines.backend(ACK, ANSWER + 6, FIRST + 9, b""), "web: out 1/40");
    lines.down("half open", &lines.backend(ACK, ANSWER + 6, FIRST + 9, b"more"), "web: out 1/44");
    lines.down("the other FIN", &lines.backend(FIN | ACK, ANSWER + 10, FIRST + 9, b""), "web: out 1/40");
    let last = lines.client(ACK, FIRST + 9, ANSWER + 11, b"");
    lines.up("the last ACK", &last, "web: in 1/40; tcp -2; unproven +2");
    lines.up("and once more", &last, "web: in 1/40");
    lines.down("a late FIN", &lines.backend(FIN | ACK, ANSWER + 10, FIRST + 9, b""), "web: out 1/40");
    let again = lines.client(SYN, CLIENT_ISN + 100_000, 0, b"");
    lines.up("the same ports again", &again, "web: in 1/40, flows 1");
}

#[test]
fn a_reset_ends_it_and_data_revives_it() {
    let mut plane = plane(WEB);
    let mut talk = Conversation::usual(41_001);
    talk.establish(&plane, plane.client, plane.backend);
    let lines = Lines { plane: &plane, talk };
    lines.down("reset", &lines.backend(RST, ANSWER, 0, b""), "web: out 1/40");
    lines.up("nobody believed it", &lines.client(ACK, FIRST, ANSWER, b"still here"), "web: in 1/50");
    lines.up_fast("so it goes on", &lines.client(ACK, FIRST, ANSWER, b"still here"), "web: in 1/50");
    lines.up("reset by the client", &lines.client(RST | ACK, FIRST, ANSWER, b""), "web: in 1/40");
    let again = lines.client(SYN, CLIENT_ISN + 100_000, 0, b"");
    lines.up("the same ports at once: the old way leads there too", &again, "web: in 1/40");
    lines.up("reset again", &lines.client(RST | ACK, FIRST, ANSWER, b""), "web: in 1/40");
    plane.age(3);
    let lines = Lines { plane: &plane, talk };
    lines.up("after a silence", &again, "web: in 1/40, flows 1; tcp -2; unproven +2");
}

/// Whoever guesses the ports can send a FIN, or a RST and a SYN; only those who talk on know better.
#[test]
fn forged_ends_do_not_end_it() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(41_005);
    talk.establish(&plane, plane.client, plane.backend);
    let lines = Lines { plane: &plane, talk };
    lines.up("forged FIN", &lines.client(FIN | ACK, FIRST, ANSWER, b""), "web: in 1/40");
    lines.down("the backend sees it", &lines.backend(ACK, ANSWER, FIRST + 1, b""), "web: out 1/40");
    lines.down("forged FIN back", &lines.backend(FIN | ACK, ANSWER, FIRST, b""), "web: out 1/40");
    lines.down("data goes on", &lines.backend(ACK, ANSWER, FIRST, b"more"), "web: out 1/44");
    lines.up("both ways", &lines.client(ACK, FIRST, ANSWER + 4, b"hello"), "web: in 1/45");
    lines.up_fast("and fast", &lines.client(ACK, FIRST + 5, ANSWER + 4, b"x"), "web: in 1/41");
    lines.down_fast("both ways", &lines.backend(ACK, ANSWER + 4, FIRST + 6, b"y"), "web: out 1/41");
    lines.up("forged RST", &lines.client(RST, FIRST, 0, b""), "web: in 1/40");
    lines.up("forged SYN", &lines.client(SYN, 77, 0, b""), "web: in 1/40");
    lines.up_fast("data goes on", &lines.client(ACK, FIRST + 6, ANSWER + 5, b"z"), "web: in 1/41");
    lines.down_fast("both ways", &lines.backend(ACK, ANSWER + 5, FIRST + 7, b"y"), "web: out 1/41");
}

/// A FIN's own retransmission and what was on its way before it are no data behind it.
#[test]
fn late_segments_do_not_take_a_fin_back() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(41_006);
    talk.establish(&plane, plane.client, plane.backend);
    let lines = Lines { plane: &plane, talk };
    lines.up("FIN with data", &lines.client(FIN | ACK, FIRST, ANSWER, b"bye"), "web: in 1/43");
    lines.up("once more", &lines.client(FIN | ACK, FIRST, ANSWER, b"bye"), "web: in 1/43");
    lines.up("an earlier segment", &lines.client(ACK, FIRST, ANSWER, b"by"), "web: in 1/42");
    lines.up("an ACK", &lines.client(ACK, FIRST + 4, ANSWER, b""), "web: in 1/40");
    lines.down("the other FIN", &lines.backend(FIN | ACK, ANSWER, FIRST + 4, b""), "web: out 1/40");
    let last = lines.client(ACK, FIRST + 4, ANSWER + 1, b"");
    lines.up("the last ACK", &last, "web: in 1/40; tcp -2; unproven +2");
}

#[test]
fn a_refused_connection() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(41_002);
    talk.open(&plane, plane.client, &talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
    let lines = Lines { plane: &plane, talk };
    lines.down("refused", &lines.backend(RST | ACK, 0, FIRST, b""), "web: out 1/40");
    lines.up("the next try", &lines.client(SYN, CLIENT_ISN + 9, 0, b""), "web: in 1/40, flows 1");
}

/// Without an acknowledgment of the backend's own number anybody could fill the table under forged addresses.
#[test]
fn only_the_backends_own_number_is_proof() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(41_003);
    talk.open(&plane, plane.client, &talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
    let lines = Lines { plane: &plane, talk };
    let refused = |what: &str, flags, acknowledgment| {
        let (packet, _) = lines.client(flags, FIRST, acknowledgment, b"");
        row(&plane, what, plane.client, &packet, Drop, "web: not_proven 1");
    };
    refused("an ACK before the SYN-ACK", ACK, 0);
    lines.down("SYN-ACK", &lines.backend(SYN | ACK, BACKEND_ISN, FIRST, b""), "web: out 1/40");
    refused("an ACK of nothing", ACK, BACKEND_ISN);
    refused("an ACK far ahead", ACK, BACKEND_ISN.wrapping_add(65_537));
    refused("an ACK from the past", ACK, BACKEND_ISN.wrapping_sub(1));
    refused("data without ACK", 0, ANSWER);
    refused("a lone FIN", FIN, ANSWER);
    let proof = lines.client(ACK, FIRST, BACKEND_ISN.wrapping_add(65_536), b"");
    lines.up("the edge of the window", &proof, "web: in 1/40; tcp +2; unproven -2");
}

/// They belong to a session of the host, or deserve its RST.
#[test]
fn segments_without_a_connection_pass() {
    let plane = plane(WEB);
    let talk = Conversation::usual(41_004);
    for flags in
        [0, ACK, FIN, RST, RST | ACK, FIN | ACK, SYN | ACK, SYN | FIN, SYN | RST, SYN | FIN | RST | ACK, 0xff]
    {
        let packet = talk.client_tcp(&Segment::flags(flags).at(5, 6).carrying(b"data"));
        row(&plane, &format!("flags {flags:#x}"), plane.client, &packet, Pass, "web: in 1/44");
    }
}

#[test]
fn a_syn_may_carry_more_than_a_syn() {
    let plane = plane(WEB);
    // ECN setup (RFC 3168), data (RFC 7413), urgent and push
    for (port, flags, payload) in
        [(41_010, 0xc2, b"".as_slice()), (41_011, SYN, b"early data"), (41_012, 0x2a, b"")]
    {
        let mut talk = Conversation::usual(port);
        talk.open(&plane, plane.client, &talk.client_tcp(&Segment::flags(flags).at(7, 0).carrying(payload)));
    }
}
