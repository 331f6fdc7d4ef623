//! Priorities: who gets flows while better ones are down, and when those get them back.

use harness::World;
use harness::farm::{Farm, name};

use super::{
    LIMIT, QUICK, await_all, await_only, await_state, await_up, on_both_planes, planes, to, to_with, visits,
};

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
    ];
    let daemon = world.start(&config.concat());
    let ctl = &daemon.ctl;
    let rules = |name: &str, port: u16| planes(name).into_iter().zip([port, port + 1000]);
    let all = || rules("auto", 8001).chain(rules("manual", 8002)).chain(rules("later", 8003));
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
    }
    farm.serve(0);
    farm.serve(1);
    for (rule, port) in rules("auto", 8001) {
        await_all(ctl, &rule);
        assert_eq!(visits(&world, port, 4), [0, 1], "{rule}");
    }
    for (rule, port) in rules("later", 8003).chain(rules("manual", 8002)) {
        await_up(ctl, &rule, 2);
        // which of them is up a moment sooner is up to the probes
        if rule.starts_with("later") {
            await_all(ctl, &rule);
            assert_eq!(visits(&world, port, 4), [0, 1], "{rule}");
        } else {
            assert_eq!(visits(&world, port, 4), [2], "{rule}");
        }
    }
    for (rule, port) in rules("manual", 8002) {
        ctl.ok(&["backend", &rule, &name(0), "--up"]);
        await_all(ctl, &rule);
        assert_eq!(visits(&world, port, 4), [0, 1], "{rule}");
    }
}

#[test]
fn the_delay_of_a_failback_is_kept() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let tiers = to_with(&[(0, "priority = 1"), (1, "priority = 2")]);
    let check = format!("check = {{ {QUICK}, cooldown = \"0s\", failback = \"1h\" }}");
    let daemon = world.start(&on_both_planes("web", 8001, &tiers, &check));
    let rules = planes("web");
    rules.iter().for_each(|rule| await_state(&daemon.ctl, rule, 0, "up"));
    rules.iter().for_each(|rule| await_state(&daemon.ctl, rule, 1, "up"));
    farm.refuse(0);
    rules.iter().for_each(|rule| await_only(&daemon.ctl, rule, "tcp", &[1]));
    farm.serve(0);
    for (rule, port) in rules.iter().zip(PORTS) {
        await_state(&daemon.ctl, rule, 0, "up");
        assert_eq!(visits(&world, port, 4), [1], "{rule}");
    }
    // the other one fails: that is no time to wait
    farm.refuse(1);
    for (rule, port) in rules.iter().zip(PORTS) {
        harness::within(LIMIT, "the first one again", &mut || {
            harness::farm::Visit::pay(&world.client, None, super::ways_in(port)[0])
                .is_ok_and(|visit| visit.host == 0)
        });
        await_state(&daemon.ctl, rule, 1, "down");
        assert_eq!(visits(&world, port, 4), [0], "{rule}");
    }
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
