//! What a packet costs with one rule, with ten thousand, with one range of sixty thousand ports.

use harness::lab::Attached;
use harness::packet::{ACK, Packet, SYN, Segment};
use harness::plane::{NEIGHBOUR_MAC, Plane, Side, Verdict};
use harness::world::{BACKEND, CLIENT, RELAY};

use crate::contender::{Contender, Kind, RULE};
use crate::figures::{Options, Series, table};
use crate::packets::measure;
use crate::scale::many_rules;

const RANGE: &str =
    "[[rule]]\nname = \"bench\"\nlisten = \":2000-61999\"\nto = \"203.0.113.2:2000\"\nforce = true\n";

fn sets() -> [(&'static str, String); 3] {
    [
        ("one rule", RULE.to_owned()),
        ("10,000 rules", format!("{}{RULE}", many_rules())),
        ("60,000 ports", RANGE.to_owned()),
    ]
}

/// Nanoseconds of the programs alone, by BPF_PROG_TEST_RUN.
pub fn programs(options: &Options) {
    compare(options, &sets(), &PATHS);
}

/// The same of rules by their names, the first of which is what the others are compared with.
pub fn compare(options: &Options, sets: &[(&str, String)], paths: &[(&str, &str)]) {
    for (protocol, path) in paths {
        let mut rows: Vec<(String, Series)> =
            sets.iter().map(|(name, _)| ((*name).to_owned(), Series::default())).collect();
        let mut planes: Vec<(Plane, Side, Vec<u8>)> =
            sets.iter().map(|(_, rules)| ready(rules, protocol)).collect();
        for _ in 0..options.rounds {
            for ((plane, side, frame), (_, series)) in planes.iter_mut().zip(&mut rows) {
                plane.enter();
                series.0.push(time(plane, path, protocol, *side, frame));
            }
        }
        table(&format!("{path} program, {protocol}"), "ns per packet", &rows, &[sets[0].0]);
    }
}

const PATHS: [(&str, &str); 5] = [
    ("UDP, live flow", "tc"),
    ("TCP, live flow", "tc"),
    ("TCP, not ours", "tc"),
    ("UDP, live flow", "xdp"),
    ("TCP, live flow", "xdp"),
];
/// Runs on one packet: each takes one of its TTL.
const RUNS: u32 = 200;
const PACKETS: usize = 2000;
/// Fewer for XDP, where the kernel waits for all CPUs after each.
const XDP_PACKETS: usize = 40;

fn ready(rules: &str, protocol: &str) -> (Plane, Side, Vec<u8>) {
    let mut plane = Plane::new(4096);
    plane.enter();
    plane.carry(rules);
    let (side, frame) = prepare(&mut plane, protocol);
    (plane, side, frame)
}

/// Opens and proves a flow, and lets its packets go round; returns a packet of it.
fn prepare(plane: &mut Plane, protocol: &str) -> (Side, Vec<u8>) {
    let (client, listener) = ((CLIENT, 40_000), (RELAY, 8080));
    let uplink = plane.uplink;
    let mut packet = match protocol {
        "UDP, live flow" => {
            let question = Packet::udp(client, listener, &[0x55; 18]);
            let source = sent(plane, uplink, &question);
            sent(plane, plane.backend, &Packet::udp(source.1, source.0, b"answer"));
            sent(plane, uplink, &question);
            question
        }
        "TCP, live flow" => {
            let segment = |flags, numbers: (u32, u32)| Segment::flags(flags).at(numbers.0, numbers.1);
            let source = sent(plane, uplink, &Packet::tcp(client, listener, &segment(SYN, (100, 0))));
            let answer = segment(SYN | ACK, (500, 101));
            sent(plane, plane.backend, &Packet::tcp(source.1, source.0, &answer));
            let ack = Packet::tcp(client, listener, &segment(ACK, (101, 501)));
            sent(plane, uplink, &ack);
            ack
        }
        _ => Packet::tcp(client, (BACKEND, 22), &Segment::flags(ACK).at(1, 1)),
    };
    plane.close_the_circle();
    (packet.ttl, packet.destination_mac) = (255, uplink.mac);
    (uplink, packet.frame())
}

/// Runs a packet through tc; returns the addresses that it left with.
fn sent(
    plane: &Plane,
    side: Side,
    packet: &Packet,
) -> ((std::net::Ipv4Addr, u16), (std::net::Ipv4Addr, u16)) {
    let frame = Packet { destination_mac: side.mac, ..packet.clone() }.frame();
    let ran = plane.programs.tc(side, &frame, 0).expect("TEST_RUN");
    assert_eq!(ran.verdict, Verdict::Redirect, "{packet:?}");
    let left = Packet::parse(&ran.frame).expect("packet");
    let ports = left.ports();
    ((left.source, ports.0), (left.destination, ports.1))
}

/// The mean of a run, over many packets.
fn time(plane: &mut Plane, path: &str, protocol: &str, side: Side, frame: &[u8]) -> f64 {
    let wanted = if protocol == "TCP, not ours" { Verdict::Pass } else { Verdict::Redirect };
    let mut series = Series::default();
    let mut frame = frame.to_vec();
    if path == "xdp" && wanted == Verdict::Redirect {
        // they go round with the address that XDP writes
        frame[..6].copy_from_slice(&NEIGHBOUR_MAC);
        plane.come_in_for(NEIGHBOUR_MAC);
    }
    for _ in 0..if path == "tc" { PACKETS } else { XDP_PACKETS } {
        let run = if path == "tc" {
            plane.programs.time_tc(side, &frame, RUNS)
        } else {
            plane.programs.time_xdp(side, &frame, RUNS)
        };
        let (verdict, nanoseconds) = run.expect("TEST_RUN");
        assert_eq!(verdict, wanted, "{path} {protocol}");
        series.0.push(f64::from(nanoseconds));
    }
    series.median()
}

/// Packets per second of real traffic.
pub fn run(options: &Options) {
    for kind in [Kind::RelayTc, Kind::RelayXdp] {
        let contenders: Vec<(Contender, Attached)> = sets()
            .iter()
            .map(|(_, rules)| {
                let contender = Contender::with_rules(kind, rules);
                let counter = Attached::xdp(&contender.world.backend, "backend", "lab_count");
                (contender, counter)
            })
            .collect();
        let mut rows: Vec<(String, Series)> =
            sets().iter().map(|(name, _)| ((*name).to_owned(), Series::default())).collect();
        for _ in 0..options.rounds {
            for ((contender, counter), (_, series)) in contenders.iter().zip(&mut rows) {
                series.0.push(measure(contender, counter, 1000) / 1e6);
            }
        }
        table(
            &format!("{}: 64-byte UDP, 1000 flows", kind.name()),
            "million packets/s",
            &rows,
            &["one rule"],
        );
        for (contender, _) in &contenders {
            contender.world.accept_checksum_errors();
        }
    }
}
