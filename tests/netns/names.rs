//! Backends that are names: nothing waits for them but what cannot do without, and they come in time.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use harness::daemon::binary;
use harness::dns::{NameServer, Says};
use harness::http::Http;
use harness::traffic::{Client, Datagrams, tcp_server, udp_server};
use harness::world::{BACKEND, RELAY, RELAY_V6};
use harness::{Ctl, Daemon, Load, World, eventually, within};
use nix::sys::signal::Signal;

const NAMED: &str = "[[rule]]\nname = \"named\"\nlisten = \":8080\"\nto = \"backend.test:80\"\n";
const PLAIN: &str = "[[rule]]\nname = \"plain\"\nlisten = \":8081\"\nto = \"203.0.113.2:80\"\n";
const LATE: &str = "[[rule]]\nname = \"late\"\nlisten = \"192.0.2.7:8082\"\nto = \"203.0.113.2:80\"\n";

fn world() -> (World, NameServer) {
    let world = World::new();
    let server = NameServer::start(&world.relay, world.folder());
    (world, server)
}

fn state(ctl: &Ctl, rule: &str) -> String {
    ctl.rule(rule)["state"].as_str().expect("state").to_owned()
}

fn fault(ctl: &Ctl, rule: &str) -> String {
    ctl.rule(rule)["faults"][0].as_str().unwrap_or_default().to_owned()
}

fn works(world: &World, port: u16) {
    Client::connect(&world.client, (RELAY, port)).and_then(Client::seen_as).expect("it works");
}

#[test]
fn a_silent_name_server_holds_nothing_else_up() {
    let (world, names) = world();
    names.says("backend.test", Says::Nothing);
    let mut daemon = world.start(&[NAMED, PLAIN, LATE].concat());
    let _server = tcp_server(&world.backend, 80);
    let ctl = daemon.ctl.clone();
    assert_eq!(fault(&ctl, "named"), "backend.test is being resolved", "relayd is ready all the same");
    assert_eq!((state(&ctl, "named"), state(&ctl, "plain")), ("error".into(), "active".into()));
    assert_eq!(ctl.rule("named")["to"][0]["state"], "unresolved");
    works(&world, 8081);
    ctl.ok(&["add", "9090", "203.0.113.2:80"]);
    works(&world, 9090);
    world.relay.add_address("uplink", [192, 0, 2, 7], 32);
    eventually("the network is followed", || state(&ctl, "late") == "active");
    let mut events = Http::unix(&ctl.socket);
    events.send("GET", "/v1/events", b"");
    assert_eq!(events.head().status, 200);
    names.says("backend.test", Says::Address(BACKEND));
    let told = loop {
        let line = events.line();
        if line.starts_with("data: ") && line.contains("\"named\"") {
            break line;
        }
    };
    assert!(told.contains("rule.state") && told.contains("rule named is active now"), "{told}");
    assert_eq!(ctl.rule("named")["to"][0]["resolved"], "203.0.113.2");
    works(&world, 8080);
    let log = daemon.log();
    assert!(log.contains("rule named is active now: its backend's name has an answer"), "{log}");
}

#[test]
fn who_comes_before_the_address_is_refused_and_counted() {
    let (world, names) = world();
    names.says("backend.test", Says::Nothing);
    let daemon = world.start(NAMED);
    let ctl = &daemon.ctl;
    let refused = || ctl.counter("named", "/drops/no_backend");
    for (number, address) in [IpAddr::from(RELAY), RELAY_V6.into()].into_iter().enumerate() {
        let client = Client::connect(&world.client, (address, 8080)).and_then(Client::seen_as);
        assert_eq!(client.expect_err("a reset").kind(), ErrorKind::ConnectionReset);
        Datagrams::new(&world.client, (address, 8080)).echo(b"hello").expect_err("nobody answers");
        eventually("both are counted", || refused() == 2 * (number as u64 + 1));
    }
    let rule = ctl.rule("named");
    for family in ["ipv4", "ipv6"] {
        let plane = &rule["plane"][family];
        assert_eq!(plane["plane"], "none", "{rule}");
        assert!(plane["reason"].as_str().expect("reason").contains("has no address yet"), "{rule}");
    }
    assert_eq!(state(ctl, "named"), "error");
    assert!(ctl.ok(&["explain", "named"]).contains("refused as no_backend"));
    names.says("backend.test", Says::Address(BACKEND));
    eventually("it resolves", || state(ctl, "named") == "active");
    let _servers = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for address in [IpAddr::from(RELAY), RELAY_V6.into()] {
        Client::connect(&world.client, (address, 8080)).and_then(Client::seen_as).expect("it works");
        Datagrams::new(&world.client, (address, 8080)).echo(b"hello").expect("it works");
    }
    assert_eq!(refused(), 4);
}

#[test]
fn relayd_ends_without_the_answer() {
    let (world, names) = world();
    names.says("backend.test", Says::Nothing);
    let mut daemon = world.start(NAMED);
    assert_eq!(names.asked("backend.test"), 1);
    let start = Instant::now();
    daemon.stop();
    assert!(start.elapsed() < Duration::from_secs(20), "the resolver would go on for minutes");
}

#[test]
fn a_name_is_tried_again_until_it_resolves() {
    let (world, names) = world();
    let mut daemon = world.start(NAMED);
    let _server = tcp_server(&world.backend, 80);
    let ctl = daemon.ctl.clone();
    assert!(fault(&ctl, "named").starts_with("backend.test does not resolve: "), "{}", fault(&ctl, "named"));
    let log = daemon.log();
    assert!(log.contains("backend.test does not resolve") && log.contains("it is tried again"), "{log}");
    let limit = Duration::from_secs(30);
    within(limit, "it is tried again, and again", &mut || names.asked("backend.test") >= 4);
    // the next time would be in eight seconds
    world.relay.add_address("uplink", [192, 0, 2, 7], 32);
    within(Duration::from_secs(6), "a new address may help", &mut || names.asked("backend.test") >= 5);
    names.says("backend.test", Says::Address(BACKEND));
    eventually("it resolves", || state(&ctl, "named") == "active");
    works(&world, 8080);
}

#[test]
fn a_command_waits_for_its_names_and_nothing_waits_for_it() {
    let (world, names) = world();
    let daemon = world.start(PLAIN);
    let _server = tcp_server(&world.backend, 80);
    let ctl = &daemon.ctl;
    names.says("slow.test", Says::Nothing);
    thread::scope(|scope| {
        let added = scope.spawn(|| ctl.run(&["add", "9000", "slow.test:80", "--name", "slow"]));
        let rehearsed = scope.spawn(|| ctl.run(&["set", "plain", "to=slow.test:80", "--dry-run"]));
        eventually("the name is looked up", || names.asked("slow.test") == 1);
        ctl.ok(&["add", "9090", "203.0.113.2:80"]);
        ctl.ok(&["reload"]);
        ctl.fails(1, &["show", "slow"]);
        works(&world, 9090);
        assert!(!added.is_finished() && !rehearsed.is_finished());
        names.says("slow.test", Says::Address(BACKEND));
        for said in [added, rehearsed] {
            let said = said.join().expect("relayctl");
            assert_eq!(said.code, 0, "{said:?}");
        }
    });
    works(&world, 9000);
    assert!(fs::read_to_string(&daemon.config).expect("config").contains("slow.test:80"));
    let before = ctl.ok(&["list", "-o", "tsv"]);
    for args in [
        &["add", "9001", "nosuch.test"][..],
        &["add", "9001", "nosuch.test", "--dry-run"],
        &["set", "plain", "to=nosuch.test"],
    ] {
        let refused = ctl.fails(1, args);
        assert!(refused.contains("nosuch.test does not resolve: "), "{refused}");
    }
    ctl.ok(&["add", "9001", "nosuch.test", "--name", "off", "--disabled"]);
    assert_eq!(fault(ctl, "off"), "", "nobody needs the name yet");
    assert!(ctl.fails(1, &["enable", "off"]).contains("nosuch.test does not resolve: "));
    ctl.ok(&["rm", "off"]);
    assert_eq!(ctl.ok(&["list", "-o", "tsv"]), before);
}

#[test]
fn what_happens_meanwhile_counts() {
    let (world, names) = world();
    let daemon = world.start(&[PLAIN, LATE].concat());
    let ctl = &daemon.ctl;
    for name in ["one.test", "two.test", "three.test"] {
        names.says(name, Says::Nothing);
    }
    thread::scope(|scope| {
        let gone = scope.spawn(|| ctl.run(&["set", "late", "to=one.test"]));
        let changed = scope.spawn(|| ctl.run(&["set", "plain", "to=one.test"]));
        let mut left = Command::new(binary("relayctl"));
        left.arg("--socket").arg(&ctl.socket).args(["add", "9000", "two.test", "--name", "two"]);
        let mut left = left.stderr(Stdio::null()).spawn().expect("relayctl");
        eventually("all are looked up", || names.asked("one.test") * names.asked("two.test") == 1);
        ctl.ok(&["rm", "late"]);
        ctl.ok(&["set", "plain", "note=meanwhile"]);
        left.kill().expect("kill");
        left.wait().expect("wait");
        names.says("one.test", Says::Address(BACKEND));
        let gone = gone.join().expect("relayctl");
        assert!(gone.code == 1 && gone.err.contains("there is no rule \"late\""), "{gone:?}");
        assert_eq!(changed.join().expect("relayctl").code, 0);
    });
    let rule = ctl.rule("plain");
    assert_eq!((&rule["note"], &rule["to"][0]["addr"]), (&"meanwhile".into(), &"one.test".into()), "{rule}");
    // what comes after the answer that nobody waits for any more
    names.says("two.test", Says::Address(BACKEND));
    names.says("three.test", Says::Address(BACKEND));
    ctl.ok(&["add", "9001", "three.test"]);
    ctl.fails(1, &["show", "two"]);
}

#[test]
fn an_address_outlives_the_name_server_and_relayd() {
    let (world, names) = world();
    names.says("backend.test", Says::Address(BACKEND));
    let mut daemon = world.start(NAMED);
    let _server = tcp_server(&world.backend, 80);
    let load = Load::new()
        .with_connections(&world.client, (RELAY, 8080), 5)
        .with_newcomers(&world.client, (RELAY, 8080));
    load.run_on(50);
    names.says("backend.test", Says::Nothing);
    daemon.kill();
    daemon.start_again(&world.relay);
    assert_eq!(state(&daemon.ctl, "named"), "active", "what is known does not wait");
    load.run_on(50);
    names.says("backend.test", Says::NoSuchName);
    daemon.ctl.ok(&["reload"]);
    eventually("the failure is logged", || {
        daemon.log().contains("backend.test keeps its address 203.0.113.2")
    });
    assert_eq!(state(&daemon.ctl, "named"), "active");
    load.run_on(50);
    load.finish();
}

#[test]
fn an_address_outlives_a_change_that_is_undone() {
    let (world, names) = world();
    names.says("backend.test", Says::Address(BACKEND));
    let daemon = world.start(NAMED);
    let ctl = &daemon.ctl;
    names.says("backend.test", Says::Nothing);
    fs::write(world.folder().join("other.toml"), PLAIN).expect("file");
    let applied = ctl.ok(&["apply", "other.toml", "--confirm", "1s"]);
    assert!(applied.contains("rule named removed"), "{applied}");
    eventually("the apply lapses", || ctl.run(&["show", "named"]).code == 0);
    assert_eq!(state(ctl, "named"), "active");
    ctl.ok(&["disable", "named"]);
    ctl.ok(&["enable", "named"]);
    assert_eq!(state(ctl, "named"), "active");
    assert_eq!(names.asked("backend.test"), 1, "nobody had to ask again");
}

/// Adds to the configuration file.
fn append(daemon: &Daemon, rules: &str) {
    let text = fs::read_to_string(&daemon.config).expect("config");
    fs::write(&daemon.config, text + rules).expect("config");
}

#[test]
fn a_reload_looks_names_up_and_does_not_wait_to_carry_the_rest() {
    let (world, names) = world();
    let daemon = world.start(PLAIN);
    let ctl = &daemon.ctl;
    names.says("backend.test", Says::Nothing);
    append(&daemon, &[NAMED, "[[rule]]\nname = \"more\"\nlisten = 9090\nto = \"203.0.113.2\"\n"].concat());
    thread::scope(|scope| {
        let rehearsed = scope.spawn(|| ctl.run(&["diff"]));
        eventually("a rehearsal asks too", || names.asked("backend.test") == 1);
        let reloaded = ctl.run(&["reload"]);
        assert_eq!(reloaded.code, 5, "{reloaded:?}");
        assert!(reloaded.out.contains("rule \"named\" does not work: backend.test is being resolved"));
        assert_eq!(state(ctl, "more"), "active");
        names.says("backend.test", Says::NoSuchName);
        let rehearsed = rehearsed.join().expect("relayctl");
        assert_eq!(rehearsed.code, 5, "{rehearsed:?}");
    });
    let again = ctl.run(&["reload"]);
    assert_eq!(again.code, 5, "{again:?}");
    assert!(again.out.contains("backend.test does not resolve"), "{again:?}");
    names.says("backend.test", Says::Address(BACKEND));
    ctl.ok(&["reload"]);
    assert_eq!(state(ctl, "named"), "active");
    names.says("backend.test", Says::Address([203, 0, 113, 3].into()));
    daemon.signal(Signal::SIGHUP);
    eventually("the new address", || ctl.rule("named")["to"][0]["resolved"] == "203.0.113.3");
}
