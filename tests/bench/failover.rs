//! How long a backend that is gone goes on getting new flows: until it is found to be down, and from then until the
//! kernel plane's table says so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::farm::{Farm, address, name};
use harness::{Daemon, World, within};

use crate::figures::{Options, Series, say};
use crate::scale::many_rules;

const INTERVAL: f64 = 1.0;
const TIMEOUT: f64 = 1.0;
const FALL: f64 = 2.0;
const LIMIT: Duration = Duration::from_secs(30);
/// Times that a backend goes and comes back, in a round.
const TURNS: usize = 5;

fn rule() -> String {
    let to: Vec<String> = (0..2).map(|index| format!("\"{}:80\"", address(index))).collect();
    format!(
        "[[rule]]\nname = \"web\"\nlisten = \":8001\"\nprotocol = \"tcp\"\nto = [{}]\n\
         check = {{ kind = \"tcp\", interval = \"{INTERVAL}s\", timeout = \"{TIMEOUT}s\", fall = {FALL}, cooldown = \"1s\" }}\n",
        to.join(", ")
    )
}

pub fn run(options: &Options) {
    say("\n## A backend that is gone\n");
    say(
        "| it | found down after, s | worst | goal (interval x fall + timeout) | table swapped after, us | worst | goal |",
    );
    say("|---|---|---|---|---|---|---|");
    let alone = format!("[log]\nlevel = \"debug\"\n{}", rule());
    let among = format!("{alone}{}", many_rules());
    for (manner, rules, gone) in [
        ("refuses", &alone, Gone::Refusing),
        ("is silent", &alone, Gone::Silent),
        ("refuses, beside 10,000 rules", &among, Gone::Refusing),
    ] {
        let (mut found, mut swapped) = (Series::default(), Series::default());
        for _ in 0..options.rounds {
            measure(rules, gone, &mut found, &mut swapped);
        }
        let worst = |series: &Series| series.0.iter().copied().fold(0.0, f64::max);
        say(&format!(
            "| {manner} | {:.2} | {:.2} | {} | {:.0} | {:.0} | 1000 |",
            found.median(),
            worst(&found),
            INTERVAL.mul_add(FALL, TIMEOUT),
            swapped.median(),
            worst(&swapped)
        ));
    }
}

#[derive(Clone, Copy)]
enum Gone {
    Refusing,
    Silent,
}

fn measure(rules: &str, gone: Gone, found: &mut Series, swapped: &mut Series) {
    let world = World::new();
    let mut farm = Farm::new(&world.backend, 2);
    let mut daemon = world.start(rules);
    for _ in 0..TURNS {
        await_line(&mut daemon, &format!("backend {} is up for tcp", name(1)), 0.0);
        std::thread::sleep(Duration::from_millis(1500));
        let begun = now();
        match gone {
            Gone::Refusing => farm.refuse_tcp(1),
            Gone::Silent => farm.freeze(1),
        }
        let line = await_line(&mut daemon, &format!("backend {} is down for tcp", name(1)), begun);
        found.0.push(time_of(&line) - begun);
        let line = await_line(&mut daemon, "new flows chosen by that ", begun);
        let took = line.split("by that ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        swapped.0.push(took.expect("microseconds"));
        match gone {
            Gone::Refusing => farm.serve_tcp(1),
            Gone::Silent => farm.thaw(1),
        }
        let back = now();
        await_line(&mut daemon, &format!("backend {} is up for tcp", name(1)), back);
    }
}

/// The first line of the log with a text in it that is not older than `since`.
fn await_line(daemon: &mut Daemon, text: &str, since: f64) -> String {
    let mut found = None;
    within(LIMIT, text, &mut || {
        let log = daemon.log();
        found = log.lines().find(|line| line.contains(text) && time_of(line) >= since).map(ToOwned::to_owned);
        found.is_some()
    });
    found.expect("just seen")
}

/// When a line of the log was written, in seconds since midnight.
fn time_of(line: &str) -> f64 {
    let time = line.split('T').nth(1).and_then(|rest| rest.split('Z').next()).unwrap_or_default();
    let parts: Vec<f64> = time.split(':').filter_map(|part| part.parse().ok()).collect();
    match parts[..] {
        [hours, minutes, seconds] => (hours * 60.0 + minutes).mul_add(60.0, seconds),
        _ => -1.0,
    }
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_secs_f64() % 86_400.0
}
