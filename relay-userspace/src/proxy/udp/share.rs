//! How many descriptors UDP clients may take, so that a flood of them leaves some to everything else.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};

/// Clients of one listening socket.
const MOST_CLIENTS: usize = 65_536;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// One client's descriptor; given back when dropped.
#[derive(Debug)]
pub struct Place(());

impl Place {
    /// `None`: the process's UDP clients have three quarters of its descriptors already.
    pub fn take() -> Option<Self> {
        let most = descriptors() / 4 * 3;
        let take = |taken: usize| (taken < most).then_some(taken + 1);
        TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok().map(|_| Self(()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One listening socket's most: never all of the share, so that a flood of one rule leaves some to the others.
pub fn most_clients() -> usize {
    MOST_CLIENTS.min(descriptors() / 2)
}

fn descriptors() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// True at most once a second, for everything that a flood would have logged.
pub fn may_log() -> bool {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.swap(now, Ordering::Relaxed) != now
}
