//! The same where IPv6 is on a leg or both: headers, chains of extension headers, errors with what they quote, fragments,
//! tagged frames. Of each kind there is a tenth of `RELAY_PACKETS`.

mod judge;
mod make;

use harness::plane::{Plane, Verdict};
use relay_common::counters::DropReason;

use self::judge::{judge, left};
use self::make::{Kind, Made, Maker};
use super::judge::Finding;
use super::make::Random;
use super::setting;
use crate::plane;

/// Packets between two looks at the counters.
const BURST: u32 = 64;
/// Packets after which everything starts over, with fresh flows.
const ROUND: u32 = 20_000;

const RULES: &str = "\
[[rule]]\nname = \"four\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\nforce = true\n\
[[rule]]\nname = \"six\"\nlisten = \":8081\"\nto = \"[2001:db8:2::2]:80\"\nforce = true\n\
[[rule]]\nname = \"narrow-four\"\nlisten = \":8082\"\nto = \"192.0.2.2:80\"\nforce = true\n\
[[rule]]\nname = \"narrow-six\"\nlisten = \":8083\"\nto = \"[2001:db8:3::2]:80\"\nforce = true\n";

#[test]
fn plain_headers() {
    whatever_comes_in(Kind::Plain);
}

#[test]
fn extension_headers() {
    whatever_comes_in(Kind::Extensions);
}

#[test]
fn errors_and_what_they_quote() {
    whatever_comes_in(Kind::Errors);
}

#[test]
fn fragments() {
    whatever_comes_in(Kind::Fragments);
}

#[test]
fn tagged_frames() {
    whatever_comes_in(Kind::Tagged);
}

fn whatever_comes_in(kind: Kind) {
    let mut plane = plane(RULES);
    let total = u32::try_from(setting("RELAY_PACKETS", 1_000_000)).expect("RELAY_PACKETS") / 10;
    let seed = setting("RELAY_PACKET_SEED", 0x5eed);
    let mut random = Random::new(seed ^ kind as u64);
    let mut seen = Seen::default();
    let mut done = 0;
    while done < total {
        plane.carry(RULES);
        let maker = Maker::new(&plane);
        for _ in 0..ROUND.min(total - done).div_ceil(BURST) {
            burst(&plane, &maker, kind, &mut random, &mut seen, seed);
        }
        done += ROUND;
    }
    seen.check(kind, total);
}

/// What has come of packets: a run in which something never does proves nothing about it.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    packets: u32,
    passed: u32,
    left: u32,
    dropped: u32,
    answered: u32,
    forwarded: u32,
    /// The kernel would not take them for test packets.
    refused: u32,
}

impl Seen {
    fn check(&self, kind: Kind, total: u32) {
        let enough = total / 1000;
        assert!(self.packets >= total && self.refused <= total / 20, "{self:?}");
        let (dropped, forwarded, left) = (self.dropped > enough, self.forwarded > enough, self.left > enough);
        let happened = match kind {
            Kind::Plain => forwarded && left && self.answered > 0,
            Kind::Extensions => dropped && forwarded && left,
            Kind::Errors | Kind::Fragments => dropped && forwarded,
            Kind::Tagged => self.passed + self.refused == self.packets,
        };
        assert!(happened && self.passed > enough, "{kind:?}: {self:?}");
    }
}

/// What the counters must say.
#[derive(Debug, Default, Eq, PartialEq)]
struct Counted {
    packets: u64,
    bytes: u64,
}

fn burst(plane: &Plane, maker: &Maker, kind: Kind, random: &mut Random, seen: &mut Seen, seed: u64) {
    let before = plane.totals();
    let (mut counted, mut refused) = (Counted::default(), 0);
    for _ in 0..BURST {
        let made = maker.make(kind, random);
        let finding = run(plane, &made).unwrap_or_else(|what| {
            panic!("RELAY_PACKET_SEED={seed}: {kind:?} {}: {what}\n{made:x?}", seen.packets)
        });
        seen.packets += 1;
        match finding {
            Finding::Passed => seen.passed += 1,
            Finding::Refused => seen.refused += 1,
            Finding::Left { packets, bytes } => {
                seen.left += 1;
                (counted.packets, counted.bytes) = (counted.packets + packets, counted.bytes + bytes);
            }
            Finding::Forwarded { packets, bytes } => {
                seen.forwarded += 1;
                (counted.packets, counted.bytes) = (counted.packets + packets, counted.bytes + bytes);
            }
            Finding::Dropped | Finding::Answered => {
                refused += 1;
                seen.dropped += u32::from(matches!(finding, Finding::Dropped));
                seen.answered += u32::from(matches!(finding, Finding::Answered));
            }
        }
    }
    let change = before.change(&plane.totals());
    let where_it_was = format!("RELAY_PACKET_SEED={seed}: {kind:?} up to {}: {change}", seen.packets);
    assert_eq!(Counted { packets: change.packets(), bytes: change.bytes() }, counted, "{where_it_was}");
    // a second reason says why there was no answer
    let second = change.drops(DropReason::IcmpLimited) + change.drops(DropReason::BadHeader);
    let reasons = change.all_drops();
    assert!(reasons >= refused && reasons - second <= refused, "{where_it_was}, {refused} refused");
    for never in [DropReason::NoRoute, DropReason::Unwritable, DropReason::DeviceGone, DropReason::UdpGso] {
        assert_eq!(change.drops(never), 0, "{where_it_was}");
    }
}

/// XDP leaves IPv6 to tc, as it came. Of tagged frames that holds for tc as well, at ingress and at egress.
fn run(plane: &Plane, made: &Made) -> Result<Finding, String> {
    let programs = &plane.programs;
    let untouched = |ran: std::io::Result<harness::plane::Ran>| match ran {
        Ok(ran) if ran.verdict == Verdict::Pass && ran.frame == made.frame => Ok(Finding::Passed),
        Ok(ran) => Err(format!("not passed as it came: {ran:x?}")),
        // no test packet may be shorter than its headers
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(Finding::Refused),
        Err(error) => Err(error.to_string()),
    };
    // of IPv4 there are flows that stay what they are, which XDP carries
    if made.frame.get(12..14) != Some(&[8, 0]) {
        untouched(programs.xdp(made.side, &made.frame))?;
    }
    if made.is_tagged {
        untouched(programs.egress(made.side, &made.frame, 0, 0))?;
        return untouched(programs.tc(made.side, &made.frame, 0));
    }
    let before = plane.totals();
    let ran = match programs.tc(made.side, &made.frame, 0) {
        Ok(ran) => ran,
        Err(error) => return untouched(Err(error)),
    };
    match judge(made, &ran)? {
        Finding::Passed => left(made, &before.change(&plane.totals())),
        finding => Ok(finding),
    }
}
