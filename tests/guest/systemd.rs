//! Relay as an operator has it: installed, run by systemd as a user of its own, changed with relayctl, killed, stopped.
//! Here this machine itself is the relay.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{RELAY, RELAY_V6, around};
use harness::{Ctl, Ends, NetNs, eventually};

const CONFIG: &str = "/etc/relay/relay.toml";
const LOCAL_PORTS: &str = "net/ipv4/ip_local_port_range";
const RESERVED_PORTS: &str = "net/ipv4/ip_local_reserved_ports";

/// Panics if anything is not as it should be.
pub fn check() {
    units_are_clean();
    // a client and a backend, each on a cable to this machine
    let relay = NetNs::own("relay");
    let (client, backend) = around(&relay);
    let _servers = (tcp_server(&backend, 80), udp_server(&backend, 80));
    let ctl = Ctl::new("/run/relay/relay.sock", "/tmp");
    // leaves too few ports for flows: relayd reserves some
    relay.sysctl(LOCAL_PORTS, "1024 65535");
    systemctl(&["enable", "--now", "relayd"]);
    starts_as_its_user();
    saves_what_is_added(&ctl);
    assert_eq!(relay.read_sysctl(RESERVED_PORTS), "10240-32767", "relayd may write network settings");
    crate::say("started, changed by relayctl");
    forwards(&client);
    reloads(&ctl);
    crate::say("forwarded, reloaded");
    carries_a_range(&ctl, &client, &backend, &relay);
    crate::say("carried a range by shared sockets");
    survives(&ctl, &client);
    crate::say("killed, stopped and started again");
    refuses_nobody(&client, 8080);
    crate::say("restarted, and no client was refused");
    goes_down(&ctl, &client, &relay);
    an_invalid_configuration_is_not_tried_again();
}

fn units_are_clean() {
    let output = run(Command::new("systemd-analyze").args(["verify", "--man=no", "relayd.service"]));
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("relay")).collect();
    assert!(ours.is_empty(), "{said}");
    let output = run(Command::new("systemd-analyze").args(["security", "--no-pager", "relayd.service"]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.contains("Overall exposure")).expect("exposure");
    let exposure = line.split_whitespace().find_map(|word| word.parse::<f32>().ok()).expect("exposure");
    assert!(exposure <= 2.0, "{line}");
    crate::say(&format!("exposure {exposure}"));
}

fn starts_as_its_user() {
    let process = fs::metadata(format!("/proc/{}", main_pid())).expect("relayd");
    let folder = fs::metadata("/etc/relay").expect("/etc/relay");
    assert_ne!(process.uid(), 0);
    assert_eq!(process.uid(), folder.uid(), "its own folder");
    let status = fs::read_to_string(format!("/proc/{}/status", main_pid())).expect("status");
    let capabilities = status.lines().find(|line| line.starts_with("CapEff:")).expect("CapEff");
    // BPF, PERFMON, NET_ADMIN, NET_BIND_SERVICE
    assert!(capabilities.ends_with("000000c000001400"), "{capabilities}");
}

fn saves_what_is_added(ctl: &Ctl) {
    ctl.ok(&["add", "8080", "203.0.113.2:80", "--name", "web"]);
    let text = fs::read_to_string(CONFIG).expect("config");
    assert!(text.contains("name = \"web\"") && text.starts_with("# Relay's configuration"), "{text}");
    let rule = ctl.rule("web");
    assert_eq!(rule["plane"]["ipv4"]["plane"], "kernel", "{rule}");
}

fn forwards(client: &NetNs) {
    Client::connect(client, (RELAY, 8080)).and_then(|client| client.upload(4 << 20)).expect("upload");
    Client::connect(client, (RELAY, 8080)).and_then(|client| client.download(4 << 20)).expect("download");
    Datagrams::new(client, (RELAY, 8080)).echo(&text(1000)).expect("echo");
}

fn reloads(ctl: &Ctl) {
    let text = fs::read_to_string(CONFIG).expect("config");
    fs::write(CONFIG, format!("{text}\n[[rule]]\nname = \"more\"\nlisten = 7000\nto = \"203.0.113.2:1\"\n"))
        .expect("config");
    systemctl(&["reload", "relayd"]);
    assert_eq!(ctl.rule("more")["state"], "active");
    fs::write(CONFIG, format!("{text}\n[[rule]]\nname = 7\n")).expect("config");
    let output = run(Command::new("systemctl").args(["reload", "relayd"]));
    assert!(!output.status.success(), "a file that is wrong is a reload that failed");
    fs::write(CONFIG, text).expect("config");
    systemctl(&["reload", "relayd"]);
    assert!(is_active());
}

/// Ports without sockets of their own need programs at the network namespace and at the root of the control groups,
/// which the unit must let relayd attach.
fn carries_a_range(ctl: &Ctl, client: &NetNs, backend: &NetNs, relay: &NetNs) {
    let (port, own) = (40_000, 40_001);
    let _servers = (tcp_server(backend, port), udp_server(backend, port));
    ctl.ok(&["add", "10000-61999", "203.0.113.2", "--name", "range", "--plane", "user"]);
    let rule = ctl.rule("range");
    assert_eq!(rule["plane"]["ipv6"]["plane"], "user", "{rule}");
    let serves = |when: &str| {
        let to = (RELAY_V6, port);
        Client::connect(client, to)
            .and_then(Client::seen_as)
            .unwrap_or_else(|error| panic!("{when}: {error}"));
        Datagrams::new(client, to).echo(&text(1000)).unwrap_or_else(|error| panic!("{when}: {error}"));
    };
    serves("added");
    {
        // nobody is there at the backend: the relay's own program answers, from its first client on
        let _own = tcp_server(relay, own);
        Client::connect(client, (RELAY_V6, own)).and_then(Client::seen_as).expect("it begins to listen");
    }
    refuses_nobody(client, port);
    serves("restarted");
    systemctl(&["stop", "relayd"]);
    eventually("systemd closes what it has kept", || Client::connect(client, (RELAY_V6, port)).is_err());
    systemctl(&["start", "relayd"]);
    serves("started");
    ctl.ok(&["rm", "range"]);
    Client::connect(client, (RELAY_V6, port)).expect_err("nobody's any more");
}

/// One connection through kill -9, stop and start.
fn survives(ctl: &Ctl, client: &NetNs) {
    let mut connection =
        Client::connect(client, (RELAY, 8080)).and_then(Client::start_echo).expect("connect");
    let mut echo =
        |when: &str| connection.echo(&text(1000)).unwrap_or_else(|error| panic!("{when}: {error}"));
    echo("before");
    let before = main_pid();
    systemctl(&["kill", "--signal=KILL", "relayd"]);
    echo("after kill -9");
    eventually("systemd has started it again", || is_active() && main_pid() != before);
    let status = ctl.json(&["status"]);
    assert_eq!(status["kernel"]["adopted"], true, "{status}");
    echo("with the next relayd");
    systemctl(&["stop", "relayd"]);
    assert!(!is_active());
    echo("after systemctl stop");
    systemctl(&["start", "relayd"]);
    echo("after systemctl start");
    assert_eq!(ctl.json(&["status"])["kernel"]["adopted"], true);
}

/// Of the user plane, whose sockets systemd keeps.
fn refuses_nobody(client: &NetNs, port: u16) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut connected = 0;
            while !is_over.load(Ordering::Relaxed) {
                let client = Client::connect(client, (RELAY_V6, port)).expect("not refused");
                let _ended_by_a_restart = client.seen_as();
                connected += 1;
            }
            connected
        });
        let over = Ends(&is_over);
        for _ in 0..2 {
            systemctl(&["restart", "relayd"]);
            let before = main_pid();
            systemctl(&["kill", "--signal=KILL", "relayd"]);
            eventually("systemd has started it again", || is_active() && main_pid() != before);
        }
        drop(over);
        assert!(clients.join().expect("nobody was refused") > 0);
    });
    Client::connect(client, (RELAY_V6, port)).and_then(|client| client.upload(1 << 20)).expect("upload");
}

fn goes_down(ctl: &Ctl, client: &NetNs, relay: &NetNs) {
    ctl.ok(&["down"]);
    Client::connect(client, (RELAY, 8080)).expect_err("nothing is forwarded any more");
    assert_eq!(relay.read_sysctl(RESERVED_PORTS), "", "settings are as they were");
    systemctl(&["restart", "relayd"]);
    Client::connect(client, (RELAY, 8080)).and_then(Client::seen_as).expect("up again");
}

fn an_invalid_configuration_is_not_tried_again() {
    systemctl(&["stop", "relayd"]);
    fs::write(CONFIG, "[[rule]]\nname = 7\n").expect("config");
    let output = run(Command::new("systemctl").args(["start", "relayd"]));
    assert!(!output.status.success());
    assert_eq!(shown("Result"), "exit-code");
    assert_eq!(shown("ActiveState"), "failed", "not waiting for another try");
    assert_eq!(shown("ExecMainStatus"), "4");
}

fn is_active() -> bool {
    shown("ActiveState") == "active"
}

fn main_pid() -> u32 {
    shown("MainPID").parse().expect("a number")
}

/// A property of the service.
fn shown(property: &str) -> String {
    let output = run(Command::new("systemctl").args(["show", "--value", "--property", property, "relayd"]));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn systemctl(args: &[&str]) {
    let output = run(Command::new("systemctl").args(args));
    if !output.status.success() {
        let log = run(Command::new("journalctl").args(["--no-pager", "--unit", "relayd", "--lines", "30"]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        panic!("systemctl {args:?}: {said}{}", String::from_utf8_lossy(&log.stdout));
    }
}

fn run(command: &mut Command) -> Output {
    command.current_dir(Path::new("/")).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
