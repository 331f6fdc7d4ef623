//! Ten thousand rules: how long they take to load, how soon one more forwards and is saved, how much memory it takes.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use harness::traffic::udp_server;
use harness::world::RELAY;
use harness::{Daemon, World};

use crate::figures::{Options, Series, say};

const RULES: u16 = 10_000;
const FIRST_PORT: u16 = 10_000;
/// Where the rules that are added listen.
const ADDED: u16 = 30_000;

/// What changes need for a moment is given back by then.
const SETTLES: Duration = Duration::from_millis(500);

pub fn run(options: &Options) {
    let mut figures = Figures::default();
    for _ in 0..options.rounds {
        measure(options.rounds, &mut figures);
    }
    say(&format!("\n## {RULES} rules\n"));
    say("| figure | unit | median | worst | goal |");
    say("|---|---|---|---|---|");
    for (name, unit, series, goal) in [
        ("start until ready", "ms", &figures.start, "1000"),
        ("reload from no rules", "ms", &figures.reload, "1000"),
        ("reload of the same", "ms", &figures.same, "-"),
        ("restart (adopting them)", "ms", &figures.restart, "1000"),
        ("relayctl add until it forwards", "ms", &figures.forwards, "20"),
        ("relayctl add until it is saved", "ms", &figures.saved, "150"),
        ("relayctl rm until it returns", "ms", &figures.removed, "-"),
        ("relayd's memory after the adds", "MB", &figures.memory, "64"),
    ] {
        let worst = series.0.iter().copied().fold(0.0, f64::max);
        say(&format!("| {name} | {unit} | {:.1} | {worst:.1} | {goal} |", series.median()));
    }
}

#[derive(Default)]
struct Figures {
    start: Series,
    reload: Series,
    same: Series,
    restart: Series,
    forwards: Series,
    saved: Series,
    removed: Series,
    memory: Series,
}

/// Rules on ports one after the other, to some hundred backends.
pub fn many_rules() -> String {
    let mut text = String::new();
    for index in 0..RULES {
        let (port, backend) = (FIRST_PORT + index, 10 + index % 200);
        write!(
            text,
            "[[rule]]\nname = \"rule-{index}\"\nlisten = \":{port}\"\nto = \"203.0.113.{backend}:{port}\"\n\n"
        )
        .expect("a string takes everything");
    }
    text
}

fn measure(adds: usize, figures: &mut Figures) {
    let world = World::new();
    let _server = udp_server(&world.backend, 80);
    let start = Instant::now();
    let mut daemon = world.start(&many_rules());
    figures.start.0.push(milliseconds(start));
    let full = fs::read_to_string(&daemon.config).expect("config");
    let empty = full.split("[[rule]]").next().unwrap_or("").to_owned();
    fs::write(&daemon.config, empty).expect("config");
    daemon.ctl.ok(&["reload"]);
    fs::write(&daemon.config, full).expect("config");
    figures.reload.0.push(timed(&daemon, &["reload"]));
    figures.same.0.push(timed(&daemon, &["reload"]));
    for index in 0..adds {
        add(&world, &daemon, ADDED + index as u16, figures);
    }
    figures.removed.0.push(timed(&daemon, &["rm", &format!("added-{ADDED}")]));
    thread::sleep(SETTLES);
    figures.memory.0.push(daemon.memory_kib() as f64 / 1024.0);
    daemon.stop();
    let start = Instant::now();
    daemon.start_again(&world.relay);
    figures.restart.0.push(milliseconds(start));
}

fn timed(daemon: &Daemon, args: &[&str]) -> f64 {
    let start = Instant::now();
    daemon.ctl.ok(args);
    milliseconds(start)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Adds a rule by the command while a client knocks at its port all the time.
fn add(world: &World, daemon: &Daemon, port: u16, figures: &mut Figures) {
    let socket = world.client.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("bind");
    // not connected: a refusal from before must not count
    socket.set_read_timeout(Some(Duration::from_millis(1))).expect("timeout");
    let ctl = daemon.ctl.clone();
    let start = Instant::now();
    let command = thread::spawn(move || {
        ctl.ok(&["add", &format!(":{port}"), "203.0.113.2:80", "--name", &format!("added-{port}")]);
        milliseconds(start)
    });
    let mut buffer = [0; 16];
    while start.elapsed() < Duration::from_secs(10) {
        let _sent = socket.send_to(b"knock", (RELAY, port));
        if socket.recv_from(&mut buffer).is_ok() {
            break;
        }
    }
    figures.forwards.0.push(milliseconds(start));
    figures.saved.0.push(command.join().expect("relayctl add"));
    let saved = fs::read_to_string(&daemon.config).expect("config");
    assert!(saved.contains(&format!("added-{port}")), "saved when the command says so");
}
