//! Ways out that change under a live flow, or are not there.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use harness::packet::{ACK, Packet, SYN, Segment};
use harness::plane::{GATEWAY, Plane};
use relay::host::ClientRoute;
use relay::kernel::Desired;

use crate::conversation::Conversation;
use crate::table::Gives::{Drop, Sends, SendsFast};
use crate::table::{frame, row};
use crate::{WEB, plane};

/// Changes what the web rule wants of the kernel.
fn change(plane: &mut Plane, change: impl FnOnce(&mut Desired)) {
    let mut desired = plane.desired(WEB, &[]);
    change(&mut desired);
    plane.dataplane.apply(&desired).expect("apply");
}

#[test]
fn without_a_way_to_the_backend() {
    let mut plane = plane(WEB);
    let mut talk = Conversation::usual(51_000);
    talk.prove(&plane, plane.client, plane.backend);
    change(&mut plane, |desired| {
        Arc::make_mut(&mut desired.rules[0]).carried.as_mut().expect("carried").paths = vec![None]
    });
    let stranger = Conversation::usual(51_001);
    let (udp, tcp) = (stranger.client_udp(b"hello"), stranger.client_tcp(&Segment::flags(SYN)));
    row(&plane, "a first datagram", plane.client, &udp, Drop, "web: no_route 1");
    row(&plane, "a SYN", plane.client, &tcp, Drop, "web: no_route 1");
}

#[test]
fn without_a_way_back_to_the_client() {
    let mut plane = plane(WEB);
    // those of IPv6 lead no IPv4 client anywhere
    change(&mut plane, |desired| {
        let routes = Arc::make_mut(&mut desired.routes);
        let everywhere = std::mem::take(&mut routes.hops).into_iter().map(|(route, hop)| {
            (ClientRoute { destination: Ipv6Addr::UNSPECIFIED.into(), prefix: 0, ..route }, hop)
        });
        routes.hops = everywhere.collect();
    });
    let stranger = Conversation::usual(51_002);
    let (udp, tcp) = (stranger.client_udp(b"hello"), stranger.client_tcp(&Segment::flags(SYN)));
    row(&plane, "a first datagram", plane.client, &udp, Drop, "web: no_route 1");
    row(&plane, "a SYN", plane.client, &tcp, Drop, "web: no_route 1");
    // to whom should it be said?
    let old = stranger.client_udp(b"hello").with_ttl(1);
    row(&plane, "an old datagram", plane.client, &old, Drop, "web: no_route 1");
}

/// The first packet after a change looks its way up again; then all is as before.
#[test]
fn a_live_flow_follows_a_new_way() {
    let mut plane = plane(WEB);
    let (mut udp, mut tcp) = (Conversation::usual(51_003), Conversation::usual(51_004));
    udp.prove(&plane, plane.client, plane.backend);
    tcp.establish(&plane, plane.client, plane.backend);
    let segment = Segment::flags(ACK).at(1001, 1);
    let packets: [(&str, Packet, Packet); 2] = [
        ("UDP", udp.client_udp(b"onwards....."), udp.to_backend(&udp.client_udp(b"onwards....."))),
        ("TCP", tcp.client_tcp(&segment), tcp.to_backend(&tcp.client_tcp(&segment))),
    ];
    for (what, packet, sent) in &packets {
        row(&plane, what, plane.client, packet, SendsFast(sent), "web: in 1/40");
    }
    for mtu in [1400, 1300] {
        change(&mut plane, |desired| {
            let carried = Arc::make_mut(&mut desired.rules[0]).carried.as_mut().expect("carried");
            let hop = &mut carried.paths[0].as_mut().expect("path").hop;
            hop.mtu = mtu;
        });
        for (what, packet, sent) in &packets {
            row(&plane, what, plane.client, packet, Sends(sent), "web: in 1/40");
            row(&plane, what, plane.client, packet, SendsFast(sent), "web: in 1/40");
        }
    }
    // a way that XDP's own lookup disagrees with is tc's alone
    let elsewhere = plane.narrow.interface;
    change(&mut plane, |desired| {
        let carried = Arc::make_mut(&mut desired.rules[0]).carried.as_mut().expect("carried");
        let hop = &mut carried.paths[0].as_mut().expect("path").hop;
        (hop.interface, hop.gateway) = (elsewhere, Some(IpAddr::V4(GATEWAY)));
    });
    for (what, packet, sent) in &packets {
        row(&plane, what, plane.client, packet, Sends(sent), "web: in 1/40");
        row(&plane, what, plane.client, packet, Sends(sent), "web: in 1/40");
    }
}

/// A client that roams to another interface takes its answers with it.
#[test]
fn a_client_may_come_in_elsewhere() {
    let plane = plane(WEB);
    let mut talk = Conversation::usual(51_005);
    talk.prove(&plane, plane.client, plane.backend);
    let packet = talk.client_udp(b"from elsewhere");
    let sent = talk.to_backend(&packet);
    // tc alone: an old kernel lets XDP's test packets come in on one interface only
    for what in ["the first", "the next"] {
        let (ran, change) = plane.tc(plane.narrow, &frame(plane.narrow, &packet));
        assert_eq!(ran.frame[14..], sent.frame()[14..], "{what}");
        assert_eq!(change.to_string(), "web: in 1/42", "{what}");
    }
    row(&plane, "and back again", plane.client, &packet, Sends(&sent), "web: in 1/42");
    row(&plane, "as before", plane.client, &packet, SendsFast(&sent), "web: in 1/42");
}
