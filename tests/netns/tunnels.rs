//! Tunnels: TLS, WebSocket and both, on either leg, with real peers at the other end.

mod backends;
mod carry;
mod certificates;
mod datagram_edits;
mod datagram_frames;
mod datagrams;
mod flows;
mod frames;
mod hop;
mod kaminari;
mod mux;
mod nginx;
mod openssl;
mod pool;
mod probes;
mod proxy_protocol;
mod silence;
mod slow;
mod strangers;
mod walk;
mod websockets;

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use harness::certificates::Authority;
use harness::traffic::{Client, PATIENCE, text};
use harness::world::{RELAY, RELAY_V6};
use harness::{Ctl, Daemon, NetNs, World, within};

/// What wraps a leg.
const TRANSPORTS: [&str; 3] = ["tls", "ws", "wss"];
/// Whom certificates and WebSockets are for.
const HOST: &str = "relay.test";
/// For what takes relayd a moment, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(30);

/// A world with an authority, `ca.pem`, and `server.pem` and `server.key` for [`HOST`].
fn world() -> (World, Authority) {
    let world = World::new();
    let authority = Authority::new(world.folder(), "ca");
    authority.issue("server", HOST);
    (world, authority)
}

/// Starts relayd without its programs: they are nothing to tunnels, and take longer to load than most tests do.
fn start(world: &World, rules: &str) -> Daemon {
    world.start_with("hook = \"off\"\n", rules)
}

/// A rule's text. `more`: further lines.
fn rule(name: &str, port: u16, to: &str, more: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nlisten = \":{port}\"\nto = {to}\nprotocol = \"tcp\"\n{more}\n")
}

/// How clients are taken in by a transport. `more`: further keys.
fn accept(transport: &str, more: &str) -> String {
    leg("accept", transport, "cert = \"server.pem\", key = \"server.key\"", more)
}

/// How backends are reached by a transport.
fn connect(transport: &str, more: &str) -> String {
    leg("connect", transport, &format!("sni = \"{HOST}\", ca = \"ca.pem\""), more)
}

fn leg(leg: &str, transport: &str, tls: &str, more: &str) -> String {
    let mut text = format!("{leg} = {{ transport = \"{transport}\"");
    if transport.starts_with("ws") {
        write!(text, ", host = \"{HOST}\", path = \"/tunnel\"").expect("text");
    }
    for keys in [tls, more] {
        if !keys.is_empty() && (keys != tls || transport != "ws") {
            write!(text, ", {keys}").expect("text");
        }
    }
    text + " }\n"
}

const BACKEND: &str = "\"203.0.113.2:80\"";
/// The relay's own port 443.
const EXIT: &str = "\"198.51.100.1:443\"";

/// Where a transport's tunnel begins and where it ends, both on the relay: one relayd has a pair of rules for each.
fn ports(transport: &str) -> (u16, u16) {
    match transport {
        "tls" => (81, 4431),
        "ws" => (82, 4432),
        _ => (83, 4433),
    }
}

/// Rules that wrap what comes in and send it to the relay itself: `in-tls` and so on. `more`: further keys and lines.
fn entries(more: &str, lines: &str) -> String {
    let entry = |transport| {
        let (port, to) = ports(transport);
        let leg = connect(transport, more);
        rule(&format!("in-{transport}"), port, &own(to), &[leg.as_str(), lines].concat())
    };
    TRANSPORTS.map(entry).concat()
}

/// Rules that unwrap what comes in and send it to the backend: `out-tls` and so on.
fn exits(more: &str, lines: &str) -> String {
    let exit = |transport| {
        let leg = accept(transport, more);
        rule(&format!("out-{transport}"), ports(transport).1, BACKEND, &[leg.as_str(), lines].concat())
    };
    TRANSPORTS.map(exit).concat()
}

/// Both ends of a tunnel by each transport.
fn both_ends() -> String {
    [entries("", ""), exits("", "")].concat()
}

/// A port of the relay's own as a backend.
fn own(port: u16) -> String {
    format!("\"198.51.100.1:{port}\"")
}

/// Where clients reach a port of the relay, over IPv4 and IPv6.
fn ways_in(port: u16) -> [SocketAddr; 2] {
    [(RELAY, port).into(), (RELAY_V6, port).into()]
}

/// A connection by a transport's tunnel.
fn enter(world: &World, transport: &str) -> Client {
    dial(world, ports(transport).0)
}

/// A connection by a port of the relay.
fn dial(world: &World, port: u16) -> Client {
    Client::connect(&world.client, (RELAY, port)).expect("connect")
}

/// Checks what a tunnel has to carry, whoever makes it. `connect` goes into it. Makes 11 connections.
fn carries(what: &str, connect: &(dyn Fn() -> Client + Sync)) {
    let check = |done: io::Result<()>| done.unwrap_or_else(|error| panic!("{what}: {error}"));
    // not a whole number of words, frames or records
    check(connect().upload((2 << 20) + 3));
    check(connect().download((2 << 20) + 5));
    let mut echo = connect().start_echo().unwrap_or_else(|error| panic!("{what}: {error}"));
    // where the forms of a frame's length and the sizes of records and buffers end
    for length in [1, 125, 126, 8192, 8193, 16_384, 16_385, 65_535, 65_536, 65_537] {
        check(echo.echo(&text(length)));
    }
    thread::scope(|scope| {
        for index in 0..8 {
            scope.spawn(move || match index % 2 {
                0 => check(connect().upload(200_000 + index)),
                _ => check(connect().download(200_000 + index)),
            });
        }
    });
}

/// Checks that nothing gets through a port of the relay.
fn fails(world: &World, port: u16, why: &str) {
    // a reset may be quicker, even than connect(2)
    let tried = Client::connect(&world.client, (RELAY, port)).and_then(|client| client.upload(1));
    tried.expect_err(why);
}

/// A server that answers whoever comes in its own way, on a thread for each.
fn serve(ns: &NetNs, port: u16, answer: impl Fn(Client) -> io::Result<()> + Clone + Send + 'static) {
    let listener = ns.run(|| TcpListener::bind(("::", port))).expect("bind");
    // ends with the test's process
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE))?;
                answer(Client(stream))
            });
        }
    });
}

/// Sends bytes, and returns all that comes back before the other end closes.
fn exchange(world: &World, port: u16, bytes: &[u8]) -> Vec<u8> {
    let Client(mut stream) = dial(world, port);
    stream.write_all(bytes).expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end that is no reset");
    answer
}

/// What a rule has counted under a reason.
fn drops(ctl: &Ctl, rule: &str, reason: &str) -> u64 {
    ctl.counter(rule, &format!("/drops/{reason}"))
}

/// Waits until a rule has counted one refusal under a reason and nothing else, and has said in the log which it was and
/// what helps.
fn is_counted(daemon: &mut Daemon, rule: &str, reason: &str, said: &[&str]) {
    let what = format!("rule {rule}: one {reason}");
    let ctl = daemon.ctl.clone();
    within(LIMIT, &what, &mut || ctl.rule(rule)["counters"]["drops"] == serde_json::json!({ reason: 1 }));
    let mut last = String::new();
    within(LIMIT, &format!("rule {rule}: a line with {said:?}"), &mut || {
        let log = daemon.log();
        let mut lines = log.lines().filter(|line| line.contains(&format!("rule {rule}: ")));
        let found = lines.any(|line| said.iter().all(|word| line.contains(word)));
        last = log;
        found
    });
}

/// Nothing was refused at either end of any tunnel.
fn are_clean(ctl: &Ctl) {
    for transport in TRANSPORTS {
        is_clean(ctl, &format!("in-{transport}"));
        is_clean(ctl, &format!("out-{transport}"));
    }
}

/// Nothing was refused.
fn is_clean(ctl: &Ctl, rule: &str) {
    assert_eq!(ctl.rule(rule)["counters"]["drops"], serde_json::json!({}), "{rule}");
}
