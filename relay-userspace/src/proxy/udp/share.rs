//! How many descriptors UDP clients may take, so that a flood of them leaves some to everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::proxy::counters::Counters;
use crate::proxy::descriptors;

/// One listening socket's most clients.
pub const MOST_CLIENTS: usize = 65_536;

/// One rule's most tunnels to backends. Each of its ports needs its own, which a datagram to each of them begins.
const MOST_CARRIERS: usize = 1024;

static TAKEN: AtomicUsize = AtomicUsize::new(0);
static CARRIERS: AtomicUsize = AtomicUsize::new(0);

/// One client's descriptor; given back when dropped.
#[derive(Debug)]
pub struct Place(());

impl Place {
    /// `None`: the process's UDP clients have three quarters of its descriptors already.
    pub fn take() -> Option<Self> {
        take(&TAKEN, descriptors::limit() / 4 * 3).then_some(Self(()))
    }
}

fn take(taken: &AtomicUsize, most: usize) -> bool {
    let more = |taken: usize| (taken < most).then_some(taken + 1);
    taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The descriptor of a tunnel to a backend; given back when dropped.
#[derive(Debug)]
pub struct CarrierPlace(Arc<Counters>);

impl CarrierPlace {
    /// `None`: the rule has as many as it may, an eighth of the process's descriptors at most, or all rules together have a
    /// quarter of them.
    pub fn take(rule: &Arc<Counters>) -> Option<Self> {
        let limit = descriptors::limit();
        if !take(&rule.carriers, MOST_CARRIERS.min(limit / 8)) {
            return None;
        }
        if !take(&CARRIERS, limit / 4) {
            rule.carriers.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(rule.clone()))
    }
}

impl Drop for CarrierPlace {
    fn drop(&mut self) {
        CARRIERS.fetch_sub(1, Ordering::Relaxed);
        self.0.carriers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A part of its listener's clients that each socket may have, however many the others have.
pub const OWN_PART: usize = 8;

/// What all workers' sockets of a listener may have together, if a client may need so many descriptors: never all of the
/// share, so that a flood of one rule leaves some to the others.
pub fn most_of_a_listener(each: usize) -> usize {
    descriptors::limit() / 2 / each
}

/// True at most once a second, for everything that a flood would have logged.
pub fn may_log() -> bool {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.swap(now, Ordering::Relaxed) != now
}
