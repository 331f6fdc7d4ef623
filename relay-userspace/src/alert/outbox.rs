//! What a channel has still to send, and how that has gone so far.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::message::Event;

/// So many may wait; then the oldest go.
pub const ROOM: usize = 1000;

/// What waits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item {
    Event(Event),
    Digest(Box<str>),
}

/// The queue of one channel. It outlives edits of its alert. Nothing leaves it before it has been sent, refused or dropped.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
    tally: Tally,
    mishap: Mutex<Option<Mishap>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The number of the first item.
    first: u64,
    items: VecDeque<Item>,
}

#[derive(Debug, Default)]
struct Tally {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// How many events have been sent, refused, or dropped for want of room; digests and tests count as one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    pub waiting: usize,
    pub sent: u64,
    pub failed: u64,
    pub dropped: u64,
}

/// What went wrong last, without secrets, and when: seconds since 1970.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mishap {
    pub time: u64,
    pub why: String,
}

/// What goes into one message: several events, or one digest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    pub items: Vec<Item>,
    /// The number behind its last item.
    end: u64,
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    Sent,
    Failed,
}

impl Outbox {
    pub fn push(&self, item: Item) {
        let mut waiting = self.waiting();
        if waiting.items.len() == ROOM {
            waiting.items.pop_front();
            waiting.first += 1;
            self.drop_unseen(1);
        }
        waiting.items.push_back(item);
        drop(waiting);
        self.filled.notify_one();
    }

    /// Counts events that never came here.
    pub fn drop_unseen(&self, count: u64) {
        self.tally.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Waits until there is something.
    pub async fn filled(&self) {
        while self.waiting().items.is_empty() {
            self.filled.notified().await;
        }
    }

    /// What is to be sent next; it stays here. `None`: nothing.
    pub fn batch(&self) -> Option<Batch> {
        let waiting = self.waiting();
        let is_event = |item: &&Item| matches!(item, Item::Event(_));
        let events = waiting.items.iter().take_while(is_event).count();
        let items: Vec<Item> = waiting.items.iter().take(events.max(1)).cloned().collect();
        let end = waiting.first + u64::try_from(items.len()).unwrap_or(u64::MAX);
        (!items.is_empty()).then_some(Batch { items, end })
    }

    /// Takes a batch out; what was dropped of it meanwhile has been counted.
    pub fn settle(&self, batch: &Batch, ending: Ending) {
        let mut waiting = self.waiting();
        let done = batch.end.saturating_sub(waiting.first);
        waiting.items.drain(..usize::try_from(done).unwrap_or(0).min(batch.items.len()));
        waiting.first = waiting.first.max(batch.end);
        drop(waiting);
        self.count(ending, done);
    }

    pub fn count(&self, ending: Ending, count: u64) {
        let counter = match ending {
            Ending::Sent => &self.tally.sent,
            Ending::Failed => &self.tally.failed,
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub fn note(&self, mishap: Mishap) {
        *self.mishap.lock().unwrap_or_else(PoisonError::into_inner) = Some(mishap);
    }

    pub fn mishap(&self) -> Option<Mishap> {
        self.mishap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            waiting: self.waiting().items.len(),
            sent: read(&self.tally.sent),
            failed: read(&self.tally.failed),
            dropped: read(&self.tally.dropped),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> Item {
        Item::Event(Event::new(0, "reload", None, &number.to_string()).expect("event"))
    }

    fn counts(outbox: &Outbox) -> [u64; 4] {
        let Counts { waiting, sent, failed, dropped } = outbox.counts();
        [waiting as u64, sent, failed, dropped]
    }

    #[test]
    fn the_oldest_make_room_and_are_counted() {
        let outbox = Outbox::default();
        (0..ROOM + 3).for_each(|number| outbox.push(event(number)));
        assert_eq!(counts(&outbox), [1000, 0, 0, 3]);
        assert_eq!(outbox.batch().expect("batch").items[0], event(3));
    }

    #[test]
    fn what_came_meanwhile_stays_and_what_was_dropped_meanwhile_is_not_sent_twice() {
        let outbox = Outbox::default();
        (0..4).for_each(|number| outbox.push(event(number)));
        let batch = outbox.batch().expect("batch");
        outbox.push(event(4));
        outbox.settle(&batch, Ending::Sent);
        assert_eq!(counts(&outbox), [1, 4, 0, 0]);
        assert_eq!(outbox.batch().expect("batch").items, [event(4)]);

        let batch = outbox.batch().expect("batch");
        (5..5 + ROOM).for_each(|number| outbox.push(event(number)));
        outbox.settle(&batch, Ending::Failed);
        assert_eq!(counts(&outbox), [1000, 4, 0, 1]);
        assert_eq!(outbox.batch().expect("batch").items[0], event(5));
        assert_eq!(outbox.batch().expect("batch").items.len(), ROOM);
    }

    #[test]
    fn a_digest_is_a_message_of_its_own() {
        let outbox = Outbox::default();
        for item in [event(0), event(1), Item::Digest("all is well".into()), event(2)] {
            outbox.push(item);
        }
        let mut lengths = Vec::new();
        while let Some(batch) = outbox.batch() {
            lengths.push(batch.items.len());
            outbox.settle(&batch, Ending::Sent);
        }
        assert_eq!(lengths, [2, 1, 1]);
    }
}
