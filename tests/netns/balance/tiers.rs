//! Priorities: who gets flows while better ones are down, and when those get them back.

use harness::farm::{Farm, name};
use harness::{Daemon, World, within};

use super::{LIMIT, QUICK, await_all, await_only, await_up, on_both_planes, planes, to, to_with, visits};

const PORTS: [u16; 2] = [8001, 9001];

#[test]
fn better_ones_get_their_flows_back_at_once_by_hand_or_after_a_while() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 3);
    let tiers = to_with(&[(0, "priority = 1"), (1, "priority = 1"), (2, "priority = 2")]);
    let check = |failback| format!("check = {{ {QUICK}, cooldown = \"0s\", failback = \"{failback}\" }}");
    let config = [
        on_both_planes("auto", 8001, &tiers, &check("auto")),
        on_both_planes("manual", 8002, &tiers, &check("manual")),
        on_both_planes("later", 8003, &tiers, &check("3s")),
        on_both_planes("held", 8004, &tiers, &check("1h")),
    ];
    let mut daemon = world.start(&config.concat());
    let ctl = &daemon.ctl.clone();
    let rules = |name: &str, port: u16| planes(name).into_iter().zip([port, port + 1000]);
    let held = || rules("manual", 8002).chain(rules("held", 8004));
    let all = || rules("auto", 8001).chain(rules("later", 8003)).chain(held());
    for (rule, port) in all() {
        await_up(ctl, &rule, 3);
        assert_eq!(visits(&world, port, 4), [0, 1], "{rule}");
    }
    farm.refuse(0);
    for (rule, port) in all() {
        await_only(ctl, &rule, "tcp", &[1]);
        assert_eq!(visits(&world, port, 4), [1], "{rule}: the rest of the tier is enough");
    }
    farm.refuse(1);
    for (rule, port) in all() {
        await_only(ctl, &rule, "tcp", &[2]);
        assert_eq!(visits(&world, port, 4), [2], "{rule}");
        let [second, third] = [1, 2].map(name);
        await_told(
            &mut daemon,
            &format!("rule {rule}: new flows of tcp go from {second} to {third}: {second} is down"),
        );
    }
    farm.serve(0);
    farm.serve(1);
    for (rule, port) in rules("auto", 8001) {
        await_all(ctl, &rule);
        await_told(&mut daemon, &format!("rule {rule}: new flows of tcp go from {} to ", name(2)));
        assert_eq!(visits(&world, port, 4), [0, 1], "{rule}");
    }
    for (rule, port) in held() {
        await_up(ctl, &rule, 2);
        assert_eq!(visits(&world, port, 4), [2], "{rule}");
    }
    for (rule, port) in rules("later", 8003) {
        await_all(ctl, &rule);
        assert_eq!(visits(&world, port, 4), [0, 1], "{rule}");
    }
    for (rule, port) in rules("manual", 8002) {
        ctl.ok(&["backend", &rule, &name(0), "--up"]);
        await_all(ctl, &rule);
        assert_eq!(visits(&world, port, 4), [0, 1], "{rule}");
    }
    // who has them fails: that is no time to wait
    farm.refuse(2);
    for (rule, port) in rules("held", 8004) {
        await_all(ctl, &rule);
        assert_eq!(visits(&world, port, 4), [0, 1], "{rule}");
    }
}

/// The event's text is the log's.
fn await_told(daemon: &mut Daemon, text: &str) {
    within(LIMIT, text, &mut || daemon.log().contains(text));
}

#[test]
fn the_first_that_is_up_gets_all() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 3);
    let more = format!("balance = \"first\"\ncheck = {{ {QUICK}, cooldown = \"0s\" }}");
    let daemon = world.start(&on_both_planes("web", 8001, &to(&[0, 1, 2]), &more));
    let rules = planes("web");
    for rule in &rules {
        await_up(&daemon.ctl, rule, 3);
    }
    let all_to = |host: usize| {
        for (rule, port) in rules.iter().zip(PORTS) {
            assert_eq!(visits(&world, port, 4), [host], "{rule}");
        }
    };
    all_to(0);
    for (gone, next) in [(0, 1), (1, 2)] {
        farm.refuse(gone);
        rules.iter().for_each(|rule| await_only(&daemon.ctl, rule, "tcp", &[next]));
        all_to(next);
    }
    for back in [1, 0] {
        farm.serve(back);
        for rule in &rules {
            if back == 0 { await_all(&daemon.ctl, rule) } else { await_only(&daemon.ctl, rule, "tcp", &[1]) }
        }
        all_to(back);
    }
}
