//! The user plane beside realm, HAProxy and nginx: throughput, round trips, connections, datagrams, memory.

mod memory;

use std::time::Duration;

use harness::lab::Attached;

use crate::figures::{Figures, Options, in_turns, say};
use crate::load::{WARM_UP, busy, connects, datagrams, exchange};
use crate::peer::{Kind, Peer};
use crate::{bulk, packets};

pub use self::memory::{another_process, idle_clients, run as memory};

pub const CONNECTIONS: usize = 32;
const BASES: [&str; 2] = ["realm", "haproxy"];
const UDP_CLIENTS: usize = 100;
/// Time enough to use up the ports of a host.
const PORTS_USED: Duration = Duration::from_secs(8);

fn wanted(options: &Options, kinds: &[Kind], start: fn(Kind) -> Peer) -> Vec<Peer> {
    let is_wanted =
        |kind: &&Kind| options.only.is_empty() || options.only.iter().any(|word| kind.name().contains(word));
    kinds.iter().filter(is_wanted).map(|&kind| start(kind)).collect()
}

fn named(peers: &[Peer]) -> Vec<(&'static str, &Peer)> {
    peers.iter().map(|peer| (peer.kind.name(), peer)).collect()
}

pub fn tcp(options: &Options) {
    let peers = wanted(options, &Kind::TCP, Peer::new);
    in_turns(options.rounds, &named(&peers), &BASES, |peer| {
        let mut figures = Figures::new();
        for streams in [1, 16] {
            let (gigabits, cost) = bulk::measure(&peer.world, peer.target, streams);
            figures.push((format!("bulk TCP, {streams} streams: Gbit/s"), gigabits));
            figures.push((format!("bulk TCP, {streams} streams: CPU-seconds per GB"), cost));
        }
        let seen = exchange::measure(&peer.world, peer.target, CONNECTIONS, busy);
        let title = |what: &str| format!("64 B request and response, {CONNECTIONS} connections: {what}");
        figures.push((title("per second"), seen.per_second));
        figures.push((title("CPU-microseconds each"), seen.cost));
        figures.push((title("p50, microseconds"), seen.p50));
        figures.push((title("p99, microseconds"), seen.p99));
        figures.push((title("p99.9, microseconds"), seen.p999));
        let seen = connects::measure(&peer.world, peer.target, WARM_UP, busy);
        figures.push(("connect, request, close: per second".into(), seen.per_second));
        figures.push(("connect, request, close: CPU-microseconds each".into(), seen.cost));
        if seen.failed > 0 {
            say(&format!("{}: {} connections broke", peer.kind.name(), seen.failed));
        }
        figures
    });
    drop(peers);
    ports(options);
}

/// Connections that come and go on a relay as Debian sets it up, after its ports have all been used once: the leg that
/// is closed first keeps its port for a minute.
fn ports(options: &Options) {
    let peers = wanted(options, &Kind::TCP, Peer::as_the_system_comes);
    in_turns(options.rounds, &named(&peers), &BASES, |peer| {
        let seen = connects::measure(&peer.world, peer.target, PORTS_USED, busy);
        vec![(
            "connect, request, close, the system's own settings, after 8 s: per second".into(),
            seen.per_second,
        )]
    });
}

pub fn udp(options: &Options) {
    let peers = wanted(options, &Kind::UDP, Peer::new);
    in_turns(options.rounds, &named(&peers), &BASES, |peer| {
        let mut figures = Figures::new();
        for window in [1, 16] {
            let seen = datagrams::measure(&peer.world, peer.target, UDP_CLIENTS, window);
            let title =
                |what: &str| format!("64 B UDP echo, {UDP_CLIENTS} clients with {window} on the way: {what}");
            figures.push((title("per second"), seen.per_second));
            figures.push((title("CPU-microseconds each"), seen.cost));
        }
        let title = format!("64-byte UDP frames one way, {UDP_CLIENTS} clients, more than fits");
        figures.push((format!("{title}: thousand/s at the backend"), flood(peer) / 1e3));
        figures
    });
}

/// Datagrams per second that come through when there are more than anybody could carry.
fn flood(peer: &Peer) -> f64 {
    let counter = Attached::xdp(&peer.world.backend, "backend", "lab_count");
    let rate = packets::flood(&peer.world, peer.target, &counter, UDP_CLIENTS as u32);
    peer.world.accept_checksum_errors();
    rate
}
