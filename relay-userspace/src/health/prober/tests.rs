//! The prober against real sockets on loopback.

mod hosts;
mod judged;
mod kinds;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::{News, Probe, ProbeId, Prober};
use crate::health::judge::{Standing, State};
use crate::rule::{Check, CheckKind, Connect};

const LOCALHOST: std::net::IpAddr = std::net::IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// A prober and what it tells.
struct Case {
    prober: Prober,
    news: UnboundedReceiver<Vec<News>>,
}

impl Case {
    fn new() -> Self {
        Self::trusting(RootCertStore::empty())
    }

    fn trusting(roots: RootCertStore) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        Self { prober: Prober::start_with(sender, roots).expect("prober"), news }
    }

    /// Waits for the next change.
    fn next(&mut self) -> News {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut news) = self.news.try_recv() {
                assert_eq!(news.len(), 1, "{news:?}");
                return news.remove(0);
            }
            assert!(Instant::now() < until, "no change: {:?}", self.prober.standings());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn next_state(&mut self) -> State {
        self.next().change.to
    }

    /// Waits until an endpoint stands so.
    #[track_caller]
    fn wait(&self, id: ProbeId, stands: impl Fn(&Standing) -> bool) -> Standing {
        let until = Instant::now() + PATIENCE;
        loop {
            let standing = self.prober.board().standing(id).expect("standing");
            if stands(&standing) {
                return standing;
            }
            assert!(Instant::now() < until, "{standing:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What one endpoint has to say for itself: nothing, or what is wrong.
    #[track_caller]
    fn verdict(probe: Probe) -> Option<String> {
        Self::new().verdict_of(probe)
    }

    #[track_caller]
    fn verdict_of(&self, probe: Probe) -> Option<String> {
        let id = ProbeId(1);
        self.prober.set(id, probe, None);
        let standing = self.wait(id, |standing| standing.successes + standing.failures > 0);
        assert_eq!(standing.latency.is_some(), standing.successes > 0);
        standing.last_error.map(Into::into)
    }
}

/// A check that does not take long.
fn quick(kind: CheckKind) -> Check {
    Check {
        kind,
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        cooldown: Duration::ZERO,
        ..Check::default()
    }
}

fn probe(address: SocketAddr, check: Check) -> Probe {
    Probe {
        address,
        name: None,
        check: Arc::new(check),
        connect: Arc::new(Connect::default()),
        connector: None,
    }
}
