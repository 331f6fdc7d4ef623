//! Log lines about what peers do wrong: enough of them to find the cause, however many there are who do it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two lines of the same kind.
const PAUSE: Duration = Duration::from_secs(5);

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Lines of one kind.
#[derive(Debug, Default)]
pub struct Complaints {
    /// When the next one may be written, in milliseconds.
    due: AtomicU64,
    /// Not written since the last one.
    muted: AtomicU64,
}

impl Complaints {
    /// Whether a line may be written, and how many were not since the last one.
    pub fn admit(&self) -> Option<u64> {
        let now = u64::try_from(BEGUN.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.admit_at(now)
    }

    fn admit_at(&self, now: u64) -> Option<u64> {
        let due = self.due.load(Ordering::Relaxed);
        let next = now + u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX);
        let is_first = || self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if now >= due && is_first() {
            return Some(self.muted.swap(0, Ordering::Relaxed));
        }
        self.muted.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// How a line says that there would have been more.
pub fn and_others(muted: u64) -> String {
    if muted == 0 { String::new() } else { format!(" (and {muted} more like it)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_while_and_the_others_are_counted() {
        let complaints = Complaints::default();
        assert_eq!([0, 1, 4_999].map(|now| complaints.admit_at(now)), [Some(0), None, None]);
        assert_eq!(complaints.admit_at(5_000), Some(2));
        assert_eq!([6_000, 11_000].map(|now| complaints.admit_at(now)), [None, Some(1)]);
        assert_eq!(and_others(0), "");
        assert_eq!(and_others(3), " (and 3 more like it)");
    }
}
