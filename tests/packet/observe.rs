//! What the programs tell while somebody watches: each flow that begins and is proven, each packet that is refused under its
//! reason, with its addresses as it came in; and nothing while nobody does.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::thread::sleep;
use std::time::Duration;

use harness::packet::{ACK, FIN, MORE_FRAGMENTS, Packet, SYN, Segment};
use harness::plane::{Plane, Side, Verdict};
use harness::world::{CLIENT, RELAY};
use relay_common::counters::DropReason;
use relay_common::net::{Port, ipv6_from_wire};
use relay_common::observe::{Ration, Seen, Sight};

use crate::conversation::{BACKEND_ISN, CLIENT_ISN, Conversation};
use crate::table::frame;
use crate::translate::talk::Pair;
use crate::{Held, WEB};

/// A rate that gives nothing back while a test runs, and what its bucket holds.
const SLOW: &str = "rate = { ingress = \"1kbps\", egress = \"1kbps\" }\n";
const BURST: usize = 256 * 1024;

/// The plane while somebody watches it.
struct Watched(Held);

impl Deref for Watched {
    type Target = Plane;

    fn deref(&self) -> &Plane {
        &self.0
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut Plane {
        &mut self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.dataplane.observe(false).expect("settings");
    }
}

/// Longer than a tick, in which the programs tell so much of what is alike.
const TICK: Duration = Duration::from_millis(1300);

fn watched(rules: &str) -> Watched {
    let mut plane = crate::plane(rules);
    plane.dataplane.observe(true).expect("settings");
    let _of_earlier_tests = (plane.seen(), plane.ended());
    Watched(plane)
}

/// The same with buckets that nobody has spent from.
fn limited(more: &str) -> Watched {
    let mut plane = watched(WEB);
    plane.apply(&format!("{WEB}{more}{SLOW}"), &[]);
    plane
}

/// `opened tcp CLIENT LISTENER BACKEND`, `REASON PROTOCOL SOURCE DESTINATION`
fn line(seen: &Seen) -> String {
    let end = |address: [u32; 4], port: Port| {
        SocketAddr::new(ipv6_from_wire(address).to_canonical(), port.number()).to_string()
    };
    let protocol = seen.protocol().map_or_else(|| seen.protocol.to_string(), |protocol| protocol.to_string());
    let ends = format!(
        "{protocol} {} {}",
        end(seen.source, seen.ports().source()),
        end(seen.destination, seen.ports().destination())
    );
    match Sight::from_number(seen.sight).expect("a sight") {
        Sight::Refused => {
            format!("{} {ends}", DropReason::from_number(seen.reason).expect("a reason").as_str())
        }
        sight => {
            format!("{} {ends} {}", sight.as_str(), end(seen.backend, seen.backend_ports().destination()))
        }
    }
}

/// What was told since the last call. All of it is the one rule's.
fn told(plane: &Plane) -> Vec<String> {
    let slots: Vec<u32> = plane.dataplane.slots().into_values().collect();
    let seen = plane.seen();
    assert!(seen.iter().all(|seen| slots == [seen.rule]), "{seen:?}");
    seen.iter().map(line).collect()
}

#[track_caller]
fn run(plane: &Plane, side: Side, packet: &Packet, verdict: Verdict) {
    let ran = plane.programs.tc(side, &frame(side, packet), 0).expect("TEST_RUN");
    assert_eq!(ran.verdict, verdict, "{packet:?}");
}

/// Sends until something is refused.
#[track_caller]
fn fill(what: &str, bytes: usize, run: impl Fn() -> Verdict) {
    let most = BURST / bytes + 2;
    assert!((0..most).any(|_| run() == Verdict::Drop), "{what}: nothing is refused");
}

/// Both sides end their streams.
fn close(plane: &Plane, talk: &Conversation) {
    let (first, answer) = (CLIENT_ISN + 1, BACKEND_ISN.wrapping_add(1));
    let segments = [
        (true, Segment::flags(FIN | ACK).at(first, answer)),
        (false, Segment::flags(FIN | ACK).at(answer, first + 1)),
        (true, Segment::flags(ACK).at(first + 1, answer.wrapping_add(1))),
    ];
    for (up, segment) in segments {
        let (side, packet) = if up {
            (plane.client, talk.client_tcp(&segment))
        } else {
            (plane.backend, talk.backend_tcp(&segment))
        };
        run(plane, side, &packet, Verdict::Redirect);
    }
}

#[test]
fn nothing_is_told_while_nobody_watches() {
    let plane = crate::plane(&format!("{WEB}accept = {{ allow = [\"198.51.100.0/24\"] }}\n"));
    let (before, _) = (plane.unseen(), (plane.seen(), plane.ended()));
    let mut talk = Conversation::usual(48_500);
    talk.establish(&plane, plane.client, plane.backend);
    close(&plane, &talk);
    let stranger = Conversation { client: (Ipv4Addr::new(192, 0, 2, 7), 48_501), ..talk };
    run(&plane, plane.client, &stranger.client_udp(b"hello"), Verdict::Drop);
    assert_eq!((told(&plane), plane.ended(), plane.unseen()), (Vec::new(), 0, before));
}

#[test]
fn a_flow_is_told_from_its_opening_to_its_end() {
    let plane = watched(WEB);
    let mut talk = Conversation::usual(48_510);
    talk.establish(&plane, plane.client, plane.backend);
    let ends = "tcp 198.51.100.2:48510 198.51.100.1:8080 203.0.113.2:80";
    assert_eq!(told(&plane), [format!("opened {ends}"), format!("proven {ends}")]);
    assert_eq!(plane.ended(), 0);
    close(&plane, &talk);
    assert_eq!((told(&plane), plane.ended()), (Vec::new(), 1));
    let mut talk = Conversation::usual(48_511);
    talk.prove(&plane, plane.client, plane.backend);
    let ends = "udp 198.51.100.2:48511 198.51.100.1:8080 203.0.113.2:80";
    assert_eq!(told(&plane), [format!("opened {ends}"), format!("proven {ends}")]);
    run(&plane, plane.client, &talk.client_udp(b"more"), Verdict::Redirect);
    assert_eq!(told(&plane), [""; 0], "the hot path tells nothing");
}

#[test]
fn addresses_of_ipv6_are_whole() {
    for pair in Pair::ALL {
        let plane = watched(&pair.rules());
        let mut talk = pair.talk(48_520);
        talk.establish(&plane, plane.backend);
        let ends = format!("tcp {} {} {}", talk.client, talk.listener, talk.backend);
        assert_eq!(told(&plane), [format!("opened {ends}"), format!("proven {ends}")], "{pair:?}");
    }
}

#[test]
fn refused_packets_are_told_as_they_came() {
    let mut plane = watched(&format!("{WEB}accept = {{ allow = [\"198.51.100.0/24\"] }}\n"));
    let stranger = Conversation { client: (Ipv4Addr::new(192, 0, 2, 7), 48_530), ..Conversation::usual(0) };
    run(&plane, plane.client, &stranger.client_udp(b"hello"), Verdict::Drop);
    run(&plane, plane.client, &stranger.client_tcp(&Segment::flags(SYN)), Verdict::Drop);
    let ends = "192.0.2.7:48530 198.51.100.1:8080";
    assert_eq!(told(&plane), [format!("not_allowed udp {ends}"), format!("not_allowed tcp {ends}")]);
    // those of a flow: a segment that proves nothing, and one that is answered with an error
    let mut talk = Conversation::usual(48_531);
    talk.open(&plane, plane.client, &talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)));
    run(&plane, plane.client, &talk.client_tcp(&Segment::flags(ACK).at(CLIENT_ISN + 1, 7)), Verdict::Drop);
    let old = Packet { ttl: 1, ..talk.client_tcp(&Segment::flags(SYN).at(CLIENT_ISN, 0)) };
    run(&plane, plane.client, &old, Verdict::Redirect);
    let ends = "tcp 198.51.100.2:48531 198.51.100.1:8080";
    assert_eq!(
        told(&plane),
        [
            format!("opened {ends} 203.0.113.2:80"),
            format!("not_proven {ends}"),
            format!("ttl_exceeded {ends}")
        ]
    );
    // fragments have no ports but the first one's, and errors have none
    let mut talk = Conversation::usual(48_532);
    let whole = talk.client_udp(&[3; 40]);
    let part = |from: usize, to: usize, fragment| Packet {
        body: whole.body[from..to].to_vec(),
        fragment,
        ..whole.clone()
    };
    let (first, second) = (part(0, 24, MORE_FRAGMENTS), Packet { ttl: 1, ..part(24, 48, 3) });
    let ran = plane.programs.tc(plane.client, &frame(plane.client, &first), 0).expect("TEST_RUN");
    talk.source.1 = Packet::parse(&ran.frame).expect("a packet").ports().0;
    let answer = talk.to_client(&talk.backend_udp(b"answer"));
    let error = Packet { ttl: 1, ..Packet::icmp_error(CLIENT, 3, 3, 0, &answer, 8) };
    plane.apply(WEB, &[]);
    let _opened = told(&plane);
    run(&plane, plane.client, &second, Verdict::Drop);
    run(&plane, plane.client, &error, Verdict::Drop);
    assert_eq!(
        told(&plane),
        [
            "ttl_exceeded udp 198.51.100.2:0 198.51.100.1:0".to_owned(),
            format!("ttl_exceeded 1 {CLIENT}:0 {RELAY}:0")
        ]
    );
}

/// What is refused on hot paths nobody has noted before.
#[test]
fn packets_beyond_a_rate_are_told_of_both_planes() {
    let plane = limited("");
    let mut talk = Conversation::usual(48_540);
    talk.prove(&plane, plane.client, plane.backend);
    let _opened = told(&plane);
    let (question, answer) = (talk.client_udp(&[1; 1372]), talk.backend_udp(&[2; 1372]));
    let tc = |side: Side, packet: &Packet| {
        plane.programs.tc(side, &frame(side, packet), 0).expect("TEST_RUN").verdict
    };
    fill("in", 1400, || tc(plane.client, &question));
    assert_eq!(told(&plane), ["rate udp 198.51.100.2:48540 198.51.100.1:8080"]);
    fill("out", 1400, || tc(plane.backend, &answer));
    let back = format!("rate udp 203.0.113.2:80 203.0.113.1:{}", talk.source.1);
    assert_eq!(told(&plane), [back]);
    drop(plane);

    let plane = limited("plane = \"user\"\n");
    let (client, listener) = ((CLIENT, 48_541), (RELAY, 8080));
    let (question, answer) =
        (Packet::udp(client, listener, &[1; 972]), Packet::udp(listener, client, &[2; 972]));
    let tc =
        || plane.programs.tc(plane.client, &frame(plane.client, &question), 0).expect("TEST_RUN").verdict;
    fill("in", 1000, tc);
    assert_eq!(told(&plane), ["rate udp 198.51.100.2:48541 198.51.100.1:8080"]);
    fill("out", 1000, || plane.egress(plane.client, &frame(plane.client, &answer)).0.verdict);
    assert_eq!(told(&plane), ["rate udp 198.51.100.1:8080 198.51.100.2:48541"]);
}

#[test]
fn translated_packets_beyond_a_rate_are_told_too() {
    for pair in Pair::ALL {
        let mut plane = watched(&pair.rules());
        plane.apply(&format!("{}{SLOW}", pair.rules()), &[]);
        let mut talk = pair.talk(48_550);
        talk.prove(&plane, plane.backend);
        let _opened = told(&plane);
        for (side, packet, ends) in [
            (plane.client, talk.client_udp(&[1; 1200]), (talk.client, talk.listener)),
            (plane.backend, talk.backend_udp(&[1; 1200]), (talk.backend, talk.source)),
        ] {
            let frame = packet.frame(side.mac);
            let tc = || plane.programs.tc(side, &frame, 0).expect("TEST_RUN").verdict;
            fill(&format!("{pair:?}"), 1200, tc);
            assert_eq!(told(&plane), [format!("rate udp {} {}", ends.0, ends.1)], "{pair:?}");
        }
    }
}

/// Of what is alike a tick has so much; other rules and reasons have their own.
#[test]
fn a_flood_is_a_sample_and_the_rest_is_counted() {
    let plane = watched(&format!("{WEB}accept = {{ allow = [\"198.51.100.0/24\"] }}\n"));
    let before = plane.unseen();
    let stranger = Conversation { client: (Ipv4Addr::new(192, 0, 2, 7), 48_560), ..Conversation::usual(0) };
    let refused = frame(plane.client, &stranger.client_udp(b"hello"));
    let most = u64::from(Ration::PACKETS);
    for _ in 0..most * 10 {
        plane.programs.tc(plane.client, &refused, 0).expect("TEST_RUN");
    }
    let mut talk = Conversation::usual(48_561);
    talk.prove(&plane, plane.client, plane.backend);
    let lines = told(&plane);
    let of_flood = lines.iter().filter(|line| line.starts_with("not_allowed")).count() as u64;
    // a run is over in a tick or two, unless others take the processor
    assert!((most..most * 9).contains(&of_flood), "{of_flood}");
    let lost = plane.unseen();
    assert_eq!([lost[0] - before[0], lost[1] - before[1]], [0, most * 10 - of_flood]);
    assert!(lines.iter().any(|line| line.starts_with("opened udp 198.51.100.2:48561")), "{lines:?}");
    sleep(TICK);
    plane.programs.tc(plane.client, &refused, 0).expect("TEST_RUN");
    assert_eq!(told(&plane), ["not_allowed udp 192.0.2.7:48560 198.51.100.1:8080"]);
}
