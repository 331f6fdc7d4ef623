//! Who is let in: allow lists and limits of new flows. Flows that are there already go on.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Instant;

use harness::packet::{ACK, FIN, SYN, Segment};
use harness::plane::{Plane, RELAY_SECOND, Side, Verdict};
use harness::world::{CLIENT, RELAY};
use relay::kernel::guard::MOST_NETWORKS;
use relay::rule::RuleName;

use crate::conversation::{BACKEND_ISN, CLIENT_ISN, Conversation};
use crate::table::Gives::{Drop, Sends, SendsFast};
use crate::table::{frame, row};
use crate::{Held, WEB};

const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

fn web(extra: &str) -> String {
    format!("{WEB}{extra}\n")
}

/// The plane with no flow counted, whatever other tests have put into its tables and taken out.
fn plane(rules: &str) -> Held {
    let mut plane = crate::plane(rules);
    for _ in 0..4 {
        plane.sweep();
    }
    plane
}

/// Proven flows that count for a rule's limit.
fn counted(plane: &Plane, rule: &str) -> i64 {
    let name = RuleName::parse(rule).expect(rule);
    plane.dataplane.usage(&name).expect("a slot").as_ref().flows()
}

const fn from(client: Ipv4Addr, port: u16) -> Conversation {
    Conversation { client: (client, port), ..Conversation::usual(port) }
}

#[track_caller]
fn let_in(plane: &Plane, mut talk: Conversation) {
    talk.open(plane, plane.client, &talk.client_udp(b"hello"));
}

#[track_caller]
fn refused(plane: &Plane, talk: Conversation, why: &str) {
    let change = format!("web: {why} 1");
    let what = format!("{:?}", talk.client);
    row(plane, &what, plane.client, &talk.client_udp(b"hello"), Drop, &change);
    row(plane, &what, plane.client, &talk.client_tcp(&Segment::flags(SYN)), Drop, &change);
}

#[test]
fn only_networks_on_the_list_are_let_in() {
    let mut plane =
        plane(&web("accept = { allow = [\"198.51.100.0/25\", \"203.0.114.7\", \"100.64.0.0/10\"] }"));
    for (port, client) in (46_000..).zip(["198.51.100.127", "203.0.114.7", "100.64.0.0", "100.127.255.255"]) {
        let_in(&plane, from(client.parse().expect(client), port));
    }
    for client in ["198.51.100.128", "203.0.114.6", "203.0.114.8", "100.63.255.255", "100.128.0.0", "8.8.8.8"]
    {
        refused(&plane, from(client.parse().expect(client), 46_010), "not_allowed");
    }
    // a segment of no flow is the stack's, whoever sends it
    let segment = from(STRANGER, 46_011).client_tcp(&Segment::flags(ACK));
    row(&plane, "a segment", plane.client, &segment, crate::table::Gives::Pass, "web: in 1/40");
    plane.apply(&web("accept = { allow = \"0.0.0.0/0\" }"), &[]);
    let_in(&plane, from(STRANGER, 46_012));
    plane.apply(&web("accept = { allow = \"2001:db8::/32\" }"), &[]);
    refused(&plane, from(STRANGER, 46_013), "not_allowed");
    // every IPv6 client, and no more of IPv4 for that
    plane.apply(&web("accept = { allow = [\"198.51.100.0/24\", \"::/0\"] }"), &[]);
    let_in(&plane, from(CLIENT, 46_015));
    refused(&plane, from(STRANGER, 46_016), "not_allowed");
    plane.apply(WEB, &[]);
    let_in(&plane, from(STRANGER, 46_014));
}

#[test]
fn rules_on_one_port_have_lists_of_their_own() {
    let rule = |name, listen, allow| {
        format!(
            "[[rule]]\nname = \"{name}\"\nlisten = \"{listen}:7000\"\nto = \"203.0.113.2:80\"\nforce = true\n\
             accept = {{ allow = \"{allow}\" }}\n"
        )
    };
    let plane =
        plane(&(rule("one", "198.51.100.1", "198.51.100.2") + &rule("two", "198.51.100.9", "192.0.2.0/24")));
    for (client, listener, refusal) in [
        (CLIENT, RELAY, None),
        (STRANGER, RELAY, Some("one")),
        (CLIENT, RELAY_SECOND, Some("two")),
        (STRANGER, RELAY_SECOND, None),
    ] {
        let talk = Conversation { listener: (listener, 7000), ..from(client, 46_020) };
        match refusal {
            None => let_in(&plane, talk),
            Some(rule) => {
                let change = format!("{rule}: not_allowed 1");
                row(&plane, rule, plane.client, &talk.client_udp(b"hello"), Drop, &change);
            }
        }
    }
}

#[test]
fn who_is_taken_off_the_list_loses_its_flows() {
    let both = web("accept = { allow = [\"198.51.100.0/24\", \"192.0.2.77\"] }");
    let mut plane = plane(&both);
    let (mut stays, mut goes, mut half_open) =
        (from(CLIENT, 46_030), from(STRANGER, 46_031), from(STRANGER, 46_032));
    stays.prove(&plane, plane.client, plane.backend);
    goes.establish(&plane, plane.client, plane.backend);
    half_open.open(&plane, plane.client, &half_open.client_udp(b"hello"));
    assert_eq!((plane.sweep().deleted, counted(&plane, "web")), (0, 2));
    plane.apply(&web("accept = { allow = \"198.51.100.0/24\" }"), &[]);
    refused(&plane, from(STRANGER, 46_033), "not_allowed");
    assert_eq!(plane.sweep().deleted, 2, "the list is newer than the flows");
    assert_eq!((plane.sweep().deleted, counted(&plane, "web")), (0, 1));
    let packet = stays.client_udp(b"still here");
    row(&plane, "stays", plane.client, &packet, SendsFast(&stays.to_backend(&packet)), "web: in 1/38");
    let segment = goes.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1)));
    row(&plane, "goes", plane.client, &segment, crate::table::Gives::Pass, "web: in 1/40");
}

#[test]
fn lists_may_be_long() {
    let list = |length: u32| {
        let mut rules = web("accept = { allow = [");
        rules.truncate(rules.len() - 1);
        for index in 0..length {
            // every other address, so that none can be joined
            write!(rules, "\"{}\",", Ipv4Addr::from(0x0a00_0000 + 2 * index)).expect("a text");
        }
        rules + "] }\n"
    };
    let mut plane = plane(&list(10_000));
    let_in(&plane, from(Ipv4Addr::from(0x0a00_0000 + 2 * 9_999), 46_040));
    refused(&plane, from(Ipv4Addr::from(0x0a00_0000 + 2 * 10_000), 46_041), "not_allowed");
    refused(&plane, from(Ipv4Addr::from(0x0a00_0000 + 2 * 5_000 + 1), 46_042), "not_allowed");
    let most = MOST_NETWORKS as u32;
    let second = list(1).replace("web", "other").replace("8080", "8081");
    let too_many = plane.desired(&(list(most) + &second), &[]);
    let error = plane.dataplane.apply(&too_many).expect_err("no room").to_string();
    assert!(error.contains("32769 IPv4 networks") && error.contains("takes 32768"), "{error}");
    let_in(&plane, from(Ipv4Addr::from(0x0a00_0000), 46_043));
    refused(&plane, from(STRANGER, 46_044), "not_allowed");
}

#[test]
fn proven_flows_count_and_no_others() {
    let mut plane = plane(&web("limit = { connections = 2 }"));
    // a flood of first packets
    for port in 46_100..46_200 {
        let syn = from(STRANGER, port).client_tcp(&Segment::flags(SYN));
        let ran = plane.programs.tc(plane.client, &frame(plane.client, &syn), 0).expect("TEST_RUN");
        assert_eq!(ran.verdict, Verdict::Redirect);
    }
    assert_eq!(counted(&plane, "web"), 0);
    let (mut udp, mut tcp) = (Conversation::usual(46_050), Conversation::usual(46_051));
    udp.prove(&plane, plane.client, plane.backend);
    let mut late = Conversation::usual(46_052);
    late.open(&plane, plane.client, &late.client_udp(b"hello"));
    let answer = late.backend_udp(b"yes?");
    row(&plane, "an answer", plane.backend, &answer, Sends(&late.to_client(&answer)), "web: out 1/32");
    tcp.establish(&plane, plane.client, plane.backend);
    assert_eq!(counted(&plane, "web"), 2);
    refused(&plane, Conversation::usual(46_053), "limit_connections");
    let more = late.client_udp(b"hello");
    row(&plane, "proven too late", plane.client, &more, Drop, "web: limit_connections 1");
    for (side, packet, sent) in [
        (plane.client, udp.client_udp(b"there"), udp.to_backend(&udp.client_udp(b"there"))),
        (plane.backend, udp.backend_udp(b"back!"), udp.to_client(&udp.backend_udp(b"back!"))),
    ] {
        let change = if side == plane.client { "web: in 1/33" } else { "web: out 1/33" };
        row(&plane, "who is in stays in", side, &packet, SendsFast(&sent), change);
    }
    finish(&plane, &tcp);
    assert_eq!(counted(&plane, "web"), 1);
    let change = "web: in 1/33; udp +2; unproven -2";
    row(&plane, "there is room now", plane.client, &more, Sends(&late.to_backend(&more)), change);
    assert_eq!(counted(&plane, "web"), 2);
    plane.apply(&web("limit = { connections = 3 }"), &[]);
    let_in(&plane, Conversation::usual(46_054));
    plane.apply(&web("limit = { connections = 1 }"), &[]);
    refused(&plane, Conversation::usual(46_055), "limit_connections");
}

/// FINs both ways, and the last acknowledgment.
#[track_caller]
fn finish(plane: &Plane, talk: &Conversation) {
    let (client, backend) = (CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1));
    for (side, packet) in [
        (plane.client, talk.client_tcp(&Segment::flags(FIN | ACK).at(client, backend))),
        (plane.backend, talk.backend_tcp(&Segment::flags(FIN | ACK).at(backend, client + 1))),
        (plane.client, talk.client_tcp(&Segment::flags(ACK).at(client + 1, backend.wrapping_add(1)))),
    ] {
        let ran = plane.programs.tc(side, &frame(side, &packet), 0).expect("TEST_RUN");
        assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
    }
}

/// However a flow ends, its place is free again.
#[test]
fn places_are_given_back() {
    let limits = "limit = { connections = 100, connections_per_ip = 100 }";
    let times = "timeout = { udp = \"5s\", tcp_idle = \"5s\" }";
    let rules = web(&format!("{limits}\n{times}"));
    let mut plane = plane(&rules);
    let prove = |plane: &Plane, first: u16| {
        for port in first..first + 5 {
            Conversation::usual(port).prove(plane, plane.client, plane.backend);
            Conversation::usual(port).establish(plane, plane.client, plane.backend);
        }
    };
    prove(&plane, 46_210);
    assert_eq!(counted(&plane, "web"), 10);
    plane.age(60);
    plane.sweep();
    assert_eq!((plane.sweep().deleted, counted(&plane, "web")), (10, 0), "swept");
    prove(&plane, 46_220);
    plane.apply(&format!("{rules}enabled = false\n"), &[]);
    plane.sweep();
    assert_eq!(counted(&plane, "web"), 0, "disabled");
    plane.apply(&rules, &[]);
    // a new connection of the same client takes over from one that was reset and is silent
    let mut again = Conversation::usual(46_230);
    again.establish(&plane, plane.client, plane.backend);
    let reset = again.backend_tcp(&Segment::flags(harness::packet::RST).at(BACKEND_ISN.wrapping_add(1), 0));
    row(&plane, "reset", plane.backend, &reset, Sends(&again.to_client(&reset)), "web: out 1/40");
    plane.age(4);
    again.establish(&plane, plane.client, plane.backend);
    assert_eq!(counted(&plane, "web"), 1);
}

#[test]
fn each_address_has_a_limit_of_its_own() {
    let mut plane = plane(&web("limit = { connections_per_ip = 2 }"));
    let one = |port| from(CLIENT, port);
    one(46_060).prove(&plane, plane.client, plane.backend);
    let mut tcp = one(46_061);
    tcp.establish(&plane, plane.client, plane.backend);
    refused(&plane, one(46_062), "limit_connections_per_ip");
    from(STRANGER, 46_063).prove(&plane, plane.client, plane.backend);
    finish(&plane, &tcp);
    one(46_064).prove(&plane, plane.client, plane.backend);
    refused(&plane, one(46_065), "limit_connections_per_ip");
    plane.apply(WEB, &[]);
    one(46_066).prove(&plane, plane.client, plane.backend);
    // only flows that came while there was a limit count for it
    plane.apply(&web("limit = { connections_per_ip = 3 }"), &[]);
    one(46_067).prove(&plane, plane.client, plane.backend);
    refused(&plane, one(46_068), "limit_connections_per_ip");
}

/// How many of so many first packets get through, and the most that the time they took allows at `rate`.
fn flood(plane: &Plane, side: Side, client: Ipv4Addr, first: u16, rate: u64) -> (u64, u64) {
    let packets = (first..first + 400).map(|port| from(client, port).client_udp(b"hello"));
    let frames: Vec<Vec<u8>> = packets.map(|packet| frame(side, &packet)).collect();
    let begin = Instant::now();
    let verdicts = frames.iter().map(|frame| plane.programs.tc(side, frame, 0).expect("TEST_RUN").verdict);
    let sent = verdicts.filter(|verdict| *verdict == Verdict::Redirect).count() as u64;
    (sent, rate + begin.elapsed().as_millis() as u64 * rate / 1000 + 1)
}

#[test]
fn new_flows_keep_a_pace() {
    let mut plane = plane(&web("limit = { new_flows = 10 }"));
    let (sent, most) = flood(&plane, plane.client, CLIENT, 47_000, 10);
    assert!((10..=most).contains(&sent), "{sent} of {most}");
    plane.apply(&web("limit = { new_flows_per_ip = 10 }"), &[]);
    for (client, first) in [(CLIENT, 47_500), (STRANGER, 48_000)] {
        let (sent, most) = flood(&plane, plane.client, client, first, 10);
        assert!((10..=most).contains(&sent), "{client}: {sent} of {most}");
    }
    plane.apply(WEB, &[]);
    assert_eq!(flood(&plane, plane.client, CLIENT, 48_500, 10).0, 400);
}
