//! Quotas and ends: the programs keep them on both planes, whether relayd is there or not, and what is over ends.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::traffic::{Datagrams, text, udp_server};
use harness::world::{BACKEND, RELAY};
use harness::{Daemon, NetNs, World, eventually, within};
use serde_json::Value;

const PLANES: [&str; 2] = ["kernel", "user"];
/// Overshoot that a quota may have, in bytes.
const OVERSHOOT: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

fn rule(name: &str, port: u16, plane: &str, more: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\nlisten = \":{port}\"\nto = \"203.0.113.2:80\"\nplane = \"{plane}\"\n{more}\n"
    )
}

/// A backend that sends everything it can.
fn backend(ns: &NetNs) {
    let listener = ns.run(|| TcpListener::bind((BACKEND, 80))).expect("bind");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || while stream.write_all(&[7; 64 * 1024]).is_ok() {});
        }
    });
}

fn connect(world: &World, port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::from((RELAY, port));
    let stream = world.client.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(stream)
}

/// Takes what comes until that ends, or enough has come. Returns how much, and whether the connection was ended.
fn download(mut stream: TcpStream, enough: u64) -> (u64, bool) {
    let (mut buffer, mut got, begin) = (vec![0; 256 * 1024], 0, Instant::now());
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (got, true),
            Ok(length) => got += length as u64,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return (got, true),
            // it has to say something for the stack to answer that there is no such connection
            Err(_silent) => _ = stream.write_all(b"?"),
        }
        if got > enough || begin.elapsed() > LIMIT {
            return (got, false);
        }
    }
}

fn state(daemon: &Daemon, name: &str) -> Value {
    daemon.ctl.json(&["show", name])["state"].clone()
}

fn quota(daemon: &Daemon, args: &[&str]) -> Value {
    daemon.ctl.json(&[&["quota"], args].concat())["quota"].clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn what_is_used_up_is_blocked_and_its_flows_end() {
    for plane in PLANES {
        let world = World::new();
        backend(&world.backend);
        let daemon = world.start(&rule("web", 8080, plane, "quota = { limit = \"30MB\", count = \"out\" }"));
        let stream = connect(&world, 8080).expect("connect");
        let (got, ended) = download(stream, 200_000_000);
        assert!(got < 30_000_000 + OVERSHOOT, "{plane}: {got} bytes passed");
        assert!(got > 28_000_000, "{plane}: {got} bytes passed");
        assert!(ended, "{plane}: the client was told");
        within(LIMIT, "it is blocked", &mut || state(&daemon, "web") == "blocked");
        assert!(connect(&world, 8080).is_err(), "{plane}: nobody listens");
        let view = quota(&daemon, &["web"]);
        assert_eq!((&view["state"], &view["limit_bytes"]), (&"blocked".into(), &30_000_000.into()));
        assert!(
            (30_000_000..30_000_000 + OVERSHOOT).contains(&number(&view["used_bytes"])),
            "{plane}: {view}"
        );
        eventually("no flow is left", || daemon.ctl.counter("web", "/flows/active") == 0);
        // somebody has paid
        daemon.ctl.ok(&["quota", "web", "--reset"]);
        assert_eq!(state(&daemon, "web"), "active");
        let stream = connect(&world, 8080).expect("it is open again");
        assert!(download(stream, 1_000_000).0 > 1_000_000);
        let ledger = daemon.ctl.json(&["quota", "web"])["ledger"].clone();
        assert_eq!(
            (ledger[0]["why"].clone(), number(&ledger[0]["egress_bytes"]) >= 30_000_000),
            ("manual".into(), true)
        );
    }
}

#[test]
fn a_quota_holds_without_relayd_and_is_remembered() {
    let world = World::new();
    backend(&world.backend);
    let mut daemon = world.start(&rule("web", 8080, "kernel", "quota = \"40MB\""));
    let stream = connect(&world, 8080).expect("connect");
    assert!(download(stream, 10_000_000).0 > 10_000_000);
    daemon.kill();
    let stream = connect(&world, 8080).expect("the kernel carries it");
    let (got, _) = download(stream, 200_000_000);
    assert!(got < 32_000_000 + OVERSHOOT, "{got} bytes passed while relayd was dead");
    daemon.start_again(&world.relay);
    within(LIMIT, "it is blocked", &mut || state(&daemon, "web") == "blocked");
    let used = number(&quota(&daemon, &["web"])["used_bytes"]);
    assert!((40_000_000..40_000_000 + OVERSHOOT).contains(&used), "{used}");
    daemon.kill();
    daemon.start_again(&world.relay);
    assert_eq!(number(&quota(&daemon, &["web"])["used_bytes"]) / 100_000, used / 100_000);
    eventually("it is blocked again", || state(&daemon, "web") == "blocked");
    daemon.ctl.ok(&["set", "web", "quota.limit=1GB"]);
    assert_eq!(state(&daemon, "web"), "active");
    assert!(connect(&world, 8080).is_ok(), "a larger quota has room");
}

#[test]
fn members_of_a_group_share_its_quota() {
    let world = World::new();
    backend(&world.backend);
    let _udp = udp_server(&world.backend, 80);
    let group = "[[group]]\nname = \"alice\"\nquota = { limit = \"20MB\", count = \"out\" }\n";
    let member = "group = \"alice\"";
    let daemon = world.start(
        &[
            group,
            &rule("one", 8080, "kernel", member),
            &rule("two", 8081, "user", member),
            &rule("free", 8082, "kernel", ""),
        ]
        .concat(),
    );
    let (first, _) = download(connect(&world, 8080).expect("connect"), 8_000_000);
    let (second, _) = download(connect(&world, 8081).expect("connect"), 200_000_000);
    assert!(first + second < 20_000_000 + 2 * OVERSHOOT, "{first} and {second} bytes");
    assert!(second > 5_000_000, "{second} bytes of the second");
    for name in ["one", "two"] {
        within(LIMIT, "members are blocked", &mut || state(&daemon, name) == "blocked");
    }
    assert_eq!(state(&daemon, "free"), "active");
    assert!(download(connect(&world, 8082).expect("connect"), 1_000_000).0 > 1_000_000);
    let view = daemon.ctl.json(&["quota", "alice", "--group"]);
    assert_eq!(view["rules"], serde_json::json!(["one", "two"]));
    assert_eq!(view["quota"]["state"], "blocked");
    daemon.ctl.ok(&["quota", "alice", "--group", "--reset"]);
    assert_eq!([state(&daemon, "one"), state(&daemon, "two")], ["active", "active"]);
    let socket = Datagrams::new(&world.client, SocketAddr::from((RELAY, 8081)));
    eventually("UDP passes, too", || socket.echo(&text(100)).is_ok());
}

#[test]
fn what_is_used_up_may_be_slow_instead() {
    for plane in PLANES {
        let world = World::new();
        backend(&world.backend);
        let more = "quota = { limit = \"5MB\", over = \"throttle:8Mbps\" }";
        let daemon = world.start(&rule("web", 8080, plane, more));
        let stream = connect(&world, 8080).expect("connect");
        let reader = stream.try_clone().expect("a descriptor");
        let reading = thread::spawn(move || download(reader, 100_000_000));
        within(LIMIT, "it is used up", &mut || quota(&daemon, &["web"])["state"] == "throttled");
        thread::sleep(Duration::from_secs(2));
        let count = || (daemon.ctl.counter("web", "/egress/bytes"), Instant::now());
        let (before, begin) = count();
        thread::sleep(Duration::from_secs(3));
        let (after, end) = count();
        let rate = (after - before) as f64 / end.duration_since(begin).as_secs_f64();
        assert!((500_000.0..1_100_000.0).contains(&rate), "{plane}: {rate} bytes a second");
        assert_eq!(state(&daemon, "web"), "active");
        _ = stream.shutdown(std::net::Shutdown::Both);
        let _over = reading.join();
    }
}

/// A moment so many seconds from now, as the configuration has it.
fn soon(seconds: u64) -> String {
    let ahead = format!("+{seconds} seconds");
    let output =
        Command::new("date").args(["-u", "-d", &ahead, "+%Y-%m-%dT%H:%M:%SZ"]).output().expect("date");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn what_has_an_end_ends_then() {
    for plane in PLANES {
        let world = World::new();
        backend(&world.backend);
        let daemon = world.start(&rule("web", 8080, plane, &format!("expires = \"{}\"", soon(6))));
        assert_eq!(state(&daemon, "web"), "active");
        let stream = connect(&world, 8080).expect("connect");
        let begin = Instant::now();
        let (got, ended) = download(stream, u64::MAX);
        assert!(
            ended && begin.elapsed() < Duration::from_secs(15),
            "{plane}: {got} bytes, {:?}",
            begin.elapsed()
        );
        eventually("it has expired", || state(&daemon, "web") == "expired");
        assert!(connect(&world, 8080).is_err(), "{plane}: nobody listens");
        assert!(daemon.ctl.counter("web", "/egress/bytes") > 0);
        daemon.ctl.ok(&["set", "web", "expires=2099-01-01T00:00:00Z"]);
        assert_eq!(state(&daemon, "web"), "active");
        assert!(download(connect(&world, 8080).expect("connect"), 1_000_000).0 > 1_000_000, "{plane}");
    }
}
