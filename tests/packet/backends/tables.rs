//! Tables that come and go while flows go on: swaps, applies, restarts, and what there is no room for.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use relay::kernel::KernelError;
use relay::rule::RuleName;

use super::*;
use crate::table::Gives::{Drop, Pass, SendsFast};
use crate::table::row;

#[test]
fn nobody_is_chosen_where_nobody_is() {
    let (mut plane, mut desired) = plane(Balance::RoundRobin, &[1, 1]);
    let hello = Conversation::usual(28_000).client_udp(b"hello");
    swap(&mut plane, &mut desired, &[1, 1], &[0, 0]);
    row(&plane, "no backend", plane.client, &hello, Drop, "web: no_backend 1");
    assert!(first(&plane, (client(6), 28_001), Protocol::Tcp).is_some(), "TCP has some");
    swap(&mut plane, &mut desired, &[0, 0], &[0, 1]);
    let syn = Conversation::usual(28_002).client_tcp(&Segment::flags(SYN));
    row(&plane, "the stack resets it", plane.client, &syn, Pass, "web: in 1/40, no_backend 1");
    assert_eq!(first(&plane, (client(6), 28_002), Protocol::Udp), Some(1));
}

#[test]
fn flows_stay_when_tables_change() {
    for balance in Balance::ALL {
        let (mut plane, mut desired) = plane(balance, &[1, 0, 0]);
        let mut talk = with(0, 28_100);
        talk.prove(&plane, plane.client, plane.backend);
        for (round, weights) in (0..).zip([[0, 1, 1], [0, 0, 1], [0, 2, 1], [0, 0, 0]]) {
            swap(&mut plane, &mut desired, &weights, &weights);
            let there = talk.client_udp(b"there");
            row(
                &plane,
                "it goes on",
                plane.client,
                &there,
                SendsFast(&talk.to_backend(&there)),
                "web: in 1/33",
            );
            for port in 0..20 {
                let chosen = first(&plane, (client(7), 28_101 + round * 20 + port), Protocol::Tcp);
                assert!(chosen.is_none_or(|chosen| weights[usize::from(chosen)] > 0), "{weights:?}");
            }
        }
    }
}

/// What a swap has changed is what the next apply begins from.
#[test]
fn swaps_and_applies_agree() {
    let (mut plane, mut desired) = plane(Balance::RoundRobin, &[1, 1, 1]);
    swap(&mut plane, &mut desired, &[0, 1, 0], &[0, 1, 0]);
    plane.take(&desired);
    assert_eq!(first(&plane, (client(8), 28_200), Protocol::Tcp), Some(1));
    let before = super::desired(&plane, Balance::RoundRobin, &[0, 0, 1]);
    plane.take(&before);
    assert_eq!(first(&plane, (client(8), 28_201), Protocol::Tcp), Some(2));
}

fn many(count: usize) -> String {
    let mut rules = String::new();
    for index in 0..count {
        writeln!(
            rules,
            "[[rule]]\nname = \"r{index}\"\nlisten = \":{}\"\nto = \"203.0.113.2:80\"\nforce = true",
            10_000 + index
        )
        .expect("a text");
    }
    rules
}

/// 257 tables of 4,093 places are one too many, and one that goes makes room.
#[test]
fn what_there_is_no_room_for() {
    let mut plane = crate::plane("");
    let of = |plane: &Plane, count| {
        plane.desired_with(&many(count), |rule| spread(rule, Balance::IpHash, &[1; 6]))
    };
    let fitting = of(&plane, 256);
    plane.take(&fitting);
    assert_eq!(plane.dataplane.shortage().tables, 0);
    let full = of(&plane, 257);
    plane.take(&full);
    assert_eq!(plane.dataplane.shortage().tables, 1);
    assert!(plane.dataplane.shortage().tables().any(|(table, _)| table == "PLACES"));
    let at = |plane: &Plane, port: u16| {
        let packet = Packet::udp((client(9), 28_300), (RELAY, port), b"hello");
        index(&plane.programs.tc(plane.client, &frame(plane.client, &packet), 0).expect("TEST_RUN"))
    };
    assert!(at(&plane, 10_255).is_some() && at(&plane, 10_256).is_none());
    let mut fewer = full;
    fewer.rules.remove(7);
    plane.take(&fewer);
    assert_eq!(plane.dataplane.shortage().tables, 0);
    assert!(at(&plane, 10_256).is_some());
}

/// Then a table is written over the one that there is, and a longer one waits until there is room.
#[test]
fn swaps_where_there_is_no_room() {
    let mut plane = crate::plane("");
    // what the plane's last rules gave back rests for a moment, and lies across until then
    thread::sleep(Duration::from_millis(150));
    let mut desired = plane.desired_with(&many(257), |rule| match rule.name.as_str() {
        // most of what 256 tables of 4,093 leave
        "r256" => spread(rule, Balance::RoundRobin, &[155, 156, 157]),
        _ => spread(rule, Balance::IpHash, &[1; 6]),
    });
    plane.take(&desired);
    let mut swap = |plane: &mut Plane, index: usize, tcp: &[u16], udp: &[u16]| {
        let rule = Arc::make_mut(&mut desired.rules[index]);
        rule.weights = Arc::new(Weights { tcp: tcp.into(), udp: udp.into(), ..Weights::default() });
        let applied = plane.dataplane.swap(index, &desired.rules[index]).expect("swap");
        applied.is_short
    };
    let mut port = 28_500;
    let mut gets_some = |plane: &Plane, rule: u16, protocol: Protocol| {
        let to = (RELAY, 10_000 + rule);
        port += 1;
        (0..60).any(|number| {
            let packet = match protocol {
                Protocol::Tcp => Packet::tcp((client(number), port), to, &Segment::flags(SYN)),
                Protocol::Udp => Packet::udp((client(number), port), to, b"hello"),
            };
            index(&plane.programs.tc(plane.client, &frame(plane.client, &packet), 0).expect("TEST_RUN"))
                == Some(0)
        })
    };
    let one_down = [0, 1, 1, 1, 1, 1];
    assert!(gets_some(&plane, 3, Protocol::Tcp));
    assert!(!swap(&mut plane, 3, &one_down, &one_down), "of the same length");
    assert!(!Protocol::ALL.into_iter().any(|protocol| gets_some(&plane, 3, protocol)));
    assert!(!swap(&mut plane, 256, &[0, 1, 1], &[0, 1, 1]), "shorter");
    assert!(!gets_some(&plane, 256, Protocol::Udp));
    assert!(!swap(&mut plane, 256, &[300, 1, 1], &[300, 1, 1]), "what was left over of it is free");
    assert!(gets_some(&plane, 256, Protocol::Udp));
    assert!(swap(&mut plane, 4, &one_down, &[1; 6]), "UDP needs the old one");
    assert!(gets_some(&plane, 4, Protocol::Tcp) && gets_some(&plane, 4, Protocol::Udp));
    assert!(!plane.dataplane.choose_again().expect("the maps"));
    swap(&mut plane, 5, &[1, 0, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 0]);
    assert!(plane.dataplane.choose_again().expect("the maps"));
    assert_eq!(plane.dataplane.shortage().tables, 0);
    assert!(!gets_some(&plane, 4, Protocol::Tcp) && gets_some(&plane, 4, Protocol::Udp));
}

/// Switching one rule of very many takes no longer than of one.
#[test]
fn one_of_many_is_swapped_at_once() {
    let mut plane = crate::plane("");
    let mut desired = plane.desired_with(&many(10_000), |rule| {
        let balance = if rule.name.as_str() == "r777" { Balance::IpHash } else { Balance::RoundRobin };
        spread(rule, balance, &[1, 1]);
    });
    plane.take(&desired);
    for index in [777, 778] {
        let mut quickest = Duration::MAX;
        for weights in [[1, 0], [1, 3], [2, 3], [3, 1], [1, 1]] {
            let rule = Arc::make_mut(&mut desired.rules[index]);
            rule.weights =
                Arc::new(Weights { tcp: weights.into(), udp: weights.into(), ..Weights::default() });
            let begin = Instant::now();
            plane.dataplane.swap(index, &desired.rules[index]).expect("swap");
            quickest = quickest.min(begin.elapsed());
        }
        assert!(quickest < Duration::from_millis(5), "{quickest:?}");
    }
}

/// Then all endpoints are new, and the old ones are there until flows have others.
#[test]
fn the_host_gets_another_address() {
    let mut plane = crate::plane("");
    let mut desired = plane.desired_with(&many(10_000), |rule| spread(rule, Balance::RoundRobin, &[1, 1]));
    plane.take(&desired);
    for rule in &mut desired.rules {
        let carried = Arc::make_mut(rule).carried.as_mut().expect("a carried rule");
        for path in carried.paths.iter_mut().flatten() {
            path.source = Ipv4Addr::new(203, 0, 113, 99).into();
        }
    }
    plane.take(&desired);
}

/// A relayd that comes after another one finds endpoints and places again: flows and counts go on, and nobody's places are
/// given to somebody else.
#[test]
fn after_a_restart() {
    let rules = many(3);
    let change = |rule: &mut Rule| spread(rule, Balance::IpHash, &[1, 1, 1]);
    let earlier_rules = rules.clone();
    let mut plane = Plane::after(crate::ROOM, move |dataplane, relay| {
        let claims = relay::host::ClaimRange::default();
        let desired = harness::plane::desired(relay, claims, (&earlier_rules, &[]), change);
        dataplane.apply(&desired).expect("apply");
        let usage = dataplane.backend_usage(&desired.rules[1]).expect("a rule");
        usage.of(2).expect("an endpoint").opened(Protocol::Udp).add(77);
    });
    plane.enter();
    let at = |plane: &Plane, port: u16| -> Vec<Option<u8>> {
        let packets = (0..60).map(|number| Packet::udp((client(number), 28_400), (RELAY, port), b"hello"));
        let frames = packets.map(|packet| frame(plane.client, &packet));
        frames.map(|frame| index(&plane.programs.tc(plane.client, &frame, 0).expect("TEST_RUN"))).collect()
    };
    // before the first apply, too
    let before: Vec<_> = (10_000..10_003).map(|port| at(&plane, port)).collect();
    let more = plane.desired_with(&many(5), change);
    plane.take(&more);
    let after: Vec<_> = (10_000..10_003).map(|port| at(&plane, port)).collect();
    assert_eq!(before, after);
    assert!(before.iter().flatten().all(Option::is_some));
    assert!(at(&plane, 10_004).iter().all(Option::is_some));
    let opened = known(&plane, &more.rules[1], 2).1[1];
    let chosen = before[1].iter().filter(|chosen| **chosen == Some(2)).count();
    assert_eq!(opened, 77 + u64::try_from(chosen).expect("few"));
    let name = RuleName::parse("r1").expect("a name");
    assert!(plane.dataplane.usage(&name).is_some());
}

#[test]
fn no_room_for_one_more_is_said() {
    let error = KernelError::TooManyPlaces { most: 1 << 20 }.to_string();
    assert!(["roundrobin", "iphash", "leastconn"].iter().all(|balance| error.contains(balance)), "{error}");
}
