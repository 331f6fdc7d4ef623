//! Not enough memory for everybody: what relayd keeps for them is bounded.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use harness::packet::Packet;
use harness::traffic::{Client, Datagrams, tcp_server, udp_server};
use harness::world::{RELAY, RELAY_V6};
use harness::{World, within};
use nix::sys::resource::Resource;

use super::{Beside, RULES, active, never_reads, raise_descriptors};

/// What the limit leaves beyond what relayd has when it has just begun, in KiB.
const LEFT: u64 = 48 * 1024;
/// Together these would have more than that kept for them, at 64 KiB each.
const STUCK: usize = 1200;
const IDLE: usize = 500;

#[test]
fn under_a_limit_relayd_goes_on_whatever_is_not_taken() {
    raise_descriptors();
    let world = World::new();
    for ns in [&world.client, &world.relay, &world.backend] {
        // the kernel's own buffers need not be as large as they may be
        ns.sysctl("net/ipv4/tcp_wmem", "4096 16384 65536");
    }
    let rules = RULES.replace("tcp_idle = \"2s\"", "udp = \"5s\"");
    let usual = world.start_with("hook = \"off\"\n", &rules).data_kib();
    let limit = usual + LEFT;
    let daemon = world.start_with_limit("hook = \"off\"\n", (Resource::RLIMIT_DATA, limit * 1024), &rules);
    let beside = Beside::start(&world);
    let (echoes, backend) = (udp_server(&world.backend, 80), never_reads(&world));
    let mut stuck: Vec<TcpStream> =
        (0..STUCK).map(|_| Client::connect(&world.client, (RELAY_V6, 8080)).expect("connect").0).collect();
    fill(&mut stuck);
    let idle: Vec<Client> =
        (0..IDLE).map(|_| Client::connect(&world.client, (RELAY, 8080)).expect("connect")).collect();
    let is_there = &mut || active(&daemon) == (STUCK + IDLE) as u64;
    within(Duration::from_secs(60), "they are all there", is_there);
    world.flood(10_000, |index, source| {
        if index.is_multiple_of(100) {
            thread::sleep(Duration::from_millis(10));
        }
        Packet::udp(source, (RELAY, 8080), &[7; 1000])
    });
    Datagrams::new(&world.client, (RELAY, 8080)).echo_patiently(b"hello").expect("somebody new");
    beside.load.run_on(50);
    assert!(daemon.data_kib() <= limit);
    // what an end of the stream would wait behind is never taken
    stuck.into_iter().map(Client).for_each(Client::reset);
    drop(idle);
    within(Duration::from_secs(60), "they are gone", &mut || active(&daemon) == 0);
    drop((echoes, backend));
    let _server = tcp_server(&world.backend, 80);
    Client::connect(&world.client, (RELAY, 8080)).and_then(|client| client.upload(1 << 20)).expect("upload");
    beside.finish(&daemon);
}

/// Sends until nobody takes anything more.
fn fill(clients: &mut [TcpStream]) {
    let data = vec![7; 64 * 1024];
    let mut quiet = 0;
    while quiet < 10 {
        let mut sent = 0;
        for client in &mut *clients {
            client.set_nonblocking(true).expect("nonblocking");
            match client.write(&data) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("cut off: {error}"),
            }
        }
        quiet = if sent == 0 { quiet + 1 } else { 0 };
        thread::sleep(Duration::from_millis(50));
    }
}
