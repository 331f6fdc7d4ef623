//! Rows: a packet in, and what must come of it on both hooks, to the byte and to the counter.

use harness::packet::Packet;
use harness::plane::{NEIGHBOUR_MAC, Plane, Side, Verdict};

/// What should come of a packet.
#[derive(Clone, Copy)]
pub(crate) enum Gives<'a> {
    /// Untouched.
    Pass,
    /// Refused.
    Drop,
    /// Sent by tc as this packet; XDP leaves it alone.
    Sends(&'a Packet),
    /// Sent as this packet, by tc and by XDP.
    SendsFast(&'a Packet),
}

/// The packet as a frame for the interface that it comes in on.
pub(crate) fn frame(side: Side, packet: &Packet) -> Vec<u8> {
    Packet { destination_mac: side.mac, ..packet.clone() }.frame()
}

/// Checks one row. `change`: everything that tc counts and stores for the packet, as [`harness::plane::Change`] prints
/// it; XDP counts the same or nothing.
#[track_caller]
pub(crate) fn row(plane: &Plane, what: &str, side: Side, packet: &Packet, gives: Gives<'_>, change: &str) {
    row_of_bytes(plane, what, side, &frame(side, packet), gives, change);
}

#[track_caller]
pub(crate) fn row_of_bytes(
    plane: &Plane,
    what: &str,
    side: Side,
    frame: &[u8],
    gives: Gives<'_>,
    change: &str,
) {
    xdp(plane, what, side, frame, gives, change);
    let (ran, changed) = plane.tc(side, frame);
    assert_eq!(changed.to_string(), change, "{what}: tc counts, verdict {:?}", ran.verdict);
    match gives {
        Gives::Pass => {
            assert_eq!(ran.verdict, Verdict::Pass, "{what}: tc");
            assert_eq!(ran.frame, frame, "{what}: tc passes the packet as it came");
        }
        Gives::Drop => assert_eq!(ran.verdict, Verdict::Drop, "{what}: tc"),
        Gives::Sends(expected) | Gives::SendsFast(expected) => {
            assert_eq!(ran.verdict, Verdict::Redirect, "{what}: tc");
            // the link header is written after the redirect
            compare(what, "tc", &ran.frame, expected);
        }
    }
}

#[track_caller]
fn xdp(plane: &Plane, what: &str, side: Side, frame: &[u8], gives: Gives<'_>, change: &str) {
    let (ran, changed) = plane.xdp(side, frame);
    let Gives::SendsFast(expected) = gives else {
        assert_eq!(changed.to_string(), "", "{what}: XDP counts nothing");
        assert_eq!(ran.verdict, Verdict::Pass, "{what}: XDP");
        assert_eq!(ran.frame, frame, "{what}: XDP passes the packet as it came");
        return;
    };
    assert_eq!(ran.verdict, Verdict::Redirect, "{what}: XDP");
    assert_eq!(changed.to_string(), change, "{what}: XDP counts");
    compare(what, "XDP", &ran.frame, expected);
    assert_eq!(ran.frame[..6], NEIGHBOUR_MAC, "{what}: XDP writes the neighbour's address");
    let way_out = [plane.uplink, plane.backend, plane.narrow].map(|side| side.mac);
    assert!(way_out.iter().any(|mac| ran.frame[6..12] == mac[..]), "{what}: XDP writes its own address");
}

/// Everything from the IP header on.
#[track_caller]
fn compare(what: &str, hook: &str, frame: &[u8], expected: &Packet) {
    let expected = expected.frame();
    if frame[12..] != expected[12..] {
        let (got, wanted) = (Packet::parse(frame), Packet::parse(&expected));
        panic!("{what}: {hook} sends\n{got:?}\ninstead of\n{wanted:?}\n{frame:x?}\n{expected:x?}");
    }
}
