//! Packets that are none of ours: they pass as they came.

use harness::eventually;
use harness::packet::Packet;
use harness::plane::{Plane, Verdict};
use harness::world::{CLIENT, RELAY};

use crate::conversation::Conversation;
use crate::table::Gives::{Pass, Sends, SendsFast};
use crate::table::{frame, row, row_of_bytes};
use crate::{WEB, plane};

/// A frame with another EtherType and payload behind the addresses.
fn other(plane: &Plane, kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = plane.client.mac.to_vec();
    frame.extend([0; 6]);
    frame.extend(kind);
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

#[test]
fn other_network_protocols() {
    let plane = plane(WEB);
    let udp = Conversation::usual(46_000).client_udp(b"hello").ip_bytes();
    let mut ipv6 = vec![0x60, 0, 0, 0, 0, 16, 17, 64];
    ipv6.resize(40, 0xfd);
    ipv6.extend([0x12, 0x34, 0x1f, 0x90, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let tagged: Vec<u8> = [&[0, 5, 8, 0], udp.as_slice()].concat();
    for (what, kind, payload) in [
        ("ARP", [8, 6], [0, 1, 8, 0, 6, 4, 0, 1].as_slice()),
        ("IPv6", [0x86, 0xdd], &ipv6),
        ("a VLAN tag", [0x81, 0], &tagged),
        ("two VLAN tags", [0x88, 0xa8], &tagged),
        ("LLDP", [0x88, 0xcc], &udp),
        ("a length instead of a type", [0, 60], &udp),
    ] {
        row_of_bytes(&plane, what, plane.client, &other(&plane, kind, payload), Pass, "");
    }
}

#[test]
fn other_transport_protocols() {
    let plane = plane(WEB);
    let udp = Conversation::usual(46_001).client_udp(b"hello");
    for protocol in [0, 2, 4, 41, 47, 50, 58, 89, 132, 136, 255] {
        let packet = Packet { protocol, ..udp.clone() };
        row(&plane, &format!("protocol {protocol}"), plane.client, &packet, Pass, "");
    }
}

/// What a bridge or a sniffer lets through is for another host; what is for many is for no flow.
#[test]
fn frames_for_others_pass() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(46_002);
    talk.prove(&plane, plane.client, plane.backend);
    let packet = talk.client_udp(b"hello");
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2, 9, 9, 9, 9, 9]] {
        let packet = Packet { destination_mac: mac, ..packet.clone() };
        row_of_bytes(&plane, &format!("{mac:x?}"), plane.client, &packet.frame(), Pass, "");
    }
    row(&plane, "for the host", plane.client, &packet, SendsFast(&talk.to_backend(&packet)), "web: in 1/33");
}

/// XDP learns from tc which address is the host's.
#[test]
fn another_link_address_of_the_host() {
    let mut plane = plane(WEB);
    let mut talk = Conversation::usual(46_005);
    talk.prove(&plane, plane.client, plane.backend);
    let packet = talk.client_udp(b"hello");
    // the host had this one when the flow was last looked at
    plane.come_in_for([2, 0, 0, 0, 5, 5]);
    let frame = frame(plane.client, &packet);
    let (ran, _) = plane.xdp(plane.client, &frame);
    assert_eq!(ran.verdict, Verdict::Pass);
    plane.age(1);
    let (ran, _) = plane.tc(plane.client, &frame);
    assert_eq!(ran.verdict, Verdict::Redirect);
    row(&plane, "known now", plane.client, &packet, SendsFast(&talk.to_backend(&packet)), "web: in 1/33");
}

/// What XDP sends, the kernel does not see: one packet in a few seconds goes by tc, where the
/// neighbour is looked after.
#[test]
fn one_packet_in_a_while_is_left_to_tc() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(46_006);
    talk.prove(&plane, plane.client, plane.backend);
    let frame = frame(plane.client, &talk.client_udp(b"hello"));
    let verdict = || plane.programs.xdp(plane.client, &frame).expect("TEST_RUN").verdict;
    eventually("XDP leaves one to tc", || verdict() == Verdict::Pass);
    for _ in 0..20 {
        assert_eq!(verdict(), Verdict::Redirect);
    }
}

/// A host on the way to somewhere else: the same port, not our address.
#[test]
fn transit_traffic_passes() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(46_003);
    talk.prove(&plane, plane.client, plane.backend);
    let there = Packet::udp((CLIENT, 46_003), (harness::plane::BACKEND_NARROW, 8080), b"through");
    row(&plane, "there", plane.client, &there, Pass, "");
    let back = Packet::udp((harness::plane::BACKEND_NARROW, 8080), (CLIENT, 46_003), b"through");
    row(&plane, "back", plane.narrow, &back, Pass, "");
    let other_port = Packet::udp(talk.backend, (RELAY, talk.source.1), b"the other address");
    row(&plane, "to an address that the flow does not use", plane.backend, &other_port, Pass, "");
}

/// Options change where everything lies, so they take the slow path; service bits are carried along.
#[test]
fn options_and_service_are_carried_along() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(46_004);
    let options: [&[u8]; 4] = [&[148, 4, 0, 0], &[1; 4], &[7, 39, 4, 0, 0, 0, 0, 0], &[1; 40]];
    talk.prove(&plane, plane.client, plane.backend);
    for options in options {
        let packet = talk.client_udp(b"with options").with_options(options);
        let change = format!("web: in 1/{}", 40 + options.len());
        row(&plane, "options", plane.client, &packet, Sends(&talk.to_backend(&packet)), &change);
    }
    for service in [0x01, 0x02, 0x03, 0xb8, 0xff] {
        let packet = Packet { service, fragment: 0, identification: 0, ..talk.client_udp(b"marked") };
        let sent = talk.to_backend(&packet);
        row(&plane, "service", plane.client, &packet, SendsFast(&sent), "web: in 1/34");
    }
    let packet = Packet { fragment: 0x8000, ..talk.client_udp(b"the evil bit") };
    row(&plane, "reserved flag", plane.client, &packet, SendsFast(&talk.to_backend(&packet)), "web: in 1/40");
}

/// Frames shorter than a cable takes are padded; the padding goes along, uncounted.
#[test]
fn padding_is_not_counted() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(46_005);
    talk.prove(&plane, plane.client, plane.backend);
    let packet = talk.client_udp(b"x");
    let mut padded = frame(plane.client, &packet);
    padded.resize(60, 0xee);
    let mut expected = talk.to_backend(&packet).frame();
    expected.resize(60, 0xee);
    for (hook, (ran, change)) in
        [("tc", plane.tc(plane.client, &padded)), ("XDP", plane.xdp(plane.client, &padded))]
    {
        assert_eq!(change.to_string(), "web: in 1/29", "{hook}");
        assert_eq!(ran.frame[12..], expected[12..], "{hook}");
    }
}
