//! The connection log: one line per flow or session that has ended, of either plane, and no more than a log can take.
//!
//! Who ends a connection only hands it over; a thread of its own writes, so that a slow journal holds nobody up.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use relay_common::net::Protocol;

use crate::flows::Plane;
use crate::rule::RuleName;

/// What the lines are logged under.
pub const TARGET: &str = "relay::connections";
/// Lines in a second: journald by itself takes 10,000 in half a minute, of all that relayd says.
pub const MOST: u32 = 200;

const SECOND: Duration = Duration::from_secs(1);
/// What a writer that is held up may be behind by.
const BACKLOG: usize = 2 * MOST as usize;

/// Where connections are handed in. Off unless switched on.
#[derive(Debug, Default)]
pub struct ConnectionLog {
    on: AtomicBool,
    /// The current second, and how many lines it has had.
    pace: AtomicU64,
    left_out: Arc<AtomicU64>,
    writer: OnceLock<SyncSender<Entry>>,
}

/// A flow or session that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    pub rule: RuleName,
    pub plane: Plane,
    pub protocol: Protocol,
    pub client: SocketAddr,
    /// `None`: it did not get that far.
    pub backend: Option<SocketAddr>,
    /// Client to backend, backend to client.
    pub bytes: [u64; 2],
    pub lasted: Duration,
    pub reason: &'static str,
}

#[derive(Debug)]
enum Entry {
    Ended(Ended),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// What is written.
#[derive(Debug, PartialEq)]
enum Line {
    Ended(Ended),
    LeftOut(u64),
}

impl ConnectionLog {
    /// Whether anybody wants to know.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub fn switch(&self, on: bool) {
        self.switch_with(on, Line::log);
    }

    fn switch_with(&self, on: bool, say: impl FnMut(Line) + Send + 'static) {
        if on && self.writer.get().is_none() {
            let (writer, inbox) = sync_channel(BACKLOG);
            let left_out = self.left_out.clone();
            let started = thread::Builder::new()
                .name("connections".into())
                .spawn(move || write(&inbox, &left_out, say));
            match started {
                Ok(_detached) => _ = self.writer.set(writer),
                Err(error) => return tracing::error!("connections are not logged: {error}"),
            }
        }
        self.on.store(on, Ordering::Relaxed);
    }

    /// A connection is over; `ended` is only asked if it is written.
    pub fn ended(&self, ended: impl FnOnce() -> Ended) {
        if !self.is_on() {
            return;
        }
        let taken = self.has_room(now())
            && self.writer.get().is_some_and(|writer| writer.try_send(Entry::Ended(ended())).is_ok());
        if !taken {
            self.leave_out(1);
        }
    }

    /// So many more are over, and will not be written.
    pub fn leave_out(&self, count: u64) {
        self.left_out.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes one of this second's lines.
    fn has_room(&self, second: u32) -> bool {
        let take = |pace: u64| match ((pace >> 32) as u32, pace as u32) {
            (same, lines) if same == second => (lines < MOST).then_some(pace + 1),
            _ => Some(u64::from(second) << 32 | 1),
        };
        self.pace.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Waits until everything so far is written, but not for a journal that is stuck.
    pub fn flush(&self) {
        let Some(writer) = self.writer.get() else { return };
        let (done, wait) = sync_channel(1);
        if writer.try_send(Entry::Flush(done)).is_ok() {
            _ = wait.recv_timeout(SECOND);
        }
    }
}

fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

/// Writes what comes in, and once a second what did not.
fn write(inbox: &Receiver<Entry>, left_out: &AtomicU64, mut say: impl FnMut(Line)) {
    let mut said = Instant::now();
    let mut idle = true;
    loop {
        // who is left out is so after others were written: nothing is missed by waiting for one of those
        let next = if idle {
            inbox.recv().map_err(|_over| RecvTimeoutError::Disconnected)
        } else {
            inbox.recv_timeout(SECOND)
        };
        idle = next.is_err();
        let (mut flushed, mut over) = (None, false);
        match next {
            Ok(Entry::Ended(ended)) => say(Line::Ended(ended)),
            Ok(Entry::Flush(done)) => flushed = Some(done),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => over = true,
        }
        if idle || flushed.is_some() || said.elapsed() >= SECOND {
            let count = left_out.swap(0, Ordering::Relaxed);
            if count > 0 {
                say(Line::LeftOut(count));
            }
            said = Instant::now();
        }
        if let Some(done) = flushed {
            _ = done.send(());
        }
        if over {
            return;
        }
    }
}

impl Line {
    fn log(self) {
        match self {
            Self::Ended(ended) => ended.log(),
            Self::LeftOut(count) => tracing::warn!(
                target: TARGET,
                left_out = count,
                "{count} connections that have ended are left out: no more than {MOST} are logged in a second"
            ),
        }
    }
}

impl Ended {
    fn seconds(&self) -> f64 {
        self.lasted.as_millis() as f64 / 1000.0
    }

    fn log(&self) {
        tracing::info!(
            target: TARGET,
            rule = self.rule.as_str(),
            plane = self.plane.as_str(),
            protocol = %self.protocol,
            client = %self.client,
            backend = self.backend.map(tracing::field::display),
            ingress = self.bytes[0],
            egress = self.bytes[1],
            seconds = self.seconds(),
            reason = self.reason,
            "{self}"
        );
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.rule, self.protocol, self.client)?;
        if let Some(backend) = self.backend {
            write!(f, " to {backend}")?;
        }
        let [ingress, egress] = self.bytes;
        let seconds = self.seconds();
        write!(f, ": {} after {seconds} s, {ingress} bytes in, {egress} bytes out", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn ended(number: u64) -> Ended {
        Ended {
            rule: RuleName::parse("tokyo").expect("name"),
            plane: Plane::User,
            protocol: Protocol::Tcp,
            client: "[2001:db8::7]:40000".parse().expect("client"),
            backend: Some("203.0.113.10:8388".parse().expect("backend")),
            bytes: [number, 77],
            lasted: Duration::from_millis(1250),
            reason: "closed",
        }
    }

    /// A log, and what it writes.
    fn log() -> (ConnectionLog, Receiver<Line>) {
        let (log, (written, lines)) = (ConnectionLog::default(), mpsc::channel());
        log.switch_with(true, move |line| drop(written.send(line)));
        (log, lines)
    }

    #[test]
    fn a_line_says_everything() {
        assert_eq!(
            ended(1234).to_string(),
            "tokyo: tcp [2001:db8::7]:40000 to 203.0.113.10:8388: closed after 1.25 s, 1234 bytes in, 77 bytes out"
        );
        let nowhere = Ended { backend: None, ..ended(0) };
        assert!(nowhere.to_string().starts_with("tokyo: tcp [2001:db8::7]:40000: closed after"), "{nowhere}");
    }

    #[test]
    fn what_is_too_much_for_a_second_is_counted_and_said() {
        let (log, lines) = log();
        let number = u64::from(MOST) * 5;
        (0..number).for_each(|number| log.ended(|| ended(number)));
        log.flush();
        let lines: Vec<Line> = lines.try_iter().collect();
        let (mut written, mut left_out) = (0, 0);
        for line in &lines {
            match line {
                Line::Ended(_) => written += 1,
                Line::LeftOut(count) => left_out += count,
            }
        }
        assert_eq!(written + left_out, number);
        assert!(left_out > 0 && lines.contains(&Line::Ended(ended(0))), "{written} written, {left_out} not");
    }

    #[test]
    fn what_is_left_out_is_said_though_nothing_follows() {
        let (log, lines) = log();
        log.ended(|| ended(1));
        log.leave_out(7);
        let next = || lines.recv_timeout(Duration::from_secs(20)).expect("a line");
        assert_eq!([next(), next()], [Line::Ended(ended(1)), Line::LeftOut(7)]);
    }

    #[test]
    fn a_second_has_so_many_lines() {
        let log = ConnectionLog::default();
        let taken = |second| (0..MOST * 2).filter(|_| log.has_room(second)).count();
        assert_eq!(
            [taken(5), taken(6), taken(6), taken(5)],
            [MOST as usize, MOST as usize, 0, MOST as usize]
        );
    }

    #[test]
    fn nothing_is_written_while_it_is_off() {
        let (log, lines) = log();
        log.switch(false);
        log.ended(|| ended(1));
        log.switch(true);
        log.ended(|| ended(2));
        log.flush();
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), [Line::Ended(ended(2))]);
        assert_eq!(log.left_out.load(Ordering::Relaxed), 0);
    }
}
