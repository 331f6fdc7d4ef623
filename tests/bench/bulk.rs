//! Bulk TCP: throughput, and the CPU time of the whole machine per gigabyte.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::World;

use crate::contender::{Contender, Kind};
use crate::figures::{Options, Series, table};
use crate::load::busy;

const KINDS: [Kind; 3] = [Kind::Routing, Kind::Nftables, Kind::RelayTc];
const STRETCH: Duration = Duration::from_secs(2);
const CHUNK: usize = 256 * 1024;

pub fn run(options: &Options) {
    for streams in [1, 16] {
        let contenders: Vec<Contender> = KINDS.into_iter().map(Contender::new).collect();
        let named = || KINDS.iter().map(|kind| (kind.name().to_owned(), Series::default()));
        let (mut speeds, mut costs): (Vec<_>, Vec<_>) = (named().collect(), named().collect());
        for _ in 0..options.rounds {
            for (index, contender) in contenders.iter().enumerate() {
                let (gigabits, seconds_per_gigabyte) = measure(&contender.world, contender.target, streams);
                speeds[index].1.0.push(gigabits);
                costs[index].1.0.push(seconds_per_gigabyte);
            }
        }
        table(&format!("bulk TCP, {streams} streams"), "Gbit/s", &speeds, &["routing", "nftables"]);
        table(
            &format!("CPU time, {streams} streams"),
            "CPU-seconds per GB",
            &costs,
            &["routing", "nftables"],
        );
    }
}

/// Gigabits per second, and CPU-seconds per gigabyte.
pub fn measure(world: &World, target: SocketAddr, streams: usize) -> (f64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let received = Arc::new(AtomicU64::new(0));
    let listener = world.backend.run(|| TcpListener::bind("[::]:80")).expect("bind");
    let mut threads = Vec::new();
    for _ in 0..streams {
        let stopped = stop.clone();
        threads.push(world.client.spawn(move || send(target, &stopped)));
        let (stream, _) = listener.accept().expect("accept");
        let counted = received.clone();
        threads.push(thread::spawn(move || take(stream, &counted)));
    }
    thread::sleep(Duration::from_millis(500));
    let (bytes, cpu, start) = (received.load(Ordering::Relaxed), busy(), Instant::now());
    thread::sleep(STRETCH);
    let (elapsed, bytes, cpu) =
        (start.elapsed().as_secs_f64(), received.load(Ordering::Relaxed) - bytes, busy() - cpu);
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("stream");
    }
    (bytes as f64 * 8.0 / 1e9 / elapsed, cpu / (bytes as f64 / 1e9))
}

fn send(target: SocketAddr, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(target).expect("connect");
    let chunk = vec![0x55; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&chunk).expect("send");
    }
}

fn take(mut stream: TcpStream, received: &AtomicU64) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}
