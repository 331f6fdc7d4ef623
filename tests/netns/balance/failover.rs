//! A backend that is gone, of two: who notices, when, and what becomes of clients.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use harness::dns::{NameServer, Says};
use harness::farm::{Caller, Farm, Visit, address, name};
use harness::http::Http;
use harness::world::{BACKEND, CLIENT, CLIENT_V6};
use harness::{World, eventually, patience, within};
use serde_json::json;

use super::{
    LIMIT, QUICK, ask, await_all, await_only, await_state, await_up, judged, on_both_planes, planes, to,
    visit_to, visits, ways_in,
};

/// `interval x fall + timeout` of the quick checks.
const DETECTION: Duration = Duration::from_millis(1400);
/// What this machine may need beyond.
const SLACK: Duration = Duration::from_secs(5);

#[test]
fn who_refuses_gets_nothing_until_it_is_back() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let check = format!("check = {{ {QUICK}, cooldown = \"1s\" }}");
    let others = on_both_planes("other", 8002, &to(&[0]), "");
    let mut daemon = world.start(&[on_both_planes("web", 8001, &to(&[0, 1]), &check), others].concat());
    let ctl = daemon.ctl.clone();
    let mut events = Http::unix(&ctl.socket);
    events.send("GET", "/v1/events", b"");
    assert_eq!(events.head().status, 200);
    for rule in planes("web") {
        await_up(&ctl, &rule, 2);
    }
    let old = [(8001, 0), (8001, 1), (9001, 0), (9001, 1), (8002, 0), (9002, 0)];
    let mut old = old.map(|(port, host)| visit_to(&world, port, host));
    farm.refuse(1);
    let refused_at = Instant::now();
    // relayd goes on with the other backend, whatever is known of this one
    for turn in 0..20 {
        let [ipv4, ipv6] = ways_in(9001).map(|to| Visit::pay(&world.client, None, to).expect("a connection"));
        assert_eq!((ipv4.host, ipv6.host), (0, 0), "{turn}");
    }
    for (rule, port) in planes("web").iter().zip([8001, 9001]) {
        await_only(&ctl, rule, "tcp", &[0]);
        let took = refused_at.elapsed();
        assert!(took < patience(DETECTION + SLACK), "{rule}: known after {took:?}");
        assert_eq!(visits(&world, port, 8), [0], "{rule}");
        assert_eq!(judged(&ctl, rule, 1, "tcp")["last_error"], "connection refused", "{rule}");
    }
    // a switch touches nothing that there is: other rules, old connections, even those to who refuses new ones
    old.iter_mut().for_each(|visit| visit.echo().expect("an old connection"));
    let told = loop {
        let line = events.line();
        if line.starts_with("data: ") && line.contains("\"backend.down\"") {
            break line;
        }
    };
    assert!(
        told.contains("\"web") && told.contains(&format!("backend {} is down for tcp: ", name(1))),
        "{told}"
    );
    farm.serve(1);
    for (rule, port) in planes("web").iter().zip([8001, 9001]) {
        await_state(&ctl, rule, 1, "up");
        await_all(&ctl, rule);
        assert_eq!(visits(&world, port, 8), [0, 1], "{rule}");
    }
    old.iter_mut().for_each(|visit| visit.echo().expect("an old connection"));
    for rule in planes("web").iter().chain(&planes("other")) {
        assert_eq!(ctl.rule(rule)["counters"]["drops"], json!({}), "{rule}");
    }
    let log = daemon.log();
    assert!(log.contains(&format!("rule web: backend {} is up for tcp: it answers", name(1))), "{log}");
}

#[test]
fn who_says_nothing_gets_nothing() {
    let world = World::new();
    let farm = Farm::new(&world.backend, 2);
    let check = format!("check = {{ {QUICK}, cooldown = \"0s\" }}");
    let daemon = world.start(&on_both_planes("web", 8001, &to(&[0, 1]), &check));
    let ctl = &daemon.ctl;
    for rule in planes("web") {
        await_up(ctl, &rule, 2);
    }
    let mut old = [8001, 9001].map(|port| visit_to(&world, port, 0));
    farm.freeze(1);
    let frozen_at = Instant::now();
    // a second's silence, and relayd tries the other one
    assert_eq!(visits(&world, 9001, 2), [0]);
    for (rule, port) in planes("web").iter().zip([8001, 9001]) {
        await_only(ctl, rule, "tcp", &[0]);
        let took = frozen_at.elapsed();
        assert!(took < patience(DETECTION + SLACK), "{rule}: known after {took:?}");
        assert_eq!(visits(&world, port, 8), [0], "{rule}");
    }
    old.iter_mut().for_each(|visit| visit.echo().expect("an old connection"));
    farm.thaw(1);
    for (rule, port) in planes("web").iter().zip([8001, 9001]) {
        await_all(ctl, rule);
        assert_eq!(visits(&world, port, 8), [0, 1], "{rule}");
    }
}

#[test]
fn who_comes_and_goes_or_never_came_is_told_from_who_is_there() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 3);
    farm.refuse(2);
    let check = format!("check = {{ {QUICK}, cooldown = \"1h\" }}");
    let mut daemon = world.start(&on_both_planes("web", 8001, &to(&[0, 1, 2]), &check));
    let ctl = daemon.ctl.clone();
    let rules = planes("web");
    let ports = [8001, 9001];
    for (rule, port) in rules.iter().zip(ports) {
        // one that has never answered is not down, but there are others
        await_only(&ctl, rule, "tcp", &[0, 1]);
        assert_eq!(judged(&ctl, rule, 2, "tcp")["state"], "unknown", "{rule}");
        assert_eq!(visits(&world, port, 6), [0, 1], "{rule}");
    }
    farm.refuse(1);
    rules.iter().for_each(|rule| await_only(&ctl, rule, "tcp", &[0]));
    farm.serve(1);
    for (rule, port) in rules.iter().zip(ports) {
        let answers = || judged(&ctl, rule, 1, "tcp")["successes"].as_u64().expect("a count");
        let before = answers();
        within(LIMIT, "it answers again", &mut || answers() >= before + 5);
        assert_eq!(judged(&ctl, rule, 1, "tcp")["state"], "down", "{rule}: its time has not come");
        assert_eq!(visits(&world, port, 6), [0], "{rule}");
    }
    // it has come, it does not come and go
    farm.serve(2);
    for (rule, port) in rules.iter().zip(ports) {
        await_state(&ctl, rule, 2, "up");
        await_only(&ctl, rule, "tcp", &[0, 2]);
        assert_eq!(visits(&world, port, 6), [0, 2], "{rule}");
    }
    // by order it is back before its time
    for (rule, port) in rules.iter().zip(ports) {
        ctl.ok(&["backend", rule, &name(1), "--up"]);
        await_all(&ctl, rule);
        assert_eq!(visits(&world, port, 6), [0, 1, 2], "{rule}");
        ctl.ok(&["backend", rule, &name(1), "--down"]);
        await_only(&ctl, rule, "tcp", &[0, 2]);
        await_only(&ctl, rule, "udp", &[0, 2]);
        assert!((0..6).all(|_| ask(&world, port) != 1), "{rule}");
        ctl.ok(&["backend", rule, &name(1), "--up"]);
        await_all(&ctl, rule);
    }
    (0..3).for_each(|index| farm.refuse(index));
    let all_down = "all backends are down for tcp; new flows still go to the first ones";
    within(LIMIT, "all are down", &mut || {
        let log = daemon.log();
        rules.iter().all(|rule| log.contains(&format!("rule {rule}: {all_down}")))
    });
    // nothing but the probes says that they are
    (0..3).for_each(|index| farm.serve(index));
    for port in ports {
        assert_eq!(visits(&world, port, 6), [0, 1, 2]);
    }
    for rule in &rules {
        (0..3).for_each(|index| assert_eq!(judged(&ctl, rule, index, "tcp")["state"], "down", "{rule}"));
    }
}

#[test]
fn what_is_known_survives_edits_and_changes_of_the_network() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 3);
    let check = format!("check = {{ {QUICK}, cooldown = \"1h\" }}");
    let mut daemon = world.start(&on_both_planes("web", 8001, &to(&[0, 1]), &check));
    let ctl = daemon.ctl.clone();
    let rules = planes("web");
    rules.iter().for_each(|rule| await_up(&ctl, rule, 2));
    farm.refuse(1);
    rules.iter().for_each(|rule| await_only(&ctl, rule, "tcp", &[0]));
    farm.serve(1);
    let only = |hosts: &[usize], when: &str| {
        for (rule, port) in rules.iter().zip([8001, 9001]) {
            assert_eq!(visits(&world, port, 6), hosts, "{rule}: {when}");
            let shown = ctl.rule(rule);
            let backends = shown["to"].as_array().expect("backends");
            let gone = backends.iter().find(|backend| backend["addr"] == name(1).as_str());
            assert_eq!(gone.map(|gone| &gone["tcp"]["state"]), Some(&"down".into()), "{rule}: {when}");
        }
    };
    rules.iter().for_each(|rule| _ = ctl.ok(&["set", rule, "note=another", "balance=leastconn"]));
    only(&[0], "another note, and another way to choose");
    for rule in &rules {
        ctl.ok(&["set", rule, "balance=", &format!("to+={}", name(2))]);
        // nothing is known of that one, and it gets its part
        await_up(&ctl, rule, 1);
    }
    only(&[0, 2], "one more backend");
    let another = Ipv4Addr::new(198, 51, 100, 77);
    world.relay.add_address("uplink", another, 24);
    let by_new = |port: u16| Visit::pay(&world.client, None, (another, port).into()).is_ok();
    within(LIMIT, "the new address is served", &mut || by_new(8001) && by_new(9001));
    only(&[0, 2], "another address");
    rules.iter().for_each(|rule| _ = ctl.ok(&["set", rule, &format!("to-={}", name(0))]));
    only(&[2], "one backend less");
    ctl.ok(&["reload"]);
    only(&[2], "a reload");
    rules.iter().for_each(|rule| _ = ctl.ok(&["disable", rule]));
    rules.iter().for_each(|rule| _ = ctl.ok(&["enable", rule]));
    only(&[2], "a rest");
    let log = daemon.log();
    assert_eq!(log.matches(&format!("backend {} is down", name(1))).count(), 2, "{log}");
    assert!(!log.contains("all backends are down"), "{log}");
}

#[test]
fn who_there_is_no_way_to_gets_nothing() {
    let world = World::new();
    let _farm = Farm::new(&world.backend, 1);
    let far = Ipv4Addr::new(192, 0, 2, 9);
    let to = format!("\"{far}:80\", {}", to(&[0]));
    let check = format!("check = {{ {QUICK}, cooldown = \"0s\" }}");
    let daemon = world.start(&on_both_planes("web", 8001, &to, &check));
    let ctl = &daemon.ctl;
    for port in [8001, 9001] {
        assert_eq!(visits(&world, port, 6), [0], "{port}");
    }
    assert_eq!(ctl.rule("web")["state"], "degraded", "there is no route to one");
    let error = || judged(ctl, "web-user", 0, "tcp")["last_error"].clone();
    within(LIMIT, "probes find that out too", &mut || {
        error().as_str().is_some_and(|error| error.starts_with("cannot be reached: "))
    });
    // there it is
    world.backend.add_address("backend", far, 32);
    let _listener = world.backend.run(|| TcpListener::bind((far, 80))).expect("listen");
    world.relay.route((far, 32), Some(BACKEND), "inside", 254);
    planes("web").iter().for_each(|rule| await_state(ctl, rule, 0, "up"));
    eventually("the fault is gone", || ctl.rule("web")["state"] == "active");
}

#[test]
fn who_comes_again_from_the_same_port_is_not_led_to_who_is_gone() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let never = "check = { kind = \"passive\", fall = 100 }";
    let daemon = world.start(&on_both_planes("web", 8001, &to(&[0, 1]), never));
    farm.refuse_tcp(1);
    let come = |port: u16, is_v6: bool| {
        let source: IpAddr = if is_v6 { CLIENT_V6.into() } else { CLIENT.into() };
        let to = ways_in(8001)[usize::from(is_v6)];
        Visit::pay_from(&world.client, (source, port).into(), to)
    };
    let clients: Vec<(u16, bool)> = (40_000..40_006).flat_map(|port| [(port, false), (port, true)]).collect();
    let refused: Vec<_> = clients.into_iter().filter(|&(port, is_v6)| come(port, is_v6).is_err()).collect();
    assert_eq!(refused.len(), 6, "every other one");
    daemon.ctl.ok(&["backend", "web", &name(1), "--down"]);
    for (port, is_v6) in refused {
        assert_eq!(come(port, is_v6).expect("a connection").host, 0);
    }
}

/// Flows that were never answered are not left to a backend that is down, though `on_down` keeps old ones.
#[test]
fn who_waits_in_vain_is_led_to_who_is_there() {
    let world = World::new();
    let farm = Farm::new(&world.backend, 2);
    let first = |kind: &str| {
        let times = "interval = \"200ms\", timeout = \"1s\", fall = 2, rise = 2, cooldown = \"1h\"";
        format!("balance = \"first\"\ncheck = {{ {kind}, {times} }}")
    };
    let tcp = on_both_planes("tcp", 8001, &to(&[0, 1]), &first("kind = \"tcp\""));
    let udp = on_both_planes("udp", 8002, &to(&[0, 1]), &first("kind = \"udp\", send = \"ping\""));
    let daemon = world.start(&[tcp, udp].concat());
    let ctl = &daemon.ctl;
    for (name, protocol) in [("tcp", "tcp"), ("udp", "udp")] {
        for rule in planes(name) {
            within(LIMIT, "they are up", &mut || judged(ctl, &rule, 0, protocol)["state"] == "up");
        }
    }
    let callers = |port: u16| ways_in(port).map(|to| Caller::new(&world.client, None, to));
    let [kernels, users] = [callers(8002), callers(9002)];
    let all = || kernels.iter().chain(&users);
    let answered = ways_in(8002).map(|to| Caller::new(&world.client, None, to));
    answered.iter().for_each(|caller| assert_eq!(caller.settle().expect("an answer"), 0));
    farm.freeze(0);
    all().chain(&answered).for_each(|caller| {
        caller.0.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        caller.0.send(b"who?").expect("sent");
    });
    // nobody knows yet, so the first SYN goes to who says nothing
    for to in [ways_in(8001), ways_in(9001)].concat() {
        let visit = Visit::pay_within(&world.client, None, to, LIMIT).expect("a connection");
        assert_eq!(visit.host, 1, "{to}");
    }
    planes("udp").iter().for_each(|rule| await_only(ctl, rule, "udp", &[1]));
    for caller in all() {
        within(LIMIT, "somebody answers", &mut || caller.ask().is_ok_and(|host| host == 1));
    }
    answered.iter().for_each(|caller| assert!(caller.ask().is_err(), "who was answered waits for its own"));
    farm.thaw(0);
    for caller in answered {
        within(LIMIT, "its own is back", &mut || caller.ask().is_ok_and(|host| host == 0));
    }
    assert!(all().all(|caller| caller.ask().is_ok_and(|host| host == 1)), "they stay where they are");
}

#[test]
fn a_name_that_leads_elsewhere_stands_for_somebody_new() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 3);
    let names = NameServer::start(&world.relay, world.folder());
    names.holds_for(1);
    names.says("backend.test", Says::Address(address(0)));
    let to = format!("\"backend.test:80\", {}", to(&[1]));
    let passive = "check = { kind = \"passive\", fall = 1, cooldown = \"1h\" }";
    let daemon = world.start(&[crate::answers::QUICK, &on_both_planes("web", 8001, &to, passive)].concat());
    let ctl = &daemon.ctl;
    farm.refuse(0);
    for (rule, port) in planes("web").iter().zip([8001, 9001]) {
        within(LIMIT, &format!("{rule}: clients find out that it is gone"), &mut || {
            let _refused = Visit::pay(&world.client, None, ways_in(port)[0]);
            ctl.ok(&["explain", rule]).contains("at present new flows of")
        });
        assert_eq!(visits(&world, port, 4), [1], "{rule}");
    }
    names.says("backend.test", Says::Address(address(2)));
    for (rule, port) in planes("web").iter().zip([8001, 9001]) {
        await_all(ctl, rule);
        assert_eq!(visits(&world, port, 4), [1, 2], "{rule}");
    }
}
