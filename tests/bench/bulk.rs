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

/// Which way the data goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    Up,
    Down,
}

/// Gigabits per second from the client to the backend, and CPU-seconds of the whole machine per gigabyte.
pub fn measure(world: &World, target: SocketAddr, streams: usize) -> (f64, f64) {
    let (gigabits, [cost]) = measure_by(world, target, streams, Way::Up, || [busy()]);
    (gigabits, cost)
}

/// Gigabits per second, and how far each clock has gone per gigabyte.
pub fn measure_by<const CLOCKS: usize>(
    world: &World,
    target: SocketAddr,
    streams: usize,
    way: Way,
    clocks: impl Fn() -> [f64; CLOCKS],
) -> (f64, [f64; CLOCKS]) {
    let stop = Arc::new(AtomicBool::new(false));
    let received = Arc::new(AtomicU64::new(0));
    let listener = world.backend.run(|| TcpListener::bind("[::]:80")).expect("bind");
    let mut threads = Vec::new();
    for _ in 0..streams {
        let (at_client, client_counts) = (stop.clone(), received.clone());
        threads.push(world.client.spawn(move || {
            let stream = TcpStream::connect(target).expect("connect");
            match way {
                Way::Up => send(stream, &at_client),
                Way::Down => {
                    // realm loses what comes in one piece with the answer to its handshake
                    (&stream).write_all(&[0]).expect("send");
                    take(stream, &client_counts);
                }
            }
        }));
        let (mut stream, _) = listener.accept().expect("accept");
        let (at_backend, backend_counts) = (stop.clone(), received.clone());
        threads.push(thread::spawn(move || match way {
            Way::Up => take(stream, &backend_counts),
            Way::Down => {
                stream.read_exact(&mut [0]).expect("the first byte");
                send(stream, &at_backend);
            }
        }));
    }
    thread::sleep(Duration::from_millis(500));
    let (bytes, before, start) = (received.load(Ordering::Relaxed), clocks(), Instant::now());
    thread::sleep(STRETCH);
    let (elapsed, bytes, mut spent) =
        (start.elapsed().as_secs_f64(), received.load(Ordering::Relaxed) - bytes, clocks());
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("stream");
    }
    for (spent, before) in spent.iter_mut().zip(before) {
        *spent = (*spent - before) / (bytes as f64 / 1e9);
    }
    (bytes as f64 * 8.0 / 1e9 / elapsed, spent)
}

fn send(mut stream: TcpStream, stop: &AtomicBool) {
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
