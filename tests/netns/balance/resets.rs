//! `on_down`: what becomes of the flows of a backend that goes down.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use harness::farm::{Caller, Farm, Visit, one_address};
use harness::{World, within};

use super::{LIMIT, await_only, on_both_planes, planes, to, visit, ways_in};

const RULES: [(&str, u16); 4] = [("reset", 8001), ("reset-user", 9001), ("keep", 8002), ("keep-user", 9002)];

fn is_reset(visit: &mut Visit) -> bool {
    // of a flow of the kernel plane the client only hears when it sends something
    let answer = visit.stream.write_all(b"still there?").and_then(|()| visit.stream.read(&mut [0; 12]));
    matches!(answer.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}

/// Two flows of each kind for each rule, one to each backend.
fn flows(world: &World) -> Vec<(&'static str, Vec<Visit>, Vec<Caller>)> {
    let of = |(rule, port): (&'static str, u16)| {
        let mut visits = vec![visit(world, port), visit(world, port)];
        visits.sort_by_key(|visit| visit.host);
        let mut callers: Vec<(usize, Caller)> = Vec::new();
        for _ in 0..2 {
            let caller = Caller::new(&world.client, None, ways_in(port)[1]);
            callers.push((caller.settle().expect("an answer"), caller));
        }
        callers.sort_by_key(|(host, _)| *host);
        let hosts = |index: usize| (visits[index].host, callers[index].0);
        assert_eq!([hosts(0), hosts(1)], [(0, 0), (1, 1)], "{rule}");
        (rule, visits, callers.into_iter().map(|(_, caller)| caller).collect())
    };
    RULES.map(of).into()
}

#[test]
fn connections_end_by_the_judge_of_tcp() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let mut daemon = world.start(&config("kind = \"tcp\""));
    let ctl = daemon.ctl.clone();
    await_judged(&ctl, "tcp");
    let mut flows = flows(&world);
    farm.refuse_tcp(1);
    RULES.iter().for_each(|(rule, _)| await_only(&ctl, rule, "tcp", &[0]));
    within(LIMIT, "resets are told", &mut || {
        let log = daemon.log();
        log.matches("rule reset: 1 of the kernel plane's flows ended: ").count() == 1
            && log.matches("rule reset-user: 1 of the user plane's sessions ended: ").count() == 1
    });
    for (rule, visits, callers) in &mut flows {
        visits[0].echo().unwrap_or_else(|error| panic!("{rule}: to who is there: {error}"));
        if rule.starts_with("reset") {
            assert!(is_reset(&mut visits[1]), "{rule}");
        } else {
            visits[1].echo().unwrap_or_else(|error| panic!("{rule}: {error}"));
        }
        for (host, caller) in callers.iter().enumerate() {
            assert_eq!(caller.ask().expect("an answer"), host, "{rule}: UDP has its own judge");
        }
    }
}

#[test]
fn datagrams_go_elsewhere_by_the_judge_of_udp() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let daemon = world.start(&config("kind = \"udp\", send = \"ping\""));
    await_judged(&daemon.ctl, "udp");
    let mut flows = flows(&world);
    farm.refuse_udp(1);
    RULES.iter().for_each(|(rule, _)| await_only(&daemon.ctl, rule, "udp", &[0]));
    for (rule, visits, callers) in &mut flows {
        assert_eq!(callers[0].ask().expect("an answer"), 0, "{rule}: to who is there");
        let gone = &callers[1];
        gone.0.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
        if rule.starts_with("reset") {
            within(LIMIT, &format!("{rule}: another backend"), &mut || {
                gone.ask().is_ok_and(|host| host == 0)
            });
        } else {
            assert!(gone.ask().is_err(), "{rule}: nobody answers");
        }
        visits.iter_mut().for_each(|visit| visit.echo().expect("TCP has its own judge"));
    }
    // who kept theirs have it when it is back
    farm.serve_udp(1);
    for (rule, _, callers) in flows.iter().filter(|(rule, ..)| rule.starts_with("keep")) {
        within(LIMIT, &format!("{rule}: its own backend"), &mut || {
            callers[1].ask().is_ok_and(|host| host == 1)
        });
    }
}

/// The two backends are two ports of one address.
#[test]
fn backends_at_one_address_are_told_apart() {
    let world = World::new();
    let _farm = Farm::at_one_address(&world.backend, 2);
    let to = [0, 1].map(|index| format!("\"{}\"", one_address(index))).join(", ");
    let rules = on_both_planes("reset", 8001, &to, "on_down = \"reset\"\ncheck = \"passive\"");
    let daemon = world.start(&rules);
    for (rule, port) in planes("reset").iter().zip([8001, 9001]) {
        let mut visits = [visit(&world, port), visit(&world, port)];
        visits.sort_by_key(|visit| visit.host);
        let callers = [(); 2].map(|()| Caller::new(&world.client, None, ways_in(port)[1]));
        let hosts = callers.each_ref().map(|caller| caller.settle().expect("an answer"));
        assert_eq!(visits.each_ref().map(|visit| visit.host), [0, 1], "{rule}");
        assert_eq!(hosts.iter().sum::<usize>(), 1, "{rule}: {hosts:?}");
        daemon.ctl.ok(&["backend", rule, &one_address(1), "--down"]);
        within(LIMIT, &format!("{rule}: all datagrams go to the other port"), &mut || {
            callers.iter().all(|caller| caller.ask().is_ok_and(|host| host == 0))
        });
        let [stays, goes] = &mut visits;
        within(LIMIT, &format!("{rule}: a reset"), &mut || is_reset(goes));
        stays.echo().unwrap_or_else(|error| panic!("{rule}: to who is there: {error}"));
        assert_eq!((0..4).map(|_| visit(&world, port).host).sum::<usize>(), 0, "{rule}: new ones");
    }
}

fn config(kind: &str) -> String {
    let times = "interval = \"200ms\", timeout = \"1s\", fall = 2, rise = 2, cooldown = \"1h\"";
    let more = |on_down| format!("on_down = \"{on_down}\"\ncheck = {{ {kind}, {times} }}");
    let rules = [("reset", 8001), ("keep", 8002)];
    rules.map(|(name, port)| on_both_planes(name, port, &to(&[0, 1]), &more(name))).concat()
}

fn await_judged(ctl: &harness::Ctl, protocol: &str) {
    for rule in planes("reset").iter().chain(&planes("keep")) {
        for index in 0..2 {
            within(LIMIT, "they are up", &mut || super::judged(ctl, rule, index, protocol)["state"] == "up");
        }
    }
}
