//! The thread that walks the flow tables, and its latest findings.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::kernel::sweep::{Census, Sweeper};

/// Time between rounds when nobody asks for one.
const PACE: Duration = Duration::from_secs(5);
/// Rounds are at least this far apart, so that a flow marked in one has time to prove itself alive before the next.
const APART: Duration = Duration::from_secs(1);
/// How long a reader waits for fresh figures.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for rounds and keeps their results.
#[derive(Default)]
pub struct CensusTaker {
    latest: RwLock<Arc<Findings>>,
    requests: Mutex<Option<mpsc::Sender<oneshot::Sender<()>>>>,
}

#[derive(Debug, Default)]
struct Findings {
    census: Census,
    taken: Option<Instant>,
}

impl CensusTaker {
    /// The latest figures, however old.
    pub fn latest(&self) -> Census {
        self.findings().census.clone()
    }

    pub fn active(&self, slot: u32) -> Option<u64> {
        self.findings().census.active.get(&slot).copied()
    }

    fn findings(&self) -> Arc<Findings> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has a round made unless the last one is fresh, and waits for it.
    pub async fn refresh(&self, fresh: Duration) {
        if self.findings().taken.is_some_and(|taken| taken.elapsed() < fresh) {
            return;
        }
        if let Some(done) = self.request() {
            let _too_slow = timeout(PATIENCE, done).await;
        }
    }

    /// Asks for a round as soon as may be.
    pub fn request(&self) -> Option<oneshot::Receiver<()>> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, wait) = oneshot::channel();
        requests.as_ref()?.send(done).ok()?;
        Some(wait)
    }

    /// Stops the thread.
    pub fn stop(&self) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Starts the thread. The receiver gets the number of every finished round.
pub fn start(shared: &Arc<super::Shared>, mut sweeper: Sweeper) -> std::io::Result<watch::Receiver<u64>> {
    let (requests, inbox) = mpsc::channel::<oneshot::Sender<()>>();
    *shared.census.requests.lock().unwrap_or_else(PoisonError::into_inner) = Some(requests);
    let (rounds, finished) = watch::channel(0);
    let shared = Arc::clone(shared);
    thread::Builder::new().name("sweeper".into()).spawn(move || {
        let mut number = 0;
        // at once: rules may have ended while nobody was there
        let mut pause = Duration::ZERO;
        let mut last: Option<Instant> = None;
        loop {
            let mut waiting = match inbox.recv_timeout(std::mem::replace(&mut pause, PACE)) {
                Ok(first) => vec![first],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(last) = last {
                thread::sleep(APART.saturating_sub(last.elapsed()));
            }
            waiting.extend(inbox.try_iter());
            match sweeper.round() {
                Ok(census) => {
                    shared.tell_gone(&census.gone);
                    let findings = Findings { census, taken: Some(Instant::now()) };
                    *shared.census.latest.write().unwrap_or_else(PoisonError::into_inner) =
                        Arc::new(findings);
                }
                Err(error) => tracing::warn!("{error}"),
            }
            last = Some(Instant::now());
            number += 1;
            let _nobody_waits = rounds.send(number);
            for done in waiting {
                let _gone = done.send(());
            }
        }
    })?;
    Ok(finished)
}
