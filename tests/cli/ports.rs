//! Ports that somebody else has: who it is, what can be done, and that nothing else is held up.

use std::fs;

use harness::programs::Stranger;
use harness::traffic::{Client, tcp_server};
use harness::world::RELAY;
use harness::{Daemon, World, eventually};

use super::refusals::{WEB, works};

fn port_in_use(daemon: &Daemon, listen: &str, by: &str) {
    let said = daemon.ctl.fails(1, &["add", listen, "203.0.113.2", "--protocol", "tcp"]);
    assert!(said.contains(&format!("is in use by {by}")), "{listen}: {said}");
    assert!(said.contains("stop it, choose another port, or set force = true"), "{said}");
}

#[test]
fn a_port_in_use_names_the_program() {
    let world = World::new();
    let daemon = world.start(WEB);
    let _server = tcp_server(&world.backend, 80);
    let nginx = Stranger::listen(&world.relay, &daemon.ctl, world.folder(), "nginx", 8080);
    let by = format!("nginx (pid {})", nginx.pid());
    eventually("the program has its name", || {
        fs::read_to_string(format!("/proc/{}/comm", nginx.pid())).is_ok_and(|name| name.trim() == "nginx")
    });
    for listen in ["8080", "198.51.100.1:8080", "%uplink:8080", "8000-9000"] {
        port_in_use(&daemon, listen, &by);
    }
    daemon.ctl.ok(&["add", "8080", "203.0.113.2", "--protocol", "udp", "--name", "udp"]);
    daemon.ctl.ok(&["add", "8080", "203.0.113.2:80", "--protocol", "tcp", "--name", "tcp", "--force"]);
    Client::connect(&world.client, (RELAY, 8080)).and_then(Client::seen_as).expect("taken by force");
    works(&world);
}

#[test]
fn a_range_over_sshd_is_refused() {
    let world = World::new();
    let daemon = world.start(WEB);
    let sshd = Stranger::listen(&world.relay, &daemon.ctl, world.folder(), "sshd", 22);
    let by = format!("sshd (pid {})", sshd.pid());
    eventually("sshd has its name", || {
        fs::read_to_string(format!("/proc/{}/comm", sshd.pid())).is_ok_and(|name| name.trim() == "sshd")
    });
    for listen in ["1-79", "22", "20-25", "198.51.100.1:1-79"] {
        port_in_use(&daemon, listen, &by);
    }
    assert_eq!(daemon.ctl.json(&["list"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn a_rule_whose_port_is_taken_at_the_start_waits_for_it() {
    let world = World::new();
    let other = world.relay.run(|| std::net::TcpListener::bind("0.0.0.0:81")).expect("bind");
    let both = format!("{WEB}{}", WEB.replace("web", "late").replace(":80\"\nto", ":81\"\nto"));
    let daemon = world.start(&both);
    let _server = tcp_server(&world.backend, 80);
    works(&world);
    let late = daemon.ctl.rule("late");
    assert_eq!(late["state"], "error");
    assert!(
        late["faults"][0].as_str().is_some_and(|fault| fault.contains("port 81/tcp is in use by")),
        "{late}"
    );
    drop(other);
    eventually("the port is free", || daemon.ctl.rule("late")["state"] == "active");
    Client::connect(&world.client, (RELAY, 81)).and_then(Client::seen_as).expect("it works by itself now");
}
