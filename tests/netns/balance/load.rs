//! Clients that come all along while one of two backends goes and comes back.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::farm::{Farm, Visit};
use harness::{Ends, NetNs, World, within};

use super::{LIMIT, QUICK, await_all, await_only, await_up, on_both_planes, planes, to, ways_in};

/// A client's connection: when it began, and whose it was.
type Outcome = (Instant, Result<usize, String>);

/// One connection after the other, until it is over.
fn come(client: &NetNs, to: SocketAddr, is_over: &AtomicBool, outcomes: &Mutex<Vec<Outcome>>) {
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let outcome = Visit::pay(client, None, to).map(|visit| visit.host);
        let outcome = outcome.map_err(|error| format!("{to}: {error}"));
        outcomes.lock().expect("outcomes").push((begun, outcome));
        thread::sleep(Duration::from_millis(2));
    }
}

fn failures(outcomes: &Mutex<Vec<Outcome>>, since: Instant) -> Vec<String> {
    let outcomes = outcomes.lock().expect("outcomes");
    outcomes.iter().filter(|(at, _)| *at >= since).filter_map(|(_, outcome)| outcome.clone().err()).collect()
}

fn hosts(outcomes: &Mutex<Vec<Outcome>>, since: Instant) -> Vec<usize> {
    let outcomes = outcomes.lock().expect("outcomes");
    let since = outcomes.iter().filter(|(at, _)| *at >= since);
    since.filter_map(|(_, outcome)| outcome.as_ref().ok().copied()).collect()
}

#[test]
fn no_client_of_relayd_fails_and_none_of_the_kernel_once_it_is_known() {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let check = format!("check = {{ {QUICK}, cooldown = \"0s\" }}");
    let daemon = world.start(&on_both_planes("web", 8001, &to(&[0, 1]), &check));
    let ctl = &daemon.ctl;
    let rules = planes("web");
    for rule in &rules {
        await_up(ctl, rule, 2);
    }
    let (is_over, start) = (AtomicBool::new(false), Instant::now());
    let by_kernel = Mutex::default();
    let by_user = Mutex::default();
    thread::scope(|scope| {
        let _ends = Ends(&is_over);
        for (outcomes, port) in [(&by_kernel, 8001), (&by_user, 9001)] {
            for to in ways_in(port) {
                let is_over = &is_over;
                let client = &world.client;
                scope.spawn(move || come(client, to, is_over, outcomes));
            }
        }
        for _ in 0..2 {
            both(&by_kernel, &by_user, 20);
            farm.refuse(1);
            rules.iter().for_each(|rule| await_only(ctl, rule, "tcp", &[0]));
            let known = Instant::now();
            both(&by_kernel, &by_user, 20);
            assert_eq!(failures(&by_kernel, known), <[&str; 0]>::default(), "after it was known");
            for outcomes in [&by_kernel, &by_user] {
                assert!(hosts(outcomes, known).iter().all(|&host| host == 0), "after it was known");
            }
            farm.serve(1);
            rules.iter().for_each(|rule| await_all(ctl, rule));
            let back = Instant::now();
            both(&by_kernel, &by_user, 20);
            for outcomes in [&by_kernel, &by_user] {
                assert!(hosts(outcomes, back).contains(&1), "it is back");
            }
            assert_eq!(failures(&by_kernel, known), <[&str; 0]>::default(), "after it was back");
        }
    });
    assert_eq!(failures(&by_user, start), <[&str; 0]>::default());
}

/// Waits until as many more clients have come, at either plane.
fn both(by_kernel: &Mutex<Vec<Outcome>>, by_user: &Mutex<Vec<Outcome>>, more: usize) {
    for outcomes in [by_kernel, by_user] {
        let count = || outcomes.lock().expect("outcomes").len();
        let before = count();
        within(LIMIT, "clients come", &mut || count() >= before + more);
    }
}
