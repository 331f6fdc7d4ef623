//! Request and response: connections that stay, each with one message on its way.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use harness::World;
use nix::sys::epoll::EpollFlags;

use super::server::Answering;
use super::{MESSAGE, Readiness, STRETCH, WARM_UP};

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exchanged {
    pub per_second: f64,
    /// Microseconds that the clock went on for each.
    pub cost: f64,
    /// Round trips in microseconds.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// `clock`: seconds of CPU time that matter, such as [`busy`](super::busy).
pub fn measure(
    world: &World,
    target: SocketAddr,
    connections: usize,
    clock: impl Fn() -> f64 + Sync,
) -> Exchanged {
    let _server = Answering::start(&world.backend, 80);
    world.client.run(|| run(target, connections, &clock))
}

fn run(target: SocketAddr, connections: usize, clock: &impl Fn() -> f64) -> Exchanged {
    let mut readiness = Readiness::new();
    let mut clients: Vec<(TcpStream, Instant)> = (0..connections)
        .map(|number| {
            let stream = TcpStream::connect(target).expect("connect");
            stream.set_nodelay(true).expect("nodelay");
            readiness.add(&stream, number, EpollFlags::EPOLLIN);
            (stream, Instant::now())
        })
        .collect();
    for (stream, sent) in &mut clients {
        *sent = Instant::now();
        stream.write_all(&[0x55; MESSAGE]).expect("send");
    }
    rounds(&mut readiness, &mut clients, Instant::now() + WARM_UP, &mut Vec::new());
    let mut times = Vec::with_capacity(1 << 21);
    let (start, cpu) = (Instant::now(), clock());
    rounds(&mut readiness, &mut clients, start + STRETCH, &mut times);
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), clock() - cpu);
    times.sort_unstable();
    let count = times.len() as f64;
    let percentile = |share: f64| f64::from(times[(count * share) as usize]) / 1e3;
    Exchanged {
        per_second: count / seconds,
        cost: cpu * 1e6 / count,
        p50: percentile(0.5),
        p99: percentile(0.99),
        p999: percentile(0.999),
    }
}

/// Answers every answer with the next request; notes how long each took, in nanoseconds.
fn rounds(
    readiness: &mut Readiness,
    clients: &mut [(TcpStream, Instant)],
    until: Instant,
    times: &mut Vec<u32>,
) {
    let mut ready = Vec::new();
    while Instant::now() < until {
        ready.clear();
        ready.extend(readiness.wait());
        for &(number, _) in &ready {
            let (stream, sent) = &mut clients[number];
            let mut buffer = [0; MESSAGE];
            stream.read_exact(&mut buffer).expect("answer");
            let now = Instant::now();
            times.push(u32::try_from((now - *sent).as_nanos()).unwrap_or(u32::MAX));
            *sent = now;
            stream.write_all(&buffer).expect("send");
        }
    }
}
