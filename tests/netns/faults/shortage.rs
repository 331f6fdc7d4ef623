//! Not enough descriptors, and very many clients.

use std::net::TcpStream;
use std::time::Duration;

use harness::traffic::{Client, tcp_server, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{World, eventually, within};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{RULES, active, refused};

#[test]
fn with_few_descriptors_some_clients_are_turned_away_and_no_listener_ends() {
    let world = World::new();
    // the kernel plane's maps and programs alone take more than a hundred
    let daemon = world.start_limited(256, RULES);
    let _servers = (tcp_server(&world.backend, 80), tcp_server(&world.backend, 81));
    let _udp = udp_server(&world.backend, 81);
    let mut beside =
        Client::connect(&world.client, (RELAY, 8081)).and_then(Client::start_echo).expect("echo");
    beside.echo(b"before").expect("echo");
    let crowd: Vec<TcpStream> = (0..300)
        .filter_map(|_| Client::connect(&world.client, (RELAY_V6, 8080)).ok().map(|client| client.0))
        .collect();
    eventually("some are turned away", || refused(&daemon, "descriptors") > 0);
    beside.echo(b"meanwhile").expect("a session of another rule");
    drop(crowd);
    eventually("they are gone", || active(&daemon) == 0);
    for port in [8080, 8081] {
        Client::connect(&world.client, (RELAY_V6, port))
            .and_then(|client| client.upload(1000))
            .expect("upload");
    }
    beside.echo(b"after").expect("a session of another rule");
}

#[test]
fn thousands_of_idle_connections() {
    let world = World::new();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("limit");
    // two of each are ours, as are those of the tests beside this one, and two are relayd's
    let count = 10_000.min((most as usize / 2).saturating_sub(4000));
    assert!(count > 1000, "{most} descriptors are too few for this test");
    let daemon = world.start(&RULES.replace("tcp_idle = \"2s\", ", ""));
    let server = tcp_server_of_patience(&world);
    let before = daemon.memory_kib();
    let clients: Vec<TcpStream> =
        (0..count).map(|_| Client::connect(&world.client, (RELAY_V6, 8080)).expect("connect").0).collect();
    let is_there = &mut || active(&daemon) == count as u64;
    within(Duration::from_secs(60), "they are all there", is_there);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("fd").count();
    assert!(descriptors < 2 * count + 200, "{descriptors} descriptors for {count} connections");
    let each = (daemon.memory_kib() - before) * 1024 / count as u64;
    assert!(each < 6 * 1024, "{each} bytes for each");
    drop(clients);
    eventually("they are gone", || active(&daemon) == 0);
    drop(server);
}

/// Takes connections and keeps them, without a thread for each.
fn tcp_server_of_patience(world: &World) -> std::thread::JoinHandle<()> {
    let listener = world.backend.run(|| std::net::TcpListener::bind("0.0.0.0:80")).expect("bind");
    std::thread::spawn(move || {
        let _kept: Vec<_> = listener.incoming().map_while(Result::ok).take(10_000).collect();
    })
}
