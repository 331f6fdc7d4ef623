//! What a client has sent to a backend that has not said anything yet. Where the connection breaks off before the backend
//! can have read it, another one may have it: it cannot have done its work twice.

use std::time::{Duration, Instant};

/// What is kept at most; who sends more without an answer stays with its backend.
const MOST: usize = 16 * 1024;

#[derive(Debug)]
pub struct Unread {
    data: Vec<u8>,
    /// When the first of it was sent.
    since: Option<Instant>,
    /// The connection has broken off, and none of it was read.
    is_lost: bool,
}

impl Unread {
    pub const fn new() -> Self {
        Self { data: Vec::new(), since: None, is_lost: false }
    }

    /// More of it is sent. Whether there was room to keep it.
    pub fn keep(&mut self, more: &[u8]) -> bool {
        self.since.get_or_insert_with(Instant::now);
        self.data.extend_from_slice(more);
        self.data.len() <= MOST
    }

    /// The connection has broken off. Whether none of it was read: what is heard of less than a round trip after
    /// something was sent has happened before that arrived. `round_trip`: the shortest there has been.
    pub fn lose(&mut self, round_trip: Option<Duration>) -> bool {
        let is_early = |since: Instant| round_trip.is_some_and(|round_trip| since.elapsed() < round_trip);
        self.is_lost |= self.since.is_none_or(is_early);
        self.is_lost
    }

    /// None of it was read, however long it has been on its way.
    pub const fn lose_all(&mut self) {
        self.is_lost = true;
    }

    /// For another backend, if it was lost.
    pub fn lost(self) -> Option<Vec<u8>> {
        self.is_lost.then_some(self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn what_was_never_sent_was_never_read() {
        let mut unread = Unread::new();
        assert!(unread.lose(None));
        assert_eq!(unread.lost(), Some(Vec::new()));
        assert_eq!(Unread::new().lost(), None, "nothing has broken off");
    }

    #[test]
    fn an_end_within_a_round_trip_is_no_answer() {
        for (round_trip, is_lost) in [(Some(LONG), true), (Some(Duration::ZERO), false), (None, false)] {
            let mut unread = Unread::new();
            assert!(unread.keep(b"GET ") && unread.keep(b"/"));
            assert_eq!(unread.lose(round_trip), is_lost);
            assert_eq!(unread.lost(), is_lost.then(|| b"GET /".to_vec()));
        }
    }

    #[test]
    fn not_everything_is_kept() {
        let mut unread = Unread::new();
        assert!(unread.keep(&[7; MOST]));
        assert!(!unread.keep(&[7]));
    }
}
