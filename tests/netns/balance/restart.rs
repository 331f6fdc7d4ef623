//! What is known of backends outlives relayd.

use std::fs;

use harness::farm::{Farm, Visit, name};
use harness::{World, within};

use super::{
    LIMIT, QUICK, await_only, await_state, await_up, judged, on_both_planes, planes, rule, to, to_with,
    visit, visits,
};

#[test]
fn who_was_down_and_who_has_the_flows_is_known_to_the_next_relayd() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let down = format!("check = {{ {QUICK}, cooldown = \"1h\" }}");
    let manual = format!("check = {{ {QUICK}, cooldown = \"0s\", failback = \"manual\" }}");
    let tiers = to_with(&[(1, "priority = 1"), (0, "priority = 2")]);
    let config = [
        on_both_planes("web", 8001, &to(&[0, 1]), &down),
        rule("manual", 8002, &tiers, &manual),
        rule("ordered", 8003, &to(&[0, 1]), ""),
    ];
    let mut daemon = world.start(&config.concat());
    let ctl = daemon.ctl.clone();
    let web = planes("web");
    for rule in web.iter().map(String::as_str).chain(["manual"]) {
        await_up(&ctl, rule, 2);
    }
    ctl.ok(&["backend", "ordered", &name(1), "--drain"]);
    let mut old: Vec<Visit> = (0..2).map(|_| visit(&world, 8001)).collect();
    farm.refuse(1);
    for rule in web.iter().map(String::as_str).chain(["manual"]) {
        await_only(&ctl, rule, "tcp", &[0]);
    }
    farm.serve(1);
    await_state(&ctl, "manual", 0, "up");
    let file = world.folder().join("state/health.json");
    within(LIMIT, "it is written down", &mut || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        text.matches("\"state\":\"down\"").count() >= 2 && text.contains("\"drain\"")
    });
    daemon.kill();
    // nobody is there to choose, and the kernel's choice stays
    assert_eq!(visits(&world, 8001, 6), [0]);
    assert_eq!(visits(&world, 8002, 6), [0]);
    assert_eq!(visits(&world, 8003, 6), [0]);
    old.iter_mut().for_each(|visit| visit.echo().expect("an old connection"));
    daemon.start_again(&world.relay);
    for (rule, port) in [(web[0].as_str(), 8001), (&web[1], 9001), ("manual", 8002), ("ordered", 8003)] {
        assert_eq!(visits(&world, port, 6), [0], "{rule}");
        await_only(&ctl, rule, "tcp", &[0]);
    }
    for rule in &web {
        let judged = judged(&ctl, rule, 1, "tcp");
        assert_eq!((&judged["state"], &judged["last_error"]), (&"down".into(), &"connection refused".into()));
    }
    assert_eq!(ctl.rule("ordered")["to"][1]["order"], "drain");
    old.iter_mut().for_each(|visit| visit.echo().expect("an old connection"));
}
