//! How one name is kept up to date: when it is looked up again, and in which order its addresses are tried.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::dns::{Dns, Prefer};
use crate::net::resolve::{Answer, Family};
use crate::rule::Host;

/// Between a failure and the next lookup: this, then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How names are kept up to date, for display too.
#[derive(Debug, Default)]
pub struct Upkeep(Mutex<BTreeMap<Host, Kept>>);

/// How one name is kept up to date.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// When somebody has last said what its addresses are; `None`: not since relayd has started.
    pub learned: Option<Instant>,
    /// When it is looked up again; `None`: when the file changes that says so.
    pub due: Option<Instant>,
    /// What was wrong with the last lookup.
    pub error: Option<String>,
    /// Failures in a row.
    pub(super) failures: u32,
}

impl Upkeep {
    pub fn of(&self, host: &Host) -> Option<Kept> {
        self.lock().get(host).cloned()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<Host, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Notes an answer. Returns the addresses that the name has now, in the order to try them.
    pub(super) fn succeed(&mut self, answer: &Answer, before: &[IpAddr], dns: &Dns) -> Arc<[IpAddr]> {
        let now = Instant::now();
        let mut addresses = answer.addresses.clone();
        self.learned = Some(now);
        self.error = None;
        self.due = answer.ttl.map(|ttl| now + spread(ttl.clamp(dns.min_ttl, dns.max_ttl)));
        match answer.unheard {
            None => self.failures = 0,
            Some(unheard) => {
                addresses.extend(before.iter().filter(|address| Family::of(**address) == unheard));
                self.due = self.due.min(Some(now + pause(self.failures)));
                self.failures += 1;
            }
        }
        in_order(&addresses, before, dns.prefer)
    }

    pub(super) fn fail(&mut self, error: String) {
        self.error = Some(error);
        self.due = Some(Instant::now() + pause(self.failures));
        self.failures += 1;
    }
}

/// The order to try addresses in (RFC 8305, section 4): families by turns, the preferred one first. Within a family those
/// that the name had before keep their places, since name servers change the order with every answer.
pub(super) fn in_order(found: &[IpAddr], before: &[IpAddr], prefer: Prefer) -> Arc<[IpAddr]> {
    let mut all: Vec<IpAddr> = before.iter().filter(|address| found.contains(address)).copied().collect();
    for address in found {
        if !all.contains(address) {
            all.push(*address);
        }
    }
    let (mut first, mut second): (Vec<_>, Vec<_>) = all.into_iter().partition(IpAddr::is_ipv4);
    if prefer == Prefer::Ipv6 {
        std::mem::swap(&mut first, &mut second);
    }
    let turns = first.len().max(second.len());
    (0..turns).flat_map(|turn| [first.get(turn), second.get(turn)]).flatten().copied().collect()
}

/// A tenth longer at most, so that names of one age are not all looked up at once.
fn spread(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    time + time.mul_f64((random % 1000) as f64 / 10_000.0)
}

/// How long to wait after so many failures before.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}
