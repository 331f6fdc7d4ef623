//! Clients and servers that cost little, so that what is between them sets the pace: one thread each, epoll, no
//! allocation while they run.

pub mod connects;
pub mod datagrams;
pub mod exchange;
pub mod server;

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What every request and answer is as long as, and every datagram.
pub const MESSAGE: usize = 64;

/// How long a load runs before it counts, and while it does.
pub const WARM_UP: Duration = Duration::from_millis(500);
pub const STRETCH: Duration = Duration::from_secs(2);

/// Seconds that all CPUs together have not been idle.
pub fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("stat");
    let numbers = text.lines().next().unwrap_or("").split_whitespace().skip(1);
    let ticks: Vec<u64> = numbers.filter_map(|number| number.parse().ok()).collect();
    // user nice system idle iowait irq softirq
    let busy: u64 =
        ticks.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, ticks)| ticks).sum();
    busy as f64 / 100.0
}

/// Readiness, told by a number of our own.
struct Readiness {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Readiness {
    fn new() -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
        Self { epoll, events: vec![EpollEvent::empty(); 256] }
    }

    fn add(&self, fd: impl AsFd, number: usize, flags: EpollFlags) {
        self.epoll.add(fd, EpollEvent::new(flags, number as u64)).expect("epoll");
    }

    /// Numbers of what is ready; none after a while.
    fn wait(&mut self) -> impl Iterator<Item = (usize, EpollFlags)> + '_ {
        let ready = self.epoll.wait(&mut self.events, EpollTimeout::from(100u8)).unwrap_or(0);
        self.events[..ready].iter().map(|event| (event.data() as usize, event.events()))
    }
}
