//! Hosts that lack what the kernel plane needs: relayd starts, says what is missing, and shows it for every rule.

use std::fs;
use std::net::IpAddr;
use std::process::Command;

use harness::daemon::{binary, settings};
use harness::traffic::{Client, tcp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{Daemon, World};

const RULES: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

fn assert_without_kernel(daemon: &mut Daemon, reason: &str) {
    let log = daemon.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("WARN no kernel plane: ")).collect();
    assert!(said.len() == 1 && said[0].contains(reason), "one line says what is missing: {log}");
    let status = daemon.ctl.json(&["status"]);
    assert_eq!(status["kernel"]["available"], false);
    assert!(status["kernel"]["reason"].as_str().is_some_and(|text| text.contains(reason)), "{status}");
    let rule = daemon.ctl.rule("web");
    assert_eq!(
        (&rule["state"], &rule["plane"]["ipv4"]["plane"]),
        (&"active".into(), &"user".into()),
        "{rule}"
    );
    let why = rule["plane"]["ipv4"]["reason"].as_str();
    assert!(why.is_some_and(|text| text.contains(reason)), "{rule}");
    let refused = daemon.ctl.fails(1, &["add", "81", "203.0.113.2", "--plane", "kernel"]);
    assert!(
        refused.contains("plane = \"kernel\", but the kernel plane cannot carry it")
            && refused.contains(reason)
    );
}

#[test]
fn without_rights_everything_but_the_kernel_plane_works() {
    let world = World::new();
    let mut daemon = world.start_unprivileged(RULES);
    assert_without_kernel(&mut daemon, "CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF are missing");
    daemon.ctl.ok(&["set", "web", "note=saved by its own user"]);
    let _server = tcp_server(&world.backend, 80);
    for relay in [IpAddr::from(RELAY), IpAddr::from(RELAY_V6)] {
        let client = Client::connect(&world.client, (relay, 8080)).expect("connect");
        client.upload(1 << 20).expect("the user plane carries it");
    }
    let counters = &daemon.ctl.rule("web")["counters"];
    assert_eq!(counters["unit"], "payload", "{counters}");
    assert!(counters["ingress"]["bytes"].as_u64() >= Some(2 << 20), "{counters}");
    let text = fs::read_to_string(&daemon.config).expect("config");
    assert!(text.contains("saved by its own user"), "{text}");
}

#[test]
fn a_place_for_pins_that_cannot_be_made_is_named() {
    let world = World::new();
    let path = world.folder().join("relay.toml");
    fs::write(&path, settings(world.folder(), "").replace("/bpf\"", "/relay.toml/bpf\"") + RULES)
        .expect("config");
    let mut command = Command::new(binary("relayd"));
    command.arg("--config").arg(path);
    let mut daemon = Daemon::spawn(&world.relay, world.folder(), command);
    assert_without_kernel(&mut daemon, "relay.toml/bpf: Not a directory");
}

#[test]
fn the_kernel_plane_can_be_switched_off() {
    let world = World::new();
    let mut daemon = world.start_with("hook = \"off\"", RULES);
    assert_without_kernel(&mut daemon, "hook = \"off\"");
    assert_eq!(world.tc_programs("uplink"), 0);
}

#[test]
fn pins_of_another_layout_are_left_alone() {
    let world = World::new();
    let mut daemon = world.start(RULES);
    daemon.stop();
    let pins = world.folder().join("bpf");
    fs::rename(pins.join("abi1"), pins.join("abi0")).expect("rename");
    let hooks = world.tc_programs("uplink");
    daemon.start_again(&world.relay);
    assert_without_kernel(&mut daemon, "another version's programs are attached");
    assert_eq!(world.tc_programs("uplink"), hooks, "they go on forwarding");
    daemon.ctl.ok(&["down"]);
    daemon.ctl.ok(&["reload"]);
    assert_eq!(daemon.ctl.rule("web")["state"], "active");
}
