//! Rules with several backends: who gets a new flow, and what is known of their flows.

mod counts;
mod hash;
mod least;
mod round_trips;
mod tables;
mod turns;
mod unanswered;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use harness::packet::{Packet, PacketV6, SYN, Segment};
use harness::plane::{Plane, Ran, Verdict};
use harness::world::{BACKEND_V6, CLIENT_V6, RELAY, RELAY_V6};
use relay::balance::Weights;
use relay::kernel::{Desired, DesiredRule};
use relay::rule::{Backend, Balance, Rule};
use relay_common::choice::EndpointUsage;
use relay_common::net::Protocol;

use crate::conversation::Conversation;
use crate::table::frame;
use crate::{Held, WEB};

/// Backends are 203.0.113.2, .3, and so on, each at port 80.
const fn backend(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, 2 + index)
}

/// Gives a rule backends of these weights.
fn spread(rule: &mut Rule, balance: Balance, weights: &[u16]) {
    let backend = |(index, weight): (u8, &u16)| {
        let to = Backend::parse(&SocketAddr::from((backend(index), 80)).to_string()).expect("a backend");
        Backend { weight: *weight, ..to }
    };
    rule.to = (0..).zip(weights).map(backend).collect();
    rule.balance = balance;
}

/// The usual rule with such backends.
fn desired(plane: &Plane, balance: Balance, weights: &[u16]) -> Desired {
    let weights = weights.to_vec();
    plane.desired_with(WEB, move |rule| spread(rule, balance, &weights))
}

/// The plane with such a rule.
fn plane(balance: Balance, weights: &[u16]) -> (Held, Desired) {
    let mut plane = crate::plane("");
    let desired = desired(&plane, balance, weights);
    plane.take(&desired);
    (plane, desired)
}

/// Gives the backends of the first rule other weights, the quick way.
fn swap(plane: &mut Plane, desired: &mut Desired, tcp: &[u16], udp: &[u16]) {
    let rule = Arc::make_mut(&mut desired.rules[0]);
    rule.weights = Arc::new(Weights { tcp: tcp.into(), udp: udp.into(), ..Weights::default() });
    plane.dataplane.swap(0, &desired.rules[0]).expect("swap");
}

/// A client of its own address.
const fn client(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(100, 64, high, low)
}

/// The first packet of a client, and the backend that gets it.
fn first(plane: &Plane, from: (Ipv4Addr, u16), protocol: Protocol) -> Option<u8> {
    let packet = match protocol {
        Protocol::Tcp => Packet::tcp(from, (RELAY, 8080), &Segment::flags(SYN)),
        Protocol::Udp => Packet::udp(from, (RELAY, 8080), b"hello"),
    };
    index(&plane.programs.tc(plane.client, &frame(plane.client, &packet), 0).expect("TEST_RUN"))
}

/// The same of a client with an IPv6 address.
fn first_v6(plane: &Plane, from: (Ipv6Addr, u16), protocol: Protocol) -> Option<u8> {
    let packet = match protocol {
        Protocol::Tcp => PacketV6::tcp(from, (RELAY_V6, 8080), &Segment::flags(SYN)),
        Protocol::Udp => PacketV6::udp(from, (RELAY_V6, 8080), b"hello"),
    };
    let packet = PacketV6 { destination_mac: plane.client.mac, ..packet };
    index(&plane.programs.tc(plane.client, &packet.frame(), 0).expect("TEST_RUN"))
}

/// Which backend a packet was sent to; `None`: it was dropped, or left to the stack.
fn index(ran: &Ran) -> Option<u8> {
    match ran.verdict {
        Verdict::Redirect => {}
        Verdict::Drop | Verdict::Pass => return None,
        Verdict::Other(_) => panic!("{ran:?}"),
    }
    let [203, 0, 113, last] = Packet::parse_ip(&ran.frame[14..]).expect("a packet").destination.octets()
    else {
        panic!("{ran:?}");
    };
    Some(last - 2)
}

/// The client's side of a conversation with a backend.
const fn with(number: u8, port: u16) -> Conversation {
    Conversation { backend: (backend(number), 80), ..Conversation::usual(port) }
}

/// What is known of a backend's flows: active; opened and refused, of TCP and UDP; unanswered.
fn known(plane: &Plane, rule: &DesiredRule, backend: usize) -> (i64, [u64; 2], [u64; 2], u64) {
    let usage = plane.dataplane.backend_usage(rule).expect("a carried rule");
    let usage = usage.of(backend).expect("an endpoint");
    let both = |of: fn(&EndpointUsage, Protocol) -> u64| Protocol::ALL.map(|protocol| of(usage, protocol));
    let opened = both(|usage, protocol| usage.opened(protocol).get());
    let refused = both(|usage, protocol| usage.refused(protocol).get());
    (usage.active().get(), opened, refused, usage.unanswered().get())
}
