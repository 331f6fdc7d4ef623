//! Random and mutated packets: whatever comes in, nothing leaves that should not, and all of it is counted.
//!
//! `RELAY_PACKETS` says how many (a million), `RELAY_PACKET_SEED` where to begin. A failure names its seed; the same
//! seed makes the same packets.

mod judge;
mod make;
mod v6;

use std::ops::RangeInclusive;

use harness::plane::{BACKEND_NARROW, Plane, RELAY_NARROW, RELAY_SECOND, Table, Verdict};
use harness::world::RELAY;
use relay_common::counters::DropReason;
use relay_common::flow::FlowFlags;

use self::judge::{Finding, Judge};
use self::make::{Made, Maker, Random};
use crate::conversation::Conversation;
use crate::plane;

/// Packets between two looks at the counters.
const BURST: u32 = 64;
/// Packets after which everything starts over, with fresh flows.
const ROUND: u32 = 50_000;

const RULES: &str = "\
[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nforce = true\n\
[[rule]]\nname = \"range\"\nlisten = \":10000-19000\"\nto = \"203.0.113.2:20000\"\nforce = true\n\
[[rule]]\nname = \"narrow\"\nlisten = \":9000\"\nto = \"192.0.2.2:90\"\nforce = true\n\
[[rule]]\nname = \"one\"\nlisten = \"198.51.100.9:7000\"\nto = \"203.0.113.2:70\"\nforce = true\n\
[[rule]]\nname = \"ending\"\nlisten = \":6000\"\nto = \"203.0.113.2:60\"\nforce = true\n";

/// The ports of the rules.
const LISTENED: [RangeInclusive<u16>; 5] =
    [8080..=8080, 10_000..=19_000, 9000..=9000, 7000..=7000, 6000..=6000];

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => default,
    }
}

#[test]
fn whatever_comes_in() {
    let mut plane = plane(RULES);
    let total = u32::try_from(setting("RELAY_PACKETS", 1_000_000)).expect("RELAY_PACKETS");
    let seed = setting("RELAY_PACKET_SEED", 0x5eed);
    let mut random = Random::new(seed);
    let mut seen = Seen::default();
    let mut done = 0;
    while done < total {
        let maker = start_over(&mut plane);
        let round = ROUND.min(total - done);
        for _ in 0..round.div_ceil(BURST) {
            burst(&plane, &maker, &mut random, &mut seen, seed);
        }
        halves_agree(&plane, seed);
        done += round;
    }
    seen.check(total);
}

/// What kinds of things have happened: a run in which one never does proves nothing about it.
#[derive(Debug, Default)]
struct Seen {
    tc: u32,
    xdp: u32,
    passed: u32,
    left: u32,
    dropped: u32,
    answered: u32,
    forwarded: u32,
    forwarded_by_xdp: u32,
    icmp: u32,
    fragments: u32,
    super_packets: u32,
    /// Shorter than the kernel lets a test packet be.
    refused: u32,
}

impl Seen {
    fn check(&self, total: u32) {
        let enough = total / 1000;
        assert!(self.tc + self.xdp >= total, "{self:?}");
        assert!(self.refused <= total / 20, "{self:?}");
        for (what, count) in [
            ("passed", self.passed),
            ("left to the user plane", self.left),
            ("dropped", self.dropped),
            ("forwarded", self.forwarded),
            ("forwarded by XDP", self.forwarded_by_xdp),
            ("ICMP", self.icmp),
            ("fragments", self.fragments),
            ("super-packets", self.super_packets),
        ] {
            assert!(count > enough, "too few {what}: {self:?}");
        }
        assert!(self.answered > 0, "{self:?}");
    }
}

/// Fresh flows of every kind, with one rule draining.
fn start_over(plane: &mut Plane) -> Maker {
    plane.carry(RULES);
    let mut talks = Vec::new();
    for index in 0..4u16 {
        let usual = Conversation::usual(50_000 + index);
        let backend = |port| (usual.backend.0, port);
        talks.extend([
            usual,
            Conversation { listener: (RELAY, 10_000 + index), backend: backend(20_000 + index), ..usual },
            Conversation { listener: (RELAY_SECOND, 7000), backend: backend(70), ..usual },
            Conversation { listener: (RELAY, 6000), backend: backend(60), ..usual },
            Conversation {
                listener: (RELAY, 9000),
                source: (RELAY_NARROW, 0),
                backend: (BACKEND_NARROW, 90),
                ..usual
            },
        ]);
    }
    let (mut udp, mut tcp) = (talks.clone(), talks);
    for (index, talk) in udp.iter_mut().enumerate() {
        let backend = if talk.source.0 == RELAY_NARROW { plane.narrow } else { plane.backend };
        match index % 3 {
            0 => talk.open(plane, plane.client, &talk.client_udp(b"unanswered")),
            _ => talk.prove(plane, plane.client, backend),
        }
    }
    for talk in &mut tcp {
        let backend = if talk.source.0 == RELAY_NARROW { plane.narrow } else { plane.backend };
        talk.establish(plane, plane.client, backend);
    }
    plane.apply(RULES, &["ending"]);
    Maker { udp, tcp, client: plane.client, backend: plane.backend, narrow: plane.narrow }
}

fn burst(plane: &Plane, maker: &Maker, random: &mut Random, seen: &mut Seen, seed: u64) {
    let judge = Judge::new(plane);
    let before = plane.totals();
    let mut tally = Tally::default();
    for _ in 0..BURST {
        let made = maker.make(random);
        let by_xdp = random.one_in(2);
        let finding = if by_xdp { run_xdp(plane, &judge, &made) } else { run_tc(plane, &judge, &made) };
        let findings = finding.unwrap_or_else(|what| {
            let hook = if by_xdp { "XDP" } else { "tc" };
            panic!("RELAY_PACKET_SEED={seed}: packet {} by {hook}: {what}\n{made:x?}", seen.tc + seen.xdp);
        });
        seen.take(&made, by_xdp, &findings);
        findings.into_iter().for_each(|finding| tally.take(&finding));
    }
    let change = before.change(&plane.totals());
    let follow_up = change.drops(DropReason::IcmpLimited) + change.drops(DropReason::BadHeader);
    let counted =
        Tally { packets: change.packets(), bytes: change.bytes(), refused: change.all_drops() - follow_up };
    assert_eq!(counted, tally, "RELAY_PACKET_SEED={seed}: up to packet {}: {change}", seen.tc + seen.xdp);
    for never in [DropReason::NoRoute, DropReason::Unwritable, DropReason::DeviceGone] {
        assert_eq!(change.drops(never), 0, "RELAY_PACKET_SEED={seed}: {change}");
    }
}

/// What the counters must say.
#[derive(Debug, Default, Eq, PartialEq)]
struct Tally {
    packets: u64,
    bytes: u64,
    /// Dropped or answered, each under one reason. A second reason says why there was no answer.
    refused: u64,
}

impl Tally {
    fn take(&mut self, finding: &Finding) {
        match finding {
            Finding::Forwarded { packets, bytes } | Finding::Left { packets, bytes } => {
                self.packets += packets;
                self.bytes += bytes;
            }
            Finding::Answered | Finding::Dropped => self.refused += 1,
            Finding::Passed | Finding::Refused => {}
        }
    }
}

impl Seen {
    fn take(&mut self, made: &Made, by_xdp: bool, findings: &[Finding]) {
        if by_xdp {
            self.xdp += 1;
        } else {
            self.tc += 1;
        }
        self.super_packets += u32::from(made.segment != 0 && !by_xdp);
        match findings.first() {
            Some(Finding::Passed) => self.passed += 1,
            Some(Finding::Left { .. }) => self.left += 1,
            Some(Finding::Dropped) => self.dropped += 1,
            Some(Finding::Answered) => self.answered += 1,
            Some(Finding::Refused) | None => self.refused += 1,
            Some(Finding::Forwarded { .. }) => {
                self.forwarded += 1;
                self.forwarded_by_xdp += u32::from(by_xdp);
                self.icmp += u32::from(made.frame.get(23) == Some(&1));
                self.fragments += u32::from(made.frame.get(20..22).is_some_and(|b| b[0] & 0x3f | b[1] != 0));
            }
        }
    }
}

fn run_tc(plane: &Plane, judge: &Judge, made: &Made) -> Result<Vec<Finding>, String> {
    match plane.programs.tc(made.side, &made.frame, made.segment) {
        Ok(ran) => match judge.tc(made, &ran)? {
            Finding::Passed => passed(plane, made),
            finding => Ok(vec![finding]),
        },
        Err(error) => refused(&error),
    }
}

/// A packet that passes changes nothing, so it passes again, and shows whether it is counted as the user plane's.
fn passed(plane: &Plane, made: &Made) -> Result<Vec<Finding>, String> {
    if !judge::may_be_left(made) {
        return Ok(vec![Finding::Passed]);
    }
    let before = plane.totals();
    let ran = plane.programs.tc(made.side, &made.frame, made.segment).map_err(|error| error.to_string())?;
    let change = before.change(&plane.totals());
    if ran.verdict != Verdict::Pass {
        return Err(format!("it passed, and does not any more: {ran:?}"));
    }
    if change.is_empty() {
        return Ok(vec![Finding::Passed, Finding::Passed]);
    }
    let (packets, bytes) = judge::left(made)?;
    if change.all_drops() != 0 || (change.packets(), change.bytes()) != (packets, bytes) {
        return Err(format!("it passes and is counted as {change}"));
    }
    Ok(vec![Finding::Left { packets, bytes }, Finding::Left { packets, bytes }])
}

/// What XDP sends, tc must send alike.
fn run_xdp(plane: &Plane, judge: &Judge, made: &Made) -> Result<Vec<Finding>, String> {
    let ran = match plane.programs.xdp(made.side, &made.frame) {
        Ok(ran) => ran,
        Err(error) => return refused(&error),
    };
    let first = judge.xdp(made, &ran)?;
    if ran.verdict != Verdict::Redirect {
        return Ok(vec![first]);
    }
    let mut plain = Made { segment: 0, ..made.clone() };
    // tc also knows whether the driver took the frame for another host's
    plain.frame[..6].copy_from_slice(&made.side.mac);
    let by_tc = plane.programs.tc(plain.side, &plain.frame, 0).map_err(|error| error.to_string())?;
    let second = judge.tc(&plain, &by_tc)?;
    if made.frame[0] & 1 != 0 || by_tc.verdict != Verdict::Redirect || by_tc.frame[12..] != ran.frame[12..] {
        return Err(format!("XDP sends {:x?}\ntc does {by_tc:x?}", ran.frame));
    }
    Ok(vec![first, second])
}

/// The kernel takes no test packet that is shorter than its headers.
fn refused(error: &std::io::Error) -> Result<Vec<Finding>, String> {
    if error.kind() == std::io::ErrorKind::InvalidInput {
        return Ok(vec![Finding::Refused]);
    }
    Err(error.to_string())
}

/// Every established half has its other half, in the same table, and they point at each other.
fn halves_agree(plane: &Plane, seed: u64) {
    let all: std::collections::HashMap<_, _> =
        plane.flows().map(|(table, key, half)| (key, (table, half))).collect();
    for (key, (table, half)) in &all {
        let protocol = key.protocol().expect("a protocol");
        let claimed = if half.flags().has(FlowFlags::EGRESS) {
            key.ports().destination()
        } else {
            half.translation().ports.source()
        };
        assert!((1024..=32_767).contains(&claimed.number()), "RELAY_PACKET_SEED={seed}: {key:?} {half:?}");
        if *table == Table::Unproven {
            continue;
        }
        let other = all.get(&half.opposite(protocol));
        let back =
            other.filter(|(other_table, _)| other_table == table).map(|(_, other)| other.opposite(protocol));
        assert_eq!(back, Some(*key), "RELAY_PACKET_SEED={seed}: {half:?} and {other:?}");
    }
}
