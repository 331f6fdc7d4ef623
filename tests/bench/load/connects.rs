//! Connections that come, ask once, get their answer and go; the client closes.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::World;
use nix::sys::epoll::EpollFlags;
use socket2::{SockAddr, Socket, Type};

use super::server::Answering;
use super::{MESSAGE, Readiness, STRETCH};

/// How many are on their way at a time.
const AT_ONCE: usize = 64;

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connected {
    pub per_second: f64,
    /// Microseconds that the clock went on for each.
    pub cost: f64,
    /// Those that broke.
    pub failed: u64,
}

/// `warm_up`: what is not counted. `clock`: seconds of CPU time that matter, such as [`busy`](super::busy).
pub fn measure(
    world: &World,
    target: SocketAddr,
    warm_up: Duration,
    clock: impl Fn() -> f64 + Sync,
) -> Connected {
    let _server = Answering::start(&world.backend, 80);
    world.client.run(|| {
        let mut clients = Clients::new(target);
        clients.run(Instant::now() + warm_up);
        let (failed, done, cpu, start) = (clients.failed, clients.done, clock(), Instant::now());
        clients.run(start + STRETCH);
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), clock() - cpu);
        let done = (clients.done - done) as f64;
        Connected { per_second: done / seconds, cost: cpu * 1e6 / done, failed: clients.failed - failed }
    })
}

struct Clients {
    to: SockAddr,
    readiness: Readiness,
    slots: Vec<(Socket, bool)>,
    done: u64,
    failed: u64,
}

impl Clients {
    fn new(target: SocketAddr) -> Self {
        let to = target.into();
        let readiness = Readiness::new();
        let slots = (0..AT_ONCE).map(|number| (connect(&to, &readiness, number), false)).collect();
        Self { to, readiness, slots, done: 0, failed: 0 }
    }

    fn run(&mut self, until: Instant) {
        let mut ready = Vec::new();
        while Instant::now() < until {
            ready.clear();
            ready.extend(self.readiness.wait());
            for &(number, flags) in &ready {
                match self.step(number, flags) {
                    Ok(false) => continue,
                    Ok(true) => self.done += 1,
                    Err(_broken) => self.failed += 1,
                }
                self.slots[number] = (connect(&self.to, &self.readiness, number), false);
            }
        }
    }

    /// Whether the answer is here.
    fn step(&mut self, number: usize, flags: EpollFlags) -> io::Result<bool> {
        let (socket, has_asked) = &mut self.slots[number];
        if flags.contains(EpollFlags::EPOLLIN) && *has_asked {
            let mut buffer = [std::mem::MaybeUninit::uninit(); MESSAGE];
            return match socket.recv(&mut buffer)? {
                MESSAGE => Ok(true),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        if flags.contains(EpollFlags::EPOLLOUT) && !*has_asked {
            *has_asked = socket.send(&[0x55; MESSAGE])? == MESSAGE;
        }
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(false)
    }
}

fn connect(to: &SockAddr, readiness: &Readiness, number: usize) -> Socket {
    let socket = Socket::new(to.domain(), Type::STREAM.nonblocking(), None).expect("socket");
    // a connection that is on its way is no error, one that cannot begin shows as one in the events
    let _begun = socket.connect(to);
    readiness.add(&socket, number, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET);
    socket
}
