//! Rates: packets beyond them are refused and counted, on both planes, direction by direction.

use std::net::{Ipv4Addr, Ipv6Addr};

use harness::packet::{Packet, PacketV6};
use harness::plane::{Plane, Verdict};
use harness::world::{CLIENT, CLIENT_V6, RELAY, RELAY_V6};
use relay::rule::RuleName;
use relay_common::counters::DropReason;

use crate::conversation::Conversation;
use crate::table::Gives::{Drop, Sends, SendsFast};
use crate::table::{frame, row};
use crate::{Held, WEB};

/// What the slowest bucket holds.
const BURST: u64 = 256 * 1024;
/// Somebody else than the usual client.
const OTHER_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
/// A rate that gives nothing back while a test runs.
const SLOW: &str = "\"1kbps\"";

fn web(rate: &str, more: &str) -> String {
    format!("{WEB}{more}rate = {{ {rate} }}\n")
}

/// The plane with such rules, whose buckets nobody has spent from.
fn fresh(rules: &str) -> Held {
    let mut plane = crate::plane(WEB);
    plane.apply(rules, &[]);
    plane
}

/// Sends a packet until one is refused. Returns how often it was not.
fn fill(frame: &[u8], run: impl Fn(&[u8]) -> (Verdict, u64)) -> u64 {
    (0..).take_while(|_| run(frame) != (Verdict::Drop, 1)).count() as u64
}

/// What becomes of a frame at tc on one side, and packets refused for the rate.
fn tc(plane: &Plane, is_clients: bool) -> impl Fn(&[u8]) -> (Verdict, u64) {
    tc_for(plane, is_clients, DropReason::Rate)
}

/// The same for another reason.
fn tc_for(plane: &Plane, is_clients: bool, reason: DropReason) -> impl Fn(&[u8]) -> (Verdict, u64) {
    let side = if is_clients { plane.client } else { plane.backend };
    move |frame| {
        let (ran, change) = plane.tc(side, frame);
        (ran.verdict, change.drops(reason))
    }
}

#[test]
fn a_bucket_empties_direction_by_direction() {
    let mut plane = fresh(&web(&format!("ingress = {SLOW}, egress = {SLOW}"), ""));
    let mut talk = Conversation::usual(47_000);
    talk.prove(&plane, plane.client, plane.backend);
    let (question, answer) = (talk.client_udp(&[1; 1372]), talk.backend_udp(&[2; 872]));
    // XDP leaves all of it to tc
    let sent = talk.to_backend(&question);
    row(&plane, "within", plane.client, &question, Sends(&sent), "web: in 1/1400");
    let before = 36 + 32 + 1400;
    assert_eq!(fill(&frame(plane.client, &question), tc(&plane, true)), (BURST - before).div_ceil(1400));
    row(&plane, "beyond", plane.client, &question, Drop, "web: rate 1");
    let got = talk.to_client(&answer);
    row(&plane, "the other direction", plane.backend, &answer, Sends(&got), "web: out 1/900");
    assert_eq!(fill(&frame(plane.backend, &answer), tc(&plane, false)), (BURST - 34 - 900).div_ceil(900));
    row(&plane, "beyond, back", plane.backend, &answer, Drop, "web: rate 1");
    // a flow that lives goes on by another rate at once, or by none
    plane.apply(&web(&format!("ingress = \"1000Gbps\", egress = {SLOW}"), ""), &[]);
    row(&plane, "faster", plane.client, &question, Sends(&sent), "web: in 1/1400");
    row(&plane, "as before", plane.backend, &answer, Drop, "web: rate 1");
    plane.apply(WEB, &[]);
    row(&plane, "any rate", plane.client, &question, SendsFast(&sent), "web: in 1/1400");
    row(&plane, "any rate, back", plane.backend, &answer, SendsFast(&got), "web: out 1/900");
}

#[test]
fn new_flows_and_late_packets_keep_to_it_too() {
    let plane = fresh(&web(&format!("ingress = {SLOW}"), ""));
    let mut talk = Conversation::usual(47_010);
    talk.open(&plane, plane.client, &talk.client_udp(&[1; 1372]));
    fill(&frame(plane.client, &talk.client_udp(&[1; 1372])), tc(&plane, true));
    // it would open a flow
    let refused = |packet: &Packet| {
        let (ran, change) = plane.tc(plane.client, &frame(plane.client, packet));
        (ran.verdict, change.drops(DropReason::Rate)) == (Verdict::Drop, 1)
    };
    assert!(refused(&Conversation::usual(47_011).client_udp(&[1; 200])));
    // little packets may overdraw, such as an error about what the backend sent, and the first of a connection
    let answer = talk.to_client(&talk.backend_udp(b"answer"));
    assert!(!refused(&Packet::icmp_error(CLIENT, 3, 3, 0, &answer, 8)));
    assert!(!refused(&Conversation::usual(47_012).client_udp(b"hello")));
}

/// The meter's quota, with so many bytes left of it.
fn leave(plane: &Plane, bytes: i64) {
    let place = plane.dataplane.meter_of_rule(&RuleName::parse("web").expect("a name")).expect("a meter");
    let meter = place.meter().expect("memory");
    let [left, _] = meter.remaining();
    meter.adjust([bytes - left, 0]);
}

#[test]
fn a_quota_is_spent_and_then_nothing_passes() {
    let mut plane = fresh(&format!("{WEB}quota = {{ limit = \"1GB\", count = \"in\" }}\n"));
    let mut talk = Conversation::usual(47_040);
    talk.prove(&plane, plane.client, plane.backend);
    let (question, answer) = (talk.client_udp(&[1; 1372]), talk.backend_udp(&[2; 872]));
    let (sent, got) = (talk.to_backend(&question), talk.to_client(&answer));
    leave(&plane, 1401);
    row(&plane, "within", plane.client, &question, Sends(&sent), "web: in 1/1400");
    row(&plane, "what does not count", plane.backend, &answer, Sends(&got), "web: out 1/900");
    row(&plane, "the last, which is too much", plane.client, &question, Sends(&sent), "web: in 1/1400");
    row(&plane, "used up", plane.client, &question, Drop, "web: quota 1");
    row(&plane, "the other direction", plane.backend, &answer, Drop, "web: quota 1");
    let new = Conversation::usual(47_041).client_udp(&[1; 100]);
    row(&plane, "a new flow", plane.client, &new, Drop, "web: flows 1, quota 1; unproven +2");
    leave(&plane, 5000);
    row(&plane, "there is some again", plane.backend, &answer, Sends(&got), "web: out 1/900");
    plane.apply(WEB, &[]);
    row(&plane, "none any more", plane.backend, &answer, SendsFast(&got), "web: out 1/900");
}

#[test]
fn a_group_is_asked_beside_the_rule() {
    let group = format!("[[group]]\nname = \"g\"\nrate = {{ egress = {SLOW} }}\nquota = \"1GB\"\n");
    let mut plane = fresh(&format!("{group}{WEB}group = \"g\"\n"));
    let mut talk = Conversation::usual(47_050);
    talk.prove(&plane, plane.client, plane.backend);
    let (question, answer) = (talk.client_udp(&[1; 1372]), talk.backend_udp(&[2; 872]));
    let (sent, got) = (talk.to_backend(&question), talk.to_client(&answer));
    let passed = fill(&frame(plane.backend, &answer), tc(&plane, false));
    assert_eq!(passed, (BURST - 34).div_ceil(900));
    row(&plane, "the group's rate", plane.backend, &answer, Drop, "web: rate 1");
    row(
        &plane,
        "of the other direction it has none",
        plane.client,
        &question,
        Sends(&sent),
        "web: in 1/1400",
    );
    let place = plane.dataplane.meter_of_group(&RuleName::parse("g").expect("a name")).expect("a meter");
    let [left, _] = place.meter().expect("memory").remaining();
    place.meter().expect("memory").adjust([-left, 0]);
    row(&plane, "the group's quota", plane.client, &question, Drop, "web: quota 1");
    // who leaves it has nothing to do with it
    plane.apply(&format!("{group}{WEB}"), &[]);
    row(&plane, "alone", plane.backend, &answer, SendsFast(&got), "web: out 1/900");
}

#[test]
fn a_super_packet_costs_what_it_becomes() {
    let plane = fresh(&web(&format!("ingress = {SLOW}"), ""));
    let mut talk = Conversation::usual(47_020);
    talk.establish(&plane, plane.client, plane.backend);
    let segment = harness::packet::Segment::flags(harness::packet::ACK)
        .at(crate::conversation::CLIENT_ISN + 1, crate::conversation::BACKEND_ISN.wrapping_add(1))
        .carrying(&[7; 1400]);
    let one = frame(plane.client, &talk.client_tcp(&segment));
    // 14 segments of 100 bytes with 40 bytes of headers each
    let run = |frame: &[u8]| {
        let before = plane.counts();
        let ran = plane.programs.tc(plane.client, frame, 100).expect("TEST_RUN");
        (ran.verdict, before.change(&plane.counts()).drops(DropReason::Rate))
    };
    let passed = fill(&one, run);
    assert_eq!(passed, (BURST - 80).div_ceil(14 * 140));
}

#[test]
fn the_user_plane_keeps_to_it_both_ways_and_in_both_families() {
    let plane = fresh(&web(&format!("ingress = {SLOW}, egress = {SLOW}"), "plane = \"user\"\n"));
    let (client, listener) = ((CLIENT, 47_030), (RELAY, 8080));
    let (question, answer) =
        (Packet::udp(client, listener, &[1; 972]), Packet::udp(listener, client, &[2; 972]));
    let frame_v6 = |inner: &Packet, between| frame_v6(&plane, inner, between);
    let egress = |frame: &[u8]| {
        let (ran, change) = plane.egress(plane.client, frame);
        (ran.verdict, change.drops(DropReason::Rate))
    };
    let ingress = tc(&plane, true);
    assert_eq!(fill(&frame(plane.client, &question), &ingress), BURST.div_ceil(1000));
    assert_eq!(ingress(&frame_v6(&question, (CLIENT_V6, RELAY_V6))), (Verdict::Drop, 1));
    assert_eq!(fill(&frame(plane.client, &answer), egress), BURST.div_ceil(1000));
    assert_eq!(egress(&frame_v6(&answer, (RELAY_V6, CLIENT_V6))), (Verdict::Drop, 1));
}

/// A frame on the clients' side.
fn frame_v6(plane: &Plane, inner: &Packet, between: (Ipv6Addr, Ipv6Addr)) -> Vec<u8> {
    let bytes = PacketV6::around(inner, between).ip_bytes();
    [&plane.client.mac[..], &[2, 0, 0, 0, 0, 9], &[0x86, 0xdd], &bytes].concat()
}

#[test]
fn each_client_has_a_rate_of_its_own() {
    let plane = fresh(&web(&format!("per_client = {SLOW}"), ""));
    let mut talk = Conversation::usual(47_040);
    talk.prove(&plane, plane.client, plane.backend);
    let (question, answer) = (talk.client_udp(&[1; 1372]), talk.backend_udp(&[2; 872]));
    let got = talk.to_client(&answer);
    let per_client = |is_clients| tc_for(&plane, is_clients, DropReason::RatePerClient);
    fill(&frame(plane.client, &question), per_client(true));
    row(&plane, "beyond", plane.client, &question, Drop, "web: rate_per_client 1");
    row(&plane, "the other direction", plane.backend, &answer, Sends(&got), "web: out 1/900");
    fill(&frame(plane.backend, &answer), per_client(false));
    row(&plane, "beyond, back", plane.backend, &answer, Drop, "web: rate_per_client 1");
    // all its connections, and nobody else's
    let again = Conversation::usual(47_041).client_udp(&[1; 200]);
    assert_eq!(per_client(true)(&frame(plane.client, &again)), (Verdict::Drop, 1));
    let mut other = Conversation { client: (OTHER_CLIENT, 47_042), ..Conversation::usual(47_042) };
    let hers = other.client_udp(&[1; 1372]);
    other.open(&plane, plane.client, &hers);
    assert_eq!(fill(&frame(plane.client, &hers), per_client(true)), BURST.div_ceil(1400) - 1);
    // an IPv6 client has its /64's
    let neighbour = Ipv6Addr::from(u128::from(CLIENT_V6) ^ 0xff);
    let v6 = |from, port| {
        frame_v6(&plane, &Packet::udp((CLIENT, port), (RELAY, 8080), &[1; 952]), (from, RELAY_V6))
    };
    assert_eq!(fill(&v6(CLIENT_V6, 47_043), per_client(true)), BURST.div_ceil(1000));
    assert_eq!(per_client(true)(&v6(neighbour, 47_044)), (Verdict::Drop, 1));
    let stranger = Ipv6Addr::from(u128::from(CLIENT_V6) ^ 0xff << 64);
    assert_eq!(per_client(true)(&v6(stranger, 47_045)), (Verdict::Redirect, 0));
}

#[test]
fn clients_of_the_user_plane_have_rates_of_their_own_too() {
    let plane = fresh(&web(&format!("per_client = {SLOW}"), "plane = \"user\"\n"));
    let per_client = tc_for(&plane, true, DropReason::RatePerClient);
    let egress = |packet: &Packet| {
        let (ran, change) = plane.egress(plane.client, &frame(plane.client, packet));
        (ran.verdict, change.drops(DropReason::RatePerClient))
    };
    for client in [(CLIENT, 47_050), (OTHER_CLIENT, 47_051)] {
        let (listener, bytes) = ((RELAY, 8080), [1; 972]);
        let question = frame(plane.client, &Packet::udp(client, listener, &bytes));
        assert_eq!(fill(&question, &per_client), BURST.div_ceil(1000));
        let answer = Packet::udp(listener, client, &bytes);
        assert_eq!(
            (0..).take_while(|_| egress(&answer) != (Verdict::Drop, 1)).count() as u64,
            BURST.div_ceil(1000)
        );
    }
}
