//! Not enough descriptors, and very many clients.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use harness::traffic::{Client, tcp_server};
use harness::world::RELAY_V6;
use harness::{Daemon, World, eventually, within};

use super::{Beside, RULES, active, never_reads, raise_descriptors, refused};

/// The kernel plane's maps and programs alone take more than a hundred descriptors; with shared sockets some more.
#[test]
fn with_few_descriptors_some_clients_are_turned_away_and_no_listener_ends() {
    // nobody goes by himself
    let rules = &*RULES.replace("tcp_idle = \"2s\", ", "");
    let range = rules.replace(":8080", ":2000-7999").replace(".2:80\"", ".2:80\"\nprotocol = \"tcp\"");
    let frugal = rules.replace(":8080\"", "[::]:8080\"\nprotocol = \"tcp\"").replace(":8081", "0.0.0.0:8081");
    for (descriptors, daemon, rules, port) in
        [(64, "hook = \"off\"\n", &*frugal, 8080), (256, "", rules, 8080), (256, "", &*range, 2000)]
    {
        let world = World::new();
        let daemon = world.start_limited_with(daemon, descriptors, rules);
        let _server = tcp_server(&world.backend, 80);
        turn_away(&world, &daemon, port);
    }
}

/// Sends more clients than there are descriptors for.
fn turn_away(world: &World, daemon: &Daemon, port: u16) {
    let beside = Beside::already_there(world);
    let (mut crowd, mut gone) = (Vec::new(), 0);
    for _ in 0..300 {
        match Client::connect(&world.client, (RELAY_V6, port)) {
            Ok(client) => crowd.push(client.0),
            Err(error) if is_reset(&error) => gone += 1,
            Err(error) => panic!("connect: {error}"),
        }
    }
    eventually("each is carried or turned away", || {
        let before = crowd.len();
        crowd.retain(|client| !has_been_reset(client));
        gone += (before - crowd.len()) as u64;
        gone > 0 && active(daemon) == crowd.len() as u64
    });
    assert_eq!(refused(daemon, "descriptors"), gone, "one for each client");
    beside.load.run_on(50);
    drop(crowd);
    eventually("they are gone", || active(daemon) == 0);
    let upload = Client::connect(&world.client, (RELAY_V6, port)).and_then(|client| client.upload(1000));
    upload.expect("upload");
    beside.finish(daemon);
}

fn is_reset(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::ConnectionReset
}

fn has_been_reset(mut client: &TcpStream) -> bool {
    client.set_nonblocking(true).expect("nonblocking");
    client.read(&mut [0]).is_err_and(|error| is_reset(&error))
}

#[test]
fn thousands_of_idle_connections() {
    let world = World::new();
    let most = raise_descriptors();
    // two of each are ours, as are those of the tests beside this one, and two are relayd's
    let count = 10_000.min((most / 2).saturating_sub(4000));
    assert!(count > 1000, "{most} descriptors are too few for this test");
    let daemon = world.start(&RULES.replace("tcp_idle = \"2s\", ", ""));
    let server = never_reads(&world);
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
