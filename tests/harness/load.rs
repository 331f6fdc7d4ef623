//! Traffic that runs while something else happens: connections that stay, connections that come and go, datagrams.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::netns::NetNs;
use crate::patience;
use crate::traffic::{Client, Datagrams, text};

/// What the load has seen so far.
#[derive(Debug, Default)]
struct Seen {
    rounds: AtomicU64,
    connections: AtomicU64,
    datagrams: AtomicU64,
    lost: AtomicU64,
    errors: Mutex<Vec<String>>,
}

/// What came through so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Echoes on the connections that stay.
    pub echoes: u64,
    /// Connections that came and went.
    pub connections: u64,
    /// Datagrams that came back.
    pub datagrams: u64,
}

/// Running traffic. Ends with its value.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

/// How one kind of traffic takes a turn.
type Turn = Box<dyn FnMut(&Seen) -> io::Result<()> + Send>;

impl Load {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { stop: Arc::default(), seen: Arc::default(), threads: Vec::new() }
    }

    /// Adds connections that stay for the whole time and echo all along.
    pub fn with_connections(mut self, ns: &NetNs, to: impl Into<SocketAddr>, number: usize) -> Self {
        let (to, payload) = (to.into(), text(700));
        for _ in 0..number {
            let client = Client::connect(ns, to).and_then(Client::start_echo);
            let mut client = client.expect("a connection before the load starts");
            let payload = payload.clone();
            self.add(
                ns,
                Box::new(move |seen| {
                    client.echo(&payload)?;
                    seen.rounds.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }),
            );
        }
        self
    }

    /// Adds connections that come, say something and go, one after the other.
    pub fn with_newcomers(mut self, ns: &NetNs, to: impl Into<SocketAddr>) -> Self {
        let (to, payload) = (to.into(), text(300));
        let inside = ns.another();
        self.add(
            ns,
            Box::new(move |seen| {
                let mut client = Client::connect(&inside, to)?.start_echo()?;
                client.echo(&payload)?;
                seen.connections.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }),
        );
        self
    }

    /// Adds a datagram every few milliseconds, each of which must come back.
    pub fn with_datagrams(mut self, ns: &NetNs, to: impl Into<SocketAddr>) -> Self {
        let socket = Datagrams::new(ns, to);
        // a neighbour may have to be asked for twice, and what is late is not lost
        socket.0.set_read_timeout(Some(patience(Duration::from_secs(3)))).expect("timeout");
        let payload = text(200);
        self.add(
            ns,
            Box::new(move |seen| {
                match socket.echo(&payload) {
                    Ok(()) => seen.datagrams.fetch_add(1, Ordering::Relaxed),
                    Err(_lost) => seen.lost.fetch_add(1, Ordering::Relaxed),
                };
                Ok(())
            }),
        );
        self
    }

    fn add(&mut self, ns: &NetNs, mut turn: Turn) {
        let (stop, seen) = (self.stop.clone(), self.seen.clone());
        self.threads.push(ns.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = turn(&seen) {
                    seen.errors.lock().expect("errors").push(error.to_string());
                    return;
                }
                thread::sleep(Duration::from_millis(3));
            }
        }));
    }

    /// Rounds of every kind so far.
    pub fn rounds(&self) -> u64 {
        let Tally { echoes, connections, datagrams } = self.tally();
        echoes + connections + datagrams
    }

    /// Rounds so far, kind by kind.
    pub fn tally(&self) -> Tally {
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let seen = &self.seen;
        Tally {
            echoes: now(&seen.rounds),
            connections: now(&seen.connections),
            datagrams: now(&seen.datagrams),
        }
    }

    /// Lets the traffic run until it has made so many more rounds.
    pub fn run_on(&self, rounds: u64) {
        let (start, until) = (Instant::now(), self.rounds() + rounds);
        while self.rounds() < until {
            self.assert_unharmed();
            assert!(
                start.elapsed() < patience(Duration::from_secs(20)),
                "the load stands still: {:?}",
                self.seen
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Panics if a connection broke or a datagram was lost.
    pub fn assert_unharmed(&self) {
        let errors = self.seen.errors.lock().expect("errors");
        assert!(errors.is_empty(), "connections broke: {errors:?}");
        assert_eq!(self.seen.lost.load(Ordering::Relaxed), 0, "datagrams lost");
    }

    /// Ends the traffic; panics if it was harmed.
    pub fn finish(mut self) {
        self.end();
        self.assert_unharmed();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

impl Default for Load {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}
