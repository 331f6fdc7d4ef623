//! `relayctl observe`: what watchers are told of both planes, what each of them asks for, and that the programs rest when
//! nobody watches.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use harness::daemon::binary;
use harness::packet::{Packet, SYN, Segment};
use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{BACKEND, CLIENT, RELAY, RELAY_V6};
use harness::{Ctl, Daemon, World, eventually, within};
use relay_common::names;
use relay_common::settings::Settings;
use serde_json::Value;

const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";
const OTHER: &str = "[[rule]]\nname = \"dns\"\nlisten = \":5353\"\nto = \"203.0.113.2:80\"\n";

/// The rule's listeners by plane, which a test has to choose.
const LISTENERS: [(&str, IpAddr); 3] =
    [("kernel", IpAddr::V4(RELAY)), ("kernel", IpAddr::V6(RELAY_V6)), ("user", IpAddr::V6(RELAY_V6))];

/// How long somebody waits who is perhaps not let in.
const LIMIT: Duration = Duration::from_millis(1500);

/// A `relayctl observe` that runs. Ends with its value.
struct Observer {
    child: Child,
    lines: Receiver<String>,
    told: Vec<Value>,
}

impl Observer {
    /// Starts watching; there are so many watchers then.
    fn start(ctl: &Ctl, args: &[&str], number: u64) -> Self {
        let mut command = Command::new(binary("relayctl"));
        command.arg("--socket").arg(&ctl.socket).args(["-o", "json", "observe"]).args(args);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("relayctl");
        let (tell, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("stdout"));
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        eventually("it is watched", || watchers(ctl) == number);
        Self { child, lines, told: Vec::new() }
    }

    /// All that was told so far.
    fn told(&mut self) -> &[Value] {
        let news = self.lines.try_iter().map(|line| serde_json::from_str(&line).expect("a JSON line"));
        self.told.extend(news);
        &self.told
    }

    /// The first event of a kind about a client.
    fn about(&mut self, kind: &str, client: SocketAddr) -> Option<Value> {
        let client = client.to_string();
        let mut of_client = self.told().iter().filter(|event| event["client"] == client.as_str());
        of_client.find(|event| event["event"] == kind).cloned()
    }

    /// The same, once it is told.
    fn wait(&mut self, kind: &str, client: SocketAddr) -> Value {
        let mut found = None;
        // the kernel plane finds silent flows in its walks
        within(Duration::from_secs(40), &format!("{kind} of {client}"), &mut || {
            found = self.about(kind, client);
            found.is_some()
        });
        found.expect("an event")
    }

    /// Ends by itself with this status; returns what it complained about.
    fn ends(mut self, code: i32) -> (Vec<Value>, String) {
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        let mut complaint = String::new();
        let mut stderr = self.child.stderr.take().expect("stderr");
        stderr.read_to_string(&mut complaint).expect("stderr");
        assert_eq!(status.and_then(|status| status.code()), Some(code), "{complaint}");
        // what it has written may be on its way through the pipe
        let rest = self.lines.iter().map(|line| serde_json::from_str(&line).expect("a JSON line"));
        self.told.extend(rest);
        (std::mem::take(&mut self.told), complaint)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn watchers(ctl: &Ctl) -> u64 {
    ctl.json(&["status"])["observers"].as_u64().expect("a number")
}

/// What relayd has told the programs to tell.
fn tells(world: &World) -> u32 {
    let pin = world.folder().join("bpf/abi1").join(names::SETTINGS);
    let map = Map::Array(MapData::from_pin(pin).expect("pin"));
    let settings: Array<_, Settings> = Array::try_from(map).expect("settings");
    settings.get(&0, 0).expect("settings").tells
}

fn connect(world: &World, to: IpAddr) -> std::io::Result<(Client, SocketAddr)> {
    let client = Client::connect_within(&world.client, SocketAddr::from((to, 8080)), LIMIT)?;
    let own = client.0.local_addr()?;
    client.0.set_read_timeout(Some(LIMIT))?;
    let mut client = client.start_echo()?;
    client.echo(&text(999))?;
    Ok((client, own))
}

fn datagrams(world: &World, to: IpAddr) -> (Datagrams, SocketAddr) {
    let socket = Datagrams::new(&world.client, SocketAddr::from((to, 8080)));
    socket.echo(&text(500)).and_then(|()| socket.echo(&text(500))).expect("echo");
    let own = socket.0.local_addr().expect("address");
    (socket, own)
}

/// Whose event it is, and where the flow leads.
fn check(event: &Value, plane: &str, protocol: &str) {
    let words = ["rule", "plane", "protocol"].map(|key| event[key].as_str().unwrap_or_default().to_owned());
    assert_eq!(words, ["web", plane, protocol], "{event}");
    assert!(event["time_ms"].as_u64().is_some_and(|time| time > 1_600_000_000_000), "{event}");
}

fn set(daemon: &Daemon, fields: &[&str]) {
    let mut words = vec!["set", "web"];
    words.extend(fields);
    daemon.ctl.ok(&words);
}

#[test]
fn flows_are_told_from_their_opening_to_their_end() {
    let world = World::new();
    let daemon = world.start(RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for (plane, to) in LISTENERS {
        set(&daemon, &["timeout=", &format!("plane={plane}")]);
        let mut observer = Observer::start(&daemon.ctl, &[], 1);
        let (client, own) = connect(&world, to).expect("connect");
        let opened = observer.wait("opened", own);
        check(&opened, plane, "tcp");
        assert_eq!(opened["listen"], SocketAddr::from((to, 8080)).to_string(), "{opened}");
        let proven = observer.wait("proven", own);
        check(&proven, plane, "tcp");
        assert_eq!(proven["backend"], format!("{BACKEND}:80"), "{proven}");
        drop(client);
        let closed = observer.wait("closed", own);
        check(&closed, plane, "tcp");
        assert_eq!(
            (&closed["reason"], &closed["backend"]),
            (&"closed".into(), &proven["backend"]),
            "{closed}"
        );
        assert!(closed["seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{closed}");
        for key in ["ingress_bytes", "egress_bytes"] {
            assert!(closed[key].as_u64().is_some_and(|bytes| (1000..10_000).contains(&bytes)), "{closed}");
        }
        let order: Vec<_> = observer.told().iter().map(|event| event["event"].clone()).collect();
        assert_eq!(order, ["opened", "proven", "closed"], "{plane} {to}");
        set(&daemon, &["timeout.udp=1s"]);
        let (_socket, own) = datagrams(&world, to);
        for kind in ["opened", "proven", "closed"] {
            // a question has dead flows looked for
            daemon.ctl.json(&["list"]);
            let event = observer.wait(kind, own);
            check(&event, plane, "udp");
            assert_eq!(event["backend"], format!("{BACKEND}:80"), "{event}");
        }
        drop(observer);
        eventually("nobody watches", || watchers(&daemon.ctl) == 0 && tells(&world) == 0);
    }
}

#[test]
fn who_is_turned_away_is_told_with_the_reason() {
    let world = World::new();
    let daemon = world.start(RULE);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for (plane, to) in LISTENERS {
        set(&daemon, &["accept=", "limit=", "to=203.0.113.2:80", &format!("plane={plane}")]);
        let mut observer = Observer::start(&daemon.ctl, &["--drops"], 1);
        let (client, first) = connect(&world, to).expect("connect");
        set(&daemon, &["limit.connections=1"]);
        assert!(connect(&world, to).is_err(), "{plane}: one too many");
        let mut found = None;
        eventually("the second one is refused", || {
            found = observer.told().iter().find(|event| event["reason"] == "limit_connections").cloned();
            found.is_some()
        });
        let refused = found.expect("an event");
        check(&refused, plane, "tcp");
        assert_eq!(refused["event"], "refused", "{refused}");
        let by: SocketAddr = refused["client"].as_str().expect("client").parse().expect("address");
        let own = if to.is_ipv4() { IpAddr::V4(CLIENT) } else { first.ip() };
        assert!(by.ip() == own && by != first, "{refused}");
        drop(client);
        set(&daemon, &["limit=", "accept.allow=192.0.2.0/24"]);
        let socket = Datagrams::new(&world.client, SocketAddr::from((to, 8080)));
        let own = socket.0.local_addr().expect("address");
        socket.0.send(b"hello?").expect("send");
        let refused = observer.wait("refused", own);
        check(&refused, plane, "udp");
        assert_eq!(refused["reason"], "not_allowed", "{refused}");
        assert_eq!(refused["listen"], SocketAddr::from((to, 8080)).to_string(), "{refused}");
        // all the backends that there are stand back
        set(&daemon, &["accept=", "to=203.0.113.2:80,203.0.113.3:80", "check=passive"]);
        for backend in ["203.0.113.2", "203.0.113.3"] {
            daemon.ctl.ok(&["backend", "web", backend, "--drain"]);
        }
        let socket = Datagrams::new(&world.client, SocketAddr::from((to, 8080)));
        let own = socket.0.local_addr().expect("address");
        socket.0.send(b"hello?").expect("send");
        let refused = observer.wait("refused", own);
        assert_eq!(refused["reason"], "no_backend", "{refused}");
        let kinds = observer.told().iter().filter(|event| event["event"] != "refused").count();
        assert_eq!(kinds, 0, "{:?}", observer.told());
        drop(observer);
        eventually("nobody watches", || watchers(&daemon.ctl) == 0);
        for backend in ["203.0.113.2", "203.0.113.3"] {
            daemon.ctl.ok(&["backend", "web", backend, "--up"]);
        }
    }
}

/// Packets of live flows that a rate does not let through, of both planes, seen by the programs.
#[test]
fn packets_are_told_with_where_they_were_going() {
    let world = World::new();
    let daemon = world.start(RULE);
    let _udp = udp_server(&world.backend, 80);
    for (plane, to) in LISTENERS {
        set(&daemon, &["rate=", &format!("plane={plane}")]);
        let (socket, own) = datagrams(&world, to);
        set(&daemon, &["rate.ingress=64kbps"]);
        let mut observer = Observer::start(&daemon.ctl, &["web", "--kind", "dropped"], 1);
        let payload = text(1000);
        eventually("more comes than may", || {
            (0..50).for_each(|_| drop(socket.0.send(&payload)));
            observer.about("dropped", own).is_some()
        });
        let dropped = observer.about("dropped", own).expect("an event");
        // the programs see to the rate of both
        check(&dropped, "kernel", "udp");
        assert_eq!((&dropped["reason"], &dropped["packets"]), (&"rate".into(), &1.into()), "{dropped}");
        assert_eq!(dropped["listen"], SocketAddr::from((to, 8080)).to_string(), "{dropped}");
        drop(observer);
        eventually("nobody watches", || watchers(&daemon.ctl) == 0);
    }
}

#[test]
fn each_watcher_gets_what_it_asks_for() {
    let world = World::new();
    let second = Ipv4Addr::new(198, 51, 100, 77);
    world.client.add_address("client", second, 24);
    let daemon = world.start(&format!("{RULE}{OTHER}"));
    let _tcp = tcp_server(&world.backend, 80);
    let mut all = Observer::start(&daemon.ctl, &[], 1);
    let mut dns = Observer::start(&daemon.ctl, &["dns"], 2);
    let mut other_client = Observer::start(&daemon.ctl, &["--client", "198.51.100.77"], 3);
    let mut user = Observer::start(&daemon.ctl, &["--plane", "user"], 4);
    let two = Observer::start(&daemon.ctl, &["web", "--kind", "opened", "-n", "2"], 5);
    for (source, port) in [(CLIENT, 8080), (second, 8080), (CLIENT, 5353)] {
        let client = Client::connect_as(&world.client, source, (RELAY, port)).expect("connect");
        client.seen_as().expect("an answer");
    }
    let of = |observer: &mut Observer, key: &str| -> Vec<Value> {
        observer
            .told()
            .iter()
            .filter(|event| event["event"] == "closed")
            .map(|event| event[key].clone())
            .collect()
    };
    eventually("all three are over", || of(&mut all, "rule").len() == 3);
    eventually("those who filter have heard", || {
        of(&mut dns, "rule").len() == 1 && of(&mut other_client, "rule").len() == 1
    });
    assert_eq!(of(&mut dns, "rule"), ["dns"]);
    assert!(other_client.told().iter().all(|event| event["rule"] == "web"), "{:?}", other_client.told());
    assert!(user.told().is_empty(), "{:?}", user.told());
    let (told, _) = two.ends(0);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|event| event["event"] == "opened" && event["rule"] == "web"), "{told:?}");
    // the programs tell as long as one is left, however the others went
    assert_eq!(tells(&world), Settings::ENDED | Settings::SEEN);
    drop((dns, other_client, user));
    eventually("one is left", || watchers(&daemon.ctl) == 1);
    assert_eq!(tells(&world), Settings::ENDED | Settings::SEEN);
    drop(all);
    eventually("nobody watches", || watchers(&daemon.ctl) == 0 && tells(&world) == 0);
}

/// The log has its own switch, and neither takes the other's along.
#[test]
fn the_connection_log_goes_on_beside_it() {
    let world = World::new();
    let log = "[log]\nlevel = \"error\"\nformat = \"json\"\nconnections = true\n\n";
    let mut daemon = world.start(&format!("{log}{RULE}"));
    let _tcp = tcp_server(&world.backend, 80);
    assert_eq!(tells(&world), Settings::ENDED);
    let observer = Observer::start(&daemon.ctl, &[], 1);
    assert_eq!(tells(&world), Settings::ENDED | Settings::SEEN);
    drop(observer);
    eventually("nobody watches", || tells(&world) == Settings::ENDED);
    let (client, own) = connect(&world, RELAY.into()).expect("connect");
    drop(client);
    eventually("it is logged", || daemon.log().contains(&own.to_string()));
}

/// A relayd that dies while it is watched leaves programs that tell nobody; the next one has them rest.
#[test]
fn watching_ends_with_relayd() {
    let world = World::new();
    let mut daemon = world.start(RULE);
    let _tcp = tcp_server(&world.backend, 80);
    let observer = Observer::start(&daemon.ctl, &[], 1);
    daemon.kill();
    let (_, complaint) = observer.ends(1);
    assert!(complaint.contains("relayd has ended the stream"), "{complaint}");
    connect(&world, RELAY.into()).expect("the kernel plane goes on");
    daemon.start_again(&world.relay);
    assert_eq!((tells(&world), watchers(&daemon.ctl)), (0, 0));
    let mut observer = Observer::start(&daemon.ctl, &[], 1);
    let (_client, own) = connect(&world, RELAY.into()).expect("connect");
    observer.wait("proven", own);
    daemon.ctl.ok(&["down"]);
    daemon.ctl.ok(&["reload"]);
    let mut found = None;
    eventually("it is attached again", || {
        found = connect(&world, RELAY.into()).ok();
        found.is_some()
    });
    let (_client, own) = found.expect("a connection");
    assert_eq!(observer.wait("opened", own)["plane"], "kernel");
    daemon.stop();
    observer.ends(1);
}

/// A flood is a sample, and what is missing is counted. A reader that does not read holds up nobody.
#[test]
fn a_flood_is_a_sample() {
    let world = World::new();
    let daemon = world.start(&format!("{RULE}accept = {{ allow = [\"198.51.100.0/24\"] }}\n"));
    let _tcp = tcp_server(&world.backend, 80);
    let mut observer = Observer::start(&daemon.ctl, &[], 1);
    world.flood(20_000, |index, (source, port)| {
        Packet::tcp((source, port), (RELAY, 8080), &Segment::flags(SYN).at(index, 0))
    });
    let (client, own) = connect(&world, RELAY.into()).expect("connect");
    drop(client);
    observer.wait("closed", own);
    let count = |observer: &mut Observer| -> (u64, u64) {
        let told = observer.told();
        let refused = told.iter().filter(|event| event["reason"] == "not_allowed").count() as u64;
        let lost = told.iter().filter_map(|event| event["lost_drops"].as_u64()).sum();
        (refused, lost)
    };
    let drops = || daemon.ctl.counter("web", "/drops/not_allowed");
    eventually("each is told or counted", || {
        let (refused, lost) = count(&mut observer);
        refused + lost == drops()
    });
    let (refused, lost) = count(&mut observer);
    assert!(refused > 50 && lost > refused, "{refused} told, {lost} lost");
    assert!(observer.about("opened", own).is_some(), "a flood of packets hides no flow");
    drop(observer);
    let log = fs::read_to_string(world.folder().join("relayd.log")).expect("log");
    assert!(!log.contains("ERROR"), "{log}");
}

/// Sessions tell of themselves, where there are no programs too; a stranger to a listener of datagrams is told with what it asked.
#[test]
fn sessions_are_told_without_ebpf() {
    let world = World::new();
    let rule = format!("{RULE}accept = {{ allow = [\"198.51.100.2\"] }}\n");
    let daemon = world.start_with("hook = \"off\"\n", &rule);
    let second = Ipv4Addr::new(198, 51, 100, 77);
    world.client.add_address("client", second, 24);
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    let mut observer = Observer::start(&daemon.ctl, &[], 1);
    let (client, own) = connect(&world, RELAY.into()).expect("connect");
    drop(client);
    assert_eq!(observer.wait("closed", own)["unit"], "payload");
    let (_socket, own) = datagrams(&world, RELAY.into());
    check(&observer.wait("proven", own), "user", "udp");
    // accepted by the kernel, and reset at once
    let _reset = Client::connect_as(&world.client, second, (RELAY, 8080));
    let is_of_stranger =
        |event: &&Value| event["client"].as_str().is_some_and(|client| client.starts_with("198.51.100.77:"));
    eventually("the stranger is told of", || observer.told().iter().any(|event| is_of_stranger(&event)));
    let events: Vec<_> = observer.told().iter().filter(is_of_stranger).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&events[0]["event"], &events[0]["reason"]), (&"refused".into(), &"not_allowed".into()));
}
