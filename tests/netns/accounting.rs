//! What a rule has carried outlives relayd, its database and its disk, and forwarding never waits for any of it.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use harness::daemon::{binary, settings};
use harness::traffic::{Client, Datagrams, Server, tcp_server, text, udp_server};
use harness::world::RELAY;
use harness::{Daemon, World, eventually, within};
use nix::mount::{MsFlags, mount, umount};

const WEB: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";
const USER: &str =
    "[[rule]]\nname = \"slow\"\nlisten = \":8081\"\nto = \"203.0.113.2:80\"\nplane = \"user\"\n";
/// Longer than relayd waits between writes.
const WRITTEN: Duration = Duration::from_secs(25);

fn servers(world: &World) -> (Server, Server) {
    (tcp_server(&world.backend, 80), udp_server(&world.backend, 80))
}

/// Packets and bytes, in and out, that a rule has ever carried.
fn lifetime(daemon: &Daemon, rule: &str) -> [u64; 4] {
    ["/ingress/packets", "/ingress/bytes", "/egress/packets", "/egress/bytes"]
        .map(|pointer| daemon.ctl.counter(rule, &format!("/lifetime{pointer}")))
}

/// Datagrams of so many bytes, there and back: a known number of packets and bytes.
fn echo(world: &World, port: u16, count: u64) -> [u64; 4] {
    let socket = Datagrams::new(&world.client, SocketAddr::from((RELAY, port)));
    for _ in 0..count {
        socket.echo(&text(472)).expect("forwarded");
    }
    [count, count * 500, count, count * 500]
}

fn sum(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    std::array::from_fn(|at| a[at] + b[at])
}

/// What the history of a rule adds up to.
fn history(daemon: &Daemon, rule: &str, by: &str) -> [u64; 4] {
    let view = daemon.ctl.json(&["history", rule, "--by", by]);
    let rows = view["rows"].as_array().expect("rows");
    let of = |pointer: &str| {
        rows.iter()
            .map(|row| row.pointer(pointer).and_then(serde_json::Value::as_u64).expect("a number"))
            .sum()
    };
    ["/ingress/packets", "/ingress/bytes", "/egress/packets", "/egress/bytes"].map(of)
}

#[test]
fn totals_go_on_over_stops_kills_and_a_rules_end() {
    let world = World::new();
    let _servers = servers(&world);
    let mut daemon = world.start(&[WEB, USER].concat());
    let mut total = echo(&world, 8080, 20);
    eventually("counted", || lifetime(&daemon, "web") == total);
    let slow = echo(&world, 8081, 10);
    eventually("counted", || lifetime(&daemon, "slow") == slow);
    for ending in [Daemon::stop, Daemon::kill] {
        ending(&mut daemon);
        // the kernel goes on forwarding
        total = sum(total, echo(&world, 8080, 5));
        daemon.start_again(&world.relay);
        assert_eq!((lifetime(&daemon, "web"), lifetime(&daemon, "slow")), (total, slow));
    }
    // a rule that has gone leaves its account, and goes on with it under its name
    daemon.ctl.ok(&["rm", "web"]);
    daemon.ctl.ok(&["add", "--name", "web", ":8080", "203.0.113.2:80"]);
    total = sum(total, echo(&world, 8080, 7));
    within(WRITTEN, "what the old slot counted is in the account", &mut || lifetime(&daemon, "web") == total);
    // other maps, and another boot
    daemon.ctl.ok(&["down"]);
    daemon.stop();
    let boot = world.folder().join("boot_id");
    fs::write(&boot, "another\n").expect("write");
    let to = "/proc/sys/kernel/random/boot_id";
    mount(Some(&boot), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("another boot");
    daemon.start_again(&world.relay);
    assert_eq!(lifetime(&daemon, "web"), total);
    total = sum(total, echo(&world, 8080, 3));
    eventually("counted", || lifetime(&daemon, "web") == total);
    daemon.stop();
    daemon.start_again(&world.relay);
    for by in ["minute", "hour", "day", "month"] {
        assert_eq!(history(&daemon, "web", by), total, "{by}");
        assert_eq!(history(&daemon, "slow", by), slow, "{by}");
    }
    shown(&world, &daemon, total);
}

/// One account in all its forms.
fn shown(world: &World, daemon: &Daemon, [packets, bytes, ..]: [u64; 4]) {
    let csv =
        daemon.ctl.ok(&["history", "web", "--by", "month", "--count", "max", "--factor", "2", "-o", "csv"]);
    let last: Vec<&str> = csv.lines().last().expect("a row").split(',').collect();
    let month: Vec<String> = [bytes, packets, bytes, packets].iter().map(u64::to_string).collect();
    assert_eq!(last[2..6], month, "{csv}");
    assert_eq!(last[7], (2 * bytes).to_string(), "{csv}");
    let tsv = daemon.ctl.ok(&["history", "web", "--by", "month", "-o", "tsv"]);
    assert!(tsv.lines().last().expect("a row").contains(&format!("\t{bytes}\t")), "{tsv}");
    let table = daemon.ctl.ok(&["history", "web", "--since", "7d"]);
    assert!(table.starts_with("TIME (UTC)") && table.contains("total"), "{table}");
    assert!(daemon.ctl.ok(&["history", "web", "--plot"]).contains('█'));
    let svg = world.folder().join("web.svg");
    daemon.ctl.ok(&["history", "web", "--svg", svg.to_str().expect("path")]);
    assert!(fs::read_to_string(svg).expect("svg").ends_with("</svg>\n"));
    let all = daemon.ctl.ok(&["history"]);
    assert!(all.contains("web") && all.contains("slow"), "{all}");
    daemon.ctl.fails(1, &["history", "nobody"]);
    daemon.ctl.fails(2, &["history", "web", "--since", "yesterday"]);
    let empty = daemon.ctl.ok(&["history", "web", "--until", "2020-01-01"]);
    assert_eq!(empty, "rule web had no traffic in that time\n");
}

#[test]
fn what_no_rule_explains_of_the_interfaces_is_told() {
    let world = World::new();
    let _servers = servers(&world);
    let mut daemon = world.start(WEB);
    let traffic = |daemon: &Daemon| {
        let status = daemon.ctl.json(&["status"]);
        ["interface_bytes", "rule_bytes", "unexplained_bytes"]
            .map(|key| status["traffic"][key].as_u64().expect("a number"))
    };
    // from the first account on
    eventually("watched", || daemon.ctl.json(&["status"])["interfaces"][0]["lifetime"].is_object());
    let before = traffic(&daemon);
    let carried = echo(&world, 8080, 200);
    let on_the_wire = 2 * (carried[1] + carried[3] + 14 * (carried[0] + carried[2]));
    let [interfaces, rules, unexplained] = traffic(&daemon);
    assert_eq!(rules - before[1], on_the_wire);
    assert!(interfaces - before[0] >= on_the_wire);
    // neighbours ask for each other now and then
    assert!(unexplained - before[2] < 10_000, "{unexplained} bytes of no rule");
    // the host's own traffic, one way
    let host = udp_server(&world.relay, 9000);
    let socket = Datagrams::new(&world.client, SocketAddr::from((RELAY, 9000)));
    for _ in 0..100 {
        socket.echo(&text(972)).expect("answered");
    }
    drop(host);
    let own = traffic(&daemon)[2] - unexplained;
    assert!((2 * 100 * 1014..2 * 100 * 1014 + 10_000).contains(&own), "{own} bytes of no rule");
    let last = traffic(&daemon);
    daemon.stop();
    daemon.start_again(&world.relay);
    eventually("read again", || traffic(&daemon)[0] >= last[0]);
    assert!(traffic(&daemon)[0] < last[0] + 10_000);
    let text = daemon.ctl.ok(&["status"]);
    assert!(text.contains("over interfaces") && text.contains("of no rule"), "{text}");
}

#[test]
fn a_database_of_no_use_is_moved_aside() {
    let world = World::new();
    let _servers = servers(&world);
    let mut daemon = world.start(WEB);
    let mut total = echo(&world, 8080, 4);
    let state = world.folder().join("state");
    for damage in ["no database".repeat(1000), String::from("short")] {
        daemon.stop();
        fs::write(state.join("history.db"), damage).expect("damage");
        daemon.start_again(&world.relay);
        total = sum(total, echo(&world, 8080, 4));
        // what the kernel counts is there still
        eventually("counted", || lifetime(&daemon, "web") == total);
    }
    assert_eq!(daemon.log().matches("history.db.broken-").count(), 2);
    let names = fs::read_dir(&state).expect("folder").map(|entry| entry.expect("entry").file_name());
    assert!(names.into_iter().any(|name| name.to_string_lossy().starts_with("history.db.broken-")));
    daemon.stop();
    daemon.start_again(&world.relay);
    assert_eq!(history(&daemon, "web", "minute"), total);
}

#[test]
fn a_full_disk_costs_nothing() {
    let world = World::new();
    let _servers = servers(&world);
    let state = world.folder().join("state");
    fs::create_dir(&state).expect("folder");
    mount(Some("small"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).expect("a small disk");
    let full = || {
        let filler = "x".repeat(2 << 20);
        assert!(fs::write(state.join("filler"), filler).is_err(), "the disk is small");
    };
    full();
    let mut daemon = world.start(&[WEB, USER].concat());
    let mut total = echo(&world, 8080, 5);
    let lines = |daemon: &mut Daemon, text: &str| daemon.log().matches(text).count();
    within(WRITTEN, "it is said", &mut || lines(&mut daemon, "history cannot be written") == 1);
    Client::connect(&world.client, (RELAY, 8081))
        .and_then(|client| client.upload(1 << 20))
        .expect("user plane");
    fs::remove_file(state.join("filler")).expect("room");
    within(WRITTEN, "there is room", &mut || lines(&mut daemon, "history is written again") == 1);
    // and full while relayd runs
    full();
    total = sum(total, echo(&world, 8080, 5));
    within(WRITTEN, "it is said again", &mut || lines(&mut daemon, "history cannot be written") == 2);
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(lines(&mut daemon, "history cannot be written"), 2, "and only once");
    eventually("counted", || lifetime(&daemon, "web") == total);
    fs::remove_file(state.join("filler")).expect("room");
    within(WRITTEN, "there is room again", &mut || lines(&mut daemon, "history is written again") == 2);
    daemon.stop();
    daemon.start_again(&world.relay);
    assert_eq!((lifetime(&daemon, "web"), history(&daemon, "web", "minute")), (total, total));
    drop(daemon);
    umount(&state).expect("nobody uses it");
}

#[test]
fn a_state_folder_is_one_relayds() {
    let world = World::new();
    let _servers = servers(&world);
    let mut daemon = world.start(WEB);
    let folder = world.folder();
    let config = settings(folder, "").replace("relay.sock", "other.sock").replace("/bpf\"", "/bpf2\"");
    fs::write(folder.join("other.toml"), config).expect("config");
    let mut second = Command::new(binary("relayd"));
    second.arg("--config").arg(folder.join("other.toml")).env_remove("NOTIFY_SOCKET");
    let said = world.relay.run(|| second.output()).expect("relayd runs");
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && text.contains("another relayd has the state folder"), "{text}");
    echo(&world, 8080, 1);
    // one that has died holds nothing
    daemon.kill();
    daemon.start_again(&world.relay);
}
