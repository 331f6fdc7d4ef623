//! What endpoints are asked, and what clients find out without anybody asking.

use std::time::Duration;

use harness::farm::{Caller, Farm, Visit};
use harness::{World, within};

use super::{
    LIMIT, ask, await_all, await_only, await_up, judged, on_both_planes, planes, rule, to, visits, ways_in,
};

const TIMES: &str = "interval = \"200ms\", timeout = \"1s\", fall = 2, rise = 2, cooldown = \"0s\"";

#[test]
fn a_page_says_how_a_backend_is() {
    let world = World::new();
    let farm = Farm::new(&world.backend, 2);
    let check = format!("check = {{ kind = \"http\", path = \"/health\", status = \"200-299\", {TIMES} }}");
    let daemon = world.start(&on_both_planes("web", 8001, &to(&[0, 1]), &check));
    let ctl = &daemon.ctl;
    let rules = planes("web");
    for rule in &rules {
        await_up(ctl, rule, 2);
    }
    // slow is not down
    farm.slow_down(0, Duration::from_millis(300));
    farm.set_status(1, 503);
    for (rule, port) in rules.iter().zip([8001, 9001]) {
        await_only(ctl, rule, "tcp", &[0]);
        assert_eq!(judged(ctl, rule, 1, "tcp")["last_error"], "HTTP status 503", "{rule}");
        assert_eq!(visits(&world, port, 4), [0], "{rule}");
        let slow = || judged(ctl, rule, 0, "tcp")["latency_ms"].as_f64().is_some_and(|ms| ms >= 300.0);
        within(LIMIT, "it is seen that one is slow", &mut || slow());
        assert_eq!(judged(ctl, rule, 0, "tcp")["state"], "up", "{rule}");
    }
    farm.slow_down(0, Duration::ZERO);
    farm.set_status(1, 204);
    for (rule, port) in rules.iter().zip([8001, 9001]) {
        await_all(ctl, rule);
        assert_eq!(visits(&world, port, 4), [0, 1], "{rule}");
    }
}

#[test]
fn a_datagram_says_how_a_backend_is_for_udp_alone() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let check = format!("check = {{ kind = \"udp\", send = \"ping\", expect = \"ping\", {TIMES} }}");
    let daemon = world.start(&on_both_planes("dns", 8001, &to(&[0, 1]), &check));
    let ctl = &daemon.ctl;
    let rules = planes("dns");
    let is = |rule: &str, state: &str| judged(ctl, rule, 1, "udp")["state"] == state;
    rules.iter().for_each(|rule| within(LIMIT, "it is up", &mut || is(rule, "up")));
    let old: Vec<Caller> = [8001, 9001].map(|port| Caller::new(&world.client, None, ways_in(port)[0])).into();
    let before: Vec<usize> = old.iter().map(|caller| caller.settle().expect("an answer")).collect();
    farm.refuse_udp(1);
    for (rule, port) in rules.iter().zip([8001, 9001]) {
        await_only(ctl, rule, "udp", &[0]);
        assert!((0..4).all(|_| ask(&world, port) == 0), "{rule}");
        assert_eq!(visits(&world, port, 4), [0, 1], "{rule}: TCP has its own judge");
    }
    farm.serve_udp(1);
    for (rule, port) in rules.iter().zip([8001, 9001]) {
        await_all(ctl, rule);
        let mut answers: Vec<usize> = (0..4).map(|_| ask(&world, port)).collect();
        answers.sort_unstable();
        assert_eq!(answers, [0, 0, 1, 1], "{rule}");
    }
    for (caller, before) in old.iter().zip(before) {
        assert_eq!(caller.ask().expect("an answer"), before, "an old flow keeps its backend");
    }
    // what is silent is as good as gone
    farm.freeze(1);
    for (rule, port) in rules.iter().zip([8001, 9001]) {
        await_only(ctl, rule, "udp", &[0]);
        assert!((0..4).all(|_| ask(&world, port) == 0), "{rule}");
    }
}

#[test]
fn clients_find_out_where_nobody_asks() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let check = "check = { kind = \"passive\", fall = 2, rise = 1, cooldown = \"1s\" }";
    let daemon = world.start(&on_both_planes("web", 8001, &to(&[0, 1]), check));
    let ctl = &daemon.ctl;
    let rules = planes("web");
    farm.refuse(1);
    for (rule, port) in rules.iter().zip([8001, 9001]) {
        let to = ways_in(port)[0];
        within(LIMIT, &format!("{rule}: refusals are noticed, TCP"), &mut || {
            let _refused = Visit::pay(&world.client, None, to);
            ctl.ok(&["explain", rule]).to_lowercase().contains("at present new flows of tcp go to")
        });
        let callers: Vec<Caller> = (0..8).map(|_| Caller::new(&world.client, None, to)).collect();
        for caller in &callers {
            caller.0.set_read_timeout(Some(Duration::from_millis(20))).expect("timeout");
        }
        within(LIMIT, &format!("{rule}: refusals are noticed, UDP"), &mut || {
            callers.iter().for_each(|caller| _ = caller.ask());
            ctl.ok(&["explain", rule]).to_lowercase().contains("at present new flows of udp go to")
        });
    }
    farm.serve(1);
    for rule in &rules {
        // after the cooldown clients may try it again
        await_all(ctl, rule);
    }
}

/// By the time that it resets a connection, that has been seen to be one.
#[test]
fn who_resets_late_is_found_out_where_nobody_asks() {
    let world = World::new();
    let farm = Farm::new(&world.backend, 2);
    farm.slow_down(0, Duration::from_millis(600));
    farm.break_off(0);
    let first = "check = { kind = \"passive\", fall = 2, cooldown = \"1h\" }\nbalance = \"first\"";
    let daemon = world.start(&on_both_planes("web", 8001, &to(&[0, 1]), first));
    for (rule, port) in planes("web").iter().zip([8001, 9001]) {
        let visit = || _ = Visit::pay(&world.client, None, ways_in(port)[0]);
        within(LIMIT, &format!("{rule}: late resets are noticed"), &mut || {
            std::thread::scope(|scope| (0..3).for_each(|_| _ = scope.spawn(visit)));
            daemon.ctl.ok(&["explain", rule]).contains("at present new flows of tcp go to")
        });
        let judged = judged(&daemon.ctl, rule, 0, "tcp");
        assert_eq!(judged["state"], "down", "{rule}: {judged}");
        assert_eq!(visits(&world, port, 4), [1], "{rule}");
    }
}

#[test]
fn a_clients_misfortune_brings_the_next_probe_forward() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    // the second probe alone would come after an hour
    let check = "check = { interval = \"1h\", timeout = \"2s\", fall = 1, rise = 1, cooldown = \"1s\" }";
    let by_user = [check, "\nplane = \"user\"\n"].concat();
    let config = [rule("web", 8001, &to(&[0, 1]), check), rule("web-user", 9001, &to(&[0, 1]), &by_user)];
    let daemon = world.start(&config.concat());
    let rules = planes("web");
    for rule in &rules {
        await_up(&daemon.ctl, rule, 2);
    }
    farm.refuse(1);
    for (rule, port) in rules.iter().zip([8001, 9001]) {
        let to = ways_in(port)[0];
        within(LIMIT, &format!("{rule}: a client's connection is refused"), &mut || {
            let outcome = Visit::pay(&world.client, None, to);
            assert!(outcome.is_ok() || port == 8001, "relayd had another backend");
            judged(&daemon.ctl, rule, 1, "tcp")["state"] == "down"
        });
        await_only(&daemon.ctl, rule, "tcp", &[0]);
        assert_eq!(visits(&world, port, 4), [0], "{rule}");
    }
}
