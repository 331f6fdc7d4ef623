//! Sessions that are silent: what is between the ends must not forget them, and who has gone without a word is found.

use std::io::{ErrorKind, Read as _};
use std::thread;
use std::time::{Duration, Instant};

use harness::datagrams::Datagrams;
use harness::traffic::{Client, tcp_server, udp_server};
use harness::world::RELAY;
use harness::{World, within};

use super::datagrams::{THROUGH, with_udp};
use super::hop::Hop;
use super::{LIMIT, TRANSPORTS, enter, entries, exits, is_clean, kaminari, ports, start, world};

const ASKED: &str = "timeout = { keepalive = { idle = \"1s\", interval = \"1s\", count = 2 } }\n";
/// So many seconds of silence, and a connection is forgotten on its way.
const PATIENCE: Duration = Duration::from_secs(3);

/// Both ends, with a hop between them by each WebSocket. `more`: further keys of their legs.
fn with_hops(world: &World, patience: Option<Duration>, more: &str) -> (String, Vec<Hop>) {
    let mut rules = [entries(more, ASKED), exits(more, ASKED)].concat();
    let mut hops = Vec::new();
    for transport in ["ws", "wss"] {
        let exit = ports(transport).1;
        rules = rules.replace(&format!("198.51.100.1:{exit}"), &format!("198.51.100.1:{}", exit + 100));
        hops.push(Hop::start(&world.relay, exit + 100, exit, Duration::ZERO, patience));
    }
    (rules, hops)
}

#[test]
fn silent_sessions_are_not_forgotten_on_their_way() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (rules, _hops) = with_hops(&world, Some(PATIENCE), "");
    let daemon = start(&world, &rules);
    let mut clients = ["ws", "wss"].map(|transport| enter(&world, transport).start_echo().expect("echo"));
    thread::sleep(3 * PATIENCE);
    for client in &mut clients {
        client.echo(b"still here").expect("the session goes on");
    }
    ["ws", "wss"].iter().for_each(|transport| is_clean(&daemon.ctl, &format!("in-{transport}")));
}

#[test]
fn silent_tunnels_for_datagrams_are_not_forgotten_on_their_way() {
    let (world, _authority) = world();
    let _server = udp_server(&world.backend, 80);
    let (rules, _hops) = with_hops(&world, Some(PATIENCE), THROUGH);
    let daemon = start(&world, &with_udp(&rules));
    let clients = ["ws", "wss"].map(|transport| Datagrams::new(&world.client, (RELAY, ports(transport).0)));
    clients.iter().for_each(|client| client.echo(b"question").expect("an echo"));
    let begun =
        || ["ws", "wss"].map(|transport| daemon.ctl.counter(&format!("out-{transport}"), "/flows/total"));
    let before = begun();
    thread::sleep(3 * PATIENCE);
    clients.iter().for_each(|client| client.echo(b"still here").expect("an echo"));
    assert_eq!(begun(), before, "by the same tunnels");
}

#[test]
fn who_has_gone_without_a_word_is_found() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (rules, hops) = with_hops(&world, None, "");
    let daemon = start(&world, &rules);
    let clients = ["ws", "wss"].map(|transport| enter(&world, transport).start_echo().expect("echo"));
    // both ends have been asked and have answered
    thread::sleep(Duration::from_secs(3));
    hops.iter().for_each(Hop::vanish);
    for (transport, Client(mut stream)) in ["ws", "wss"].into_iter().zip(clients) {
        let ended = stream.read(&mut [0; 8]);
        let is_reset = matches!(&ended, Err(error) if error.kind() == ErrorKind::ConnectionReset);
        assert!(is_reset, "{transport}: {ended:?}");
        for end in ["in", "out"] {
            within(LIMIT, "no session is left", &mut || {
                daemon.ctl.counter(&format!("{end}-{transport}"), "/flows/active") == 0
            });
        }
    }
}

/// Questions and answers are no traffic.
#[test]
fn silent_sessions_end_when_they_may_be_silent_no_longer() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let asked = ASKED.replace("{ keepalive", "{ tcp_idle = \"4s\", keepalive");
    let _daemon = start(&world, &[entries("", &asked), exits("", ASKED)].concat());
    for transport in TRANSPORTS {
        let Client(mut stream) = enter(&world, transport).start_echo().expect("echo");
        let begun = Instant::now();
        let ended = stream.read(&mut [0; 8]);
        assert!(ended.is_err() || ended.is_ok_and(|length| length == 0), "{transport}");
        let silence = begun.elapsed().as_secs_f64();
        assert!((3.5..6.0).contains(&silence), "{transport}: {silence}");
    }
}

/// It takes pings and does not answer them.
#[test]
fn kaminaris_are_not_taken_for_gone() {
    let (world, _authority) = world();
    let _server = tcp_server(&world.backend, 80);
    let (daemon, _servers) = kaminari::before_kaminari(&world, "", ASKED);
    let mut clients = TRANSPORTS.map(|transport| enter(&world, transport).start_echo().expect("echo"));
    thread::sleep(Duration::from_secs(6));
    clients.iter_mut().for_each(|client| client.echo(b"still here").expect("the session goes on"));
    drop(clients);
    TRANSPORTS.iter().for_each(|transport| is_clean(&daemon.ctl, &format!("in-{transport}")));
    drop(daemon);
    let (daemon, _clients) = kaminari::behind_kaminari(&world, ASKED);
    let wrapped = |transport| kaminari::wrapped(&world, transport).start_echo().expect("echo");
    let mut clients = TRANSPORTS.map(wrapped);
    thread::sleep(Duration::from_secs(6));
    clients.iter_mut().for_each(|client| client.echo(b"still here").expect("the session goes on"));
    TRANSPORTS.iter().for_each(|transport| is_clean(&daemon.ctl, &format!("out-{transport}")));
}
