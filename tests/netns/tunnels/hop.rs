//! A hop between two ends on the relay: it takes time, and may fall silent or end everything.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use harness::NetNs;
use harness::world::RELAY;

#[derive(Clone, Debug)]
pub struct Hop {
    one_way: Duration,
    /// Connections that are silent for so long are ended.
    patience: Option<Duration>,
    cuts: Arc<AtomicU64>,
    swallows: Arc<AtomicBool>,
}

impl Hop {
    /// Passes on what comes in on a port of the relay to another one, each way after some time.
    pub fn start(ns: &NetNs, port: u16, to: u16, one_way: Duration, patience: Option<Duration>) -> Self {
        let listener = ns.run(|| TcpListener::bind(("0.0.0.0", port))).expect("bind");
        let hop = Self { one_way, patience, cuts: Arc::default(), swallows: Arc::default() };
        let here = hop.clone();
        // ends with the test's process
        drop(ns.spawn(move || {
            for near in listener.incoming().flatten() {
                let hop = here.clone();
                thread::spawn(move || hop.ferry(&near, to));
            }
        }));
        hop
    }

    /// Ends all connections that are there.
    pub fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// Passes nothing on any more, without a word.
    pub fn vanish(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }

    fn ferry(&self, near: &TcpStream, to: u16) -> io::Result<()> {
        let begun = self.cuts.load(Ordering::SeqCst);
        let far = TcpStream::connect((RELAY, to))?;
        let over = Arc::new(AtomicBool::new(false));
        for (from, into) in [(near, &far), (&far, near)] {
            let (from, into, over) = (from.try_clone()?, into.try_clone()?, over.clone());
            into.set_nodelay(true)?;
            let (line, end) = mpsc::channel();
            let hop = self.clone();
            thread::spawn(move || hop.read(from, &line));
            thread::spawn(move || {
                let written = write(into, &end);
                over.fetch_or(written.is_err(), Ordering::SeqCst);
            });
        }
        while self.cuts.load(Ordering::SeqCst) == begun && !over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        near.shutdown(Shutdown::Both)?;
        far.shutdown(Shutdown::Both)
    }

    fn read(&self, mut from: TcpStream, line: &mpsc::Sender<Piece>) {
        let mut buffer = [0; 16 * 1024];
        let _always_some = from.set_read_timeout(self.patience);
        loop {
            let read = from.read(&mut buffer);
            while self.swallows.load(Ordering::SeqCst) && !matches!(read, Ok(1..)) {
                // an end is not passed on either
                thread::park();
            }
            let length = match read {
                Ok(0) => break,
                Ok(length) => length,
                Err(_silent) => {
                    // who waits for the other direction has waited enough, too
                    let _gone = from.shutdown(Shutdown::Both);
                    break;
                }
            };
            if self.swallows.load(Ordering::SeqCst) {
                continue;
            }
            if line.send((Instant::now() + self.one_way, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
    }
}

/// When it is to go on, and what.
type Piece = (Instant, Vec<u8>);

fn write(mut into: TcpStream, line: &mpsc::Receiver<Piece>) -> io::Result<()> {
    for (due, bytes) in line {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        into.write_all(&bytes)?;
    }
    into.shutdown(Shutdown::Write)
}
