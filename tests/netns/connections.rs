//! The connection log: who was connected to what, how much it was, why it is over.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use harness::traffic::{Client, Datagrams, tcp_server, text, udp_server};
use harness::world::{BACKEND, RELAY, RELAY_V6};
use harness::{Daemon, NetNs, World, eventually, within};
use serde_json::Value;

const LOG: &str = "[log]\nlevel = \"error\"\nformat = \"json\"\nconnections = true\n\n";
const RULE: &str = "[[rule]]\nname = \"web\"\nlisten = \":8080\"\nto = \"203.0.113.2:80\"\n";

/// The rule's listeners by plane, which a test has to choose.
const LISTENERS: [(&str, IpAddr); 3] =
    [("user", IpAddr::V6(RELAY_V6)), ("kernel", IpAddr::V4(RELAY)), ("kernel", IpAddr::V6(RELAY_V6))];

/// What the log says of connections, one after the other.
fn lines(daemon: &mut Daemon) -> Vec<Value> {
    let entries = daemon.log();
    let entries = entries.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries
        .filter(|entry| entry["target"] == "relay::connections")
        .map(|mut entry| entry["fields"].take())
        .collect()
}

/// The one line about a client, as soon as there is one.
fn line(daemon: &mut Daemon, plane: &str, client: SocketAddr) -> Value {
    let client = client.to_string();
    let mut found = None;
    // the kernel plane believes a reset after ten seconds
    within(Duration::from_secs(40), "the connection is logged", &mut || {
        // a question has dead flows looked for
        daemon.ctl.json(&["list"]);
        let mut of_client = lines(daemon).into_iter().filter(|line| line["client"] == client.as_str());
        found = of_client.next();
        assert_eq!(of_client.next(), None, "logged twice");
        found.is_some()
    });
    let line = found.expect("a line");
    assert_eq!((&line["rule"], &line["plane"]), (&Value::from("web"), &Value::from(plane)), "{line}");
    line
}

fn echoing(world: &World, to: IpAddr) -> (Client, SocketAddr) {
    echoing_from(&world.client, to)
}

fn echoing_from(ns: &NetNs, to: IpAddr) -> (Client, SocketAddr) {
    let client = Client::connect(ns, SocketAddr::from((to, 8080))).expect("connect");
    let own = client.0.local_addr().expect("address");
    let mut client = client.start_echo().expect("order");
    // with the first one
    client.echo(&text(999)).expect("echo");
    (client, own)
}

fn datagrams(world: &World, to: IpAddr) -> (Datagrams, SocketAddr) {
    let socket = Datagrams::new(&world.client, SocketAddr::from((to, 8080)));
    socket.echo(&text(500)).and_then(|()| socket.echo(&text(500))).expect("echo");
    let own = socket.0.local_addr().expect("address");
    (socket, own)
}

/// What 1,000 bytes there and back come to: the order to echo them has nine.
fn check_bytes(line: &Value, extra: u64) {
    let bytes = |key: &str| line[key].as_u64().expect("a number");
    if line["plane"] == "user" {
        assert_eq!((bytes("ingress"), bytes("egress")), (1000 + extra, 1000), "{line}");
    } else {
        assert!(bytes("ingress") > 1000 + extra && bytes("egress") > 1000, "headers too: {line}");
    }
}

#[test]
fn every_connection_has_one_line_with_its_reason() {
    let world = World::new();
    let mut daemon = world.start(&format!("{LOG}{RULE}"));
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for (plane, to) in LISTENERS {
        daemon.ctl.ok(&["set", "web", "timeout=", &format!("plane={plane}")]);
        let (client, closed) = echoing(&world, to);
        drop(client);
        let (client, reset) = echoing(&world, to);
        client.reset();
        for (client, reason) in [(closed, "closed"), (reset, "reset")] {
            let line = line(&mut daemon, plane, client);
            assert_eq!((&line["reason"], &line["protocol"]), (&Value::from(reason), &Value::from("tcp")));
            assert_eq!(line["backend"], format!("{BACKEND}:80"), "{line}");
            assert!(line["seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{line}");
            check_bytes(&line, 9);
        }
        daemon.ctl.ok(&["set", "web", "timeout.udp=1s", "timeout.tcp_idle=2s"]);
        let ((_client, tcp), (_socket, udp)) = (echoing(&world, to), datagrams(&world, to));
        for (client, protocol) in [(udp, "udp"), (tcp, "tcp")] {
            let line = line(&mut daemon, plane, client);
            assert_eq!((&line["reason"], &line["protocol"]), (&Value::from("idle"), &Value::from(protocol)));
            assert_eq!(line["backend"], format!("{BACKEND}:80"), "{line}");
            assert!(line["seconds"].as_f64().is_some_and(|seconds| seconds >= 1.0), "{line}");
            check_bytes(&line, if protocol == "tcp" { 9 } else { 0 });
        }
        daemon.ctl.ok(&["set", "web", "timeout="]);
        let ((_client, tcp), (socket, udp)) = (echoing(&world, to), datagrams(&world, to));
        daemon.ctl.ok(&["set", "web", "accept.allow=192.0.2.0/24"]);
        // relayd looks at its UDP clients when there is something to do
        socket.0.send(b"still?").expect("send");
        for client in [tcp, udp] {
            assert_eq!(line(&mut daemon, plane, client)["reason"], "not_allowed");
        }
        daemon.ctl.ok(&["set", "web", "accept.allow="]);
    }
}

/// Neither a rule that ends nor relayd itself leaves a session without its line.
#[test]
fn rules_end_sessions_and_so_does_relayd() {
    let world = World::new();
    let mut daemon = world.start(&format!("{LOG}{RULE}"));
    let (_tcp, _udp) = (tcp_server(&world.backend, 80), udp_server(&world.backend, 80));
    for (plane, to) in LISTENERS {
        daemon.ctl.ok(&["set", "web", &format!("plane={plane}")]);
        let ((_client, tcp), (_socket, udp)) = (echoing(&world, to), datagrams(&world, to));
        daemon.ctl.ok(&["rm", "web"]);
        for client in [tcp, udp] {
            assert_eq!(line(&mut daemon, plane, client)["reason"], "rule_ended");
        }
        daemon.ctl.ok(&["add", "8080", "203.0.113.2:80", "--name", "web"]);
    }
    daemon.ctl.ok(&["set", "web", "plane=user"]);
    let ((_client, tcp), (_socket, udp)) =
        (echoing(&world, RELAY_V6.into()), datagrams(&world, RELAY_V6.into()));
    daemon.stop();
    for client in [tcp, udp] {
        assert_eq!(reasons(&mut daemon, client), ["rule_ended"], "{client}");
    }
}

/// The ports of a range have shared sockets.
#[test]
fn sessions_of_a_range_have_their_lines_too() {
    let world = World::new();
    let range = RULE.replace("8080", "2000-61999").replace("203.0.113.2:80", "203.0.113.2:2000");
    let mut daemon = world.start(&format!("{LOG}{range}plane = \"user\"\n"));
    // 8080 is as far into the range here as there
    let (_tcp, _udp) = (tcp_server(&world.backend, 8080), udp_server(&world.backend, 8080));
    for to in LISTENERS.map(|(_, to)| to) {
        let ((_client, tcp), (_socket, udp)) = (echoing(&world, to), datagrams(&world, to));
        daemon.ctl.ok(&["rm", "web"]);
        for client in [tcp, udp] {
            assert_eq!(line(&mut daemon, "user", client)["reason"], "rule_ended");
        }
        let to = ["add", "2000-61999", "203.0.113.2:2000", "--name", "web", "--plane", "user"];
        daemon.ctl.ok(&to);
    }
    let ((_client, tcp), (_socket, udp)) =
        (echoing(&world, RELAY_V6.into()), datagrams(&world, RELAY_V6.into()));
    daemon.stop();
    assert_eq!(reasons(&mut daemon, tcp), ["rule_ended"]);
    assert_eq!(reasons(&mut daemon, udp), ["rule_ended"]);
}

/// Why each of a client's connections was over, as far as it has been logged.
fn reasons(daemon: &mut Daemon, client: SocketAddr) -> Vec<Value> {
    let client = client.to_string();
    let of_client = lines(daemon).into_iter().filter(|line| line["client"] == client.as_str());
    of_client.map(|mut line| line["reason"].take()).collect()
}

#[test]
fn refused_connections_are_logged_and_silence_is_not() {
    let world = World::new();
    let mut daemon = world.start(&format!("{LOG}{RULE}timeout = {{ udp = \"1s\" }}\n"));
    for (plane, to) in LISTENERS {
        daemon.ctl.ok(&["set", "web", &format!("plane={plane}")]);
        let unheard = Datagrams::new(&world.client, SocketAddr::from((to, 8080)));
        unheard.0.send(b"anybody?").expect("send");
        // relayd's own listener accepts first, the kernel plane's answer is the backend's
        drop(Client::connect_within(&world.client, SocketAddr::from((to, 8080)), Duration::from_secs(5)));
        let before = LISTENERS.iter().take_while(|listener| **listener != (plane, to));
        let refused = before.filter(|listener| listener.0 == plane).count() + 1;
        eventually("the refusal is logged", || {
            let of_plane = |line: &&Value| line["plane"] == plane && line["reason"] == "backend_refused";
            lines(&mut daemon).iter().filter(of_plane).count() == refused
        });
        if plane == "user" {
            eventually("it is forgotten", || daemon.ctl.counter("web", "/flows/active") == 0);
        }
    }
    // what came of the datagram has been written by the time that a later connection is
    let _tcp = tcp_server(&world.backend, 80);
    for (plane, to) in LISTENERS {
        daemon.ctl.ok(&["set", "web", &format!("plane={plane}")]);
        let (_, own) = echoing(&world, to);
        line(&mut daemon, plane, own);
    }
    let lines = lines(&mut daemon);
    assert!(lines.iter().all(|line| line["protocol"] == "tcp"), "nobody answered: {lines:?}");
}

/// The programs go on telling, and relayd reads it when it is back.
#[test]
fn what_ends_while_relayd_is_dead_is_logged_later() {
    let world = World::new();
    let mut daemon = world.start(&format!("{LOG}{RULE}"));
    let _tcp = tcp_server(&world.backend, 80);
    let (client, own) = echoing(&world, RELAY.into());
    daemon.kill();
    drop(client);
    let (client, other) = echoing(&world, RELAY_V6.into());
    drop(client);
    daemon.start_again(&world.relay);
    for client in [own, other] {
        let line = line(&mut daemon, "kernel", client);
        assert_eq!(line["reason"], "closed", "{line}");
        check_bytes(&line, 9);
    }
}

#[test]
fn it_is_switched_by_a_reload() {
    let world = World::new();
    let mut daemon = world.start(RULE);
    let _tcp = tcp_server(&world.backend, 80);
    let off = std::fs::read_to_string(&daemon.config).expect("config");
    let (silent, unsaid) = echoing_from(&world.relay, RELAY.into());
    drop(silent);
    eventually("it is over", || daemon.ctl.counter("web", "/flows/active") == 0);
    let (client, said) = echoing_from(&world.relay, RELAY.into());
    let (in_kernel, said_too) = echoing(&world, RELAY.into());
    std::fs::write(&daemon.config, format!("[log]\nconnections = true\n\n{off}")).expect("edit");
    let reloaded = daemon.ctl.ok(&["reload"]);
    assert!(!reloaded.contains("restarted"), "{reloaded}");
    drop((client, in_kernel));
    for said in [said, said_too] {
        let line = format!("web: tcp {said} to {BACKEND}:80: closed after ");
        eventually("a line of text", || daemon.log().contains(&line));
    }
    let log = daemon.log();
    assert!(!log.contains(&unsaid.to_string()) && !log.contains("client="), "{log}");
    std::fs::write(&daemon.config, off).expect("edit");
    daemon.ctl.ok(&["reload"]);
    let (client, unsaid) = echoing_from(&world.relay, RELAY.into());
    drop(client);
    eventually("it is over", || daemon.ctl.counter("web", "/flows/active") == 0);
    daemon.stop();
    assert!(!daemon.log().contains(&unsaid.to_string()));
}
