//! One who watches: what is kept for it until it has time, and what it has missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Event, Filter, Observatory};

/// Events that a watcher may be behind by.
pub(super) const BACKLOG: usize = 4096;
/// Events that it gets in a second.
pub(super) const MOST: u32 = 5000;

/// How often it is told what it has missed.
const SECOND: Duration = Duration::from_secs(1);

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    Event(Event),
    /// So many are missing here.
    Lost(Lost),
}

/// Events that nobody saw.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lost {
    /// That flows were opened, proven, closed.
    pub flows: u64,
    /// That something was refused or dropped.
    pub drops: u64,
}

/// As those see it who tell.
#[derive(Debug)]
pub(super) struct Watcher {
    pub filter: Filter,
    queue: Sender<Event>,
    /// Of flows, of what is turned away.
    lost: [AtomicU64; 2],
    /// The current second, and how many events it has had.
    pace: AtomicU64,
}

impl Watcher {
    pub fn new(filter: Filter) -> (Self, Receiver<Event>) {
        let (queue, inbox) = channel(BACKLOG);
        (Self { filter, queue, lost: Default::default(), pace: AtomicU64::new(0) }, inbox)
    }

    pub fn offer(&self, event: &Event) {
        if !self.has_room(second(event.at)) || self.queue.try_send(event.clone()).is_err() {
            self.lost[usize::from(event.what.kind().is_drop())].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something that may or may not have passed the filter.
    pub fn lose(&self, lost: Lost) {
        let [flows, drops] = self.filter.kinds.sorts();
        let counts = [u64::from(flows) * lost.flows, u64::from(drops) * lost.drops];
        for (place, count) in self.lost.iter().zip(counts) {
            place.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Takes one of this second's.
    fn has_room(&self, second: u32) -> bool {
        let take = |pace: u64| match ((pace >> 32) as u32, pace as u32) {
            (same, events) if same == second => (events < MOST).then_some(pace + 1),
            _ => Some(u64::from(second) << 32 | 1),
        };
        self.pace.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn take_lost(&self) -> Option<Lost> {
        let [flows, drops] = [0, 1].map(|sort: usize| self.lost[sort].swap(0, Ordering::Relaxed));
        Some(Lost { flows, drops }).filter(|lost| *lost != Lost::default())
    }
}

fn second(at: SystemTime) -> u32 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

/// As it sees itself. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    observatory: Arc<Observatory>,
    watcher: Arc<Watcher>,
    inbox: Receiver<Event>,
    /// When it is looked whether something was missed.
    look: Option<Interval>,
}

impl Watch {
    pub(super) const fn new(
        observatory: Arc<Observatory>,
        watcher: Arc<Watcher>,
        inbox: Receiver<Event>,
    ) -> Self {
        Self { observatory, watcher, inbox, look: None }
    }

    /// What happens next. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> News {
        let Self { watcher, inbox, look, .. } = self;
        let look = look.get_or_insert_with(|| {
            let mut look = interval(SECOND);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            look
        });
        loop {
            tokio::select! {
                biased;
                _ = look.tick() => if let Some(lost) = watcher.take_lost() {
                    return News::Lost(lost);
                },
                // the watcher holds the other end
                Some(event) = inbox.recv() => return News::Event(event),
            }
        }
    }

    #[cfg(test)]
    pub(super) fn next_now(&mut self) -> Option<News> {
        let lost = || self.watcher.take_lost().map(News::Lost);
        self.inbox.try_recv().ok().map(News::Event).or_else(lost)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.observatory.forget(&self.watcher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Kind, Kinds, What};
    use crate::rule::RuleName;
    use relay_common::net::Protocol;

    fn event(second: u64, what: What) -> Event {
        let rule = RuleName::parse("web").expect("name");
        let event = Event::of_session(&rule, Protocol::Tcp, Some(([192, 0, 2, 1], 1).into()), what);
        Event { at: UNIX_EPOCH + Duration::from_secs(second), ..event }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_misses_events_and_is_told_how_many() {
        let observatory = Arc::new(Observatory::default());
        let mut watch = observatory.watch(Filter::default()).expect("watch");
        let dropped = What::Dropped { reason: "rate", packets: 1 };
        for second in 1..=2 {
            for _ in 0..BACKLOG / 2 + 5 {
                observatory.tell(|| event(second, dropped.clone()));
            }
        }
        observatory.tell(|| event(3, What::Opened));
        let mut news = Vec::new();
        while news.len() <= BACKLOG {
            news.push(watch.next().await);
        }
        let lost: Vec<_> = news.iter().filter(|news| matches!(news, News::Lost(_))).collect();
        assert_eq!(lost, [&News::Lost(Lost { flows: 1, drops: 10 })]);
    }

    #[test]
    fn a_second_has_so_many() {
        let (watcher, inbox) = Watcher::new(Filter::default());
        drop(inbox);
        let taken = |second| (0..MOST * 2).filter(|_| watcher.has_room(second)).count();
        assert_eq!([taken(5), taken(6), taken(6)], [MOST as usize, MOST as usize, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lost_elsewhere_is_told_to_whom_it_concerns() {
        let observatory = Arc::new(Observatory::default());
        let kinds = Kinds::of(&[Kind::Refused]);
        let mut watch = observatory.watch(Filter { kinds, ..Filter::default() }).expect("watch");
        observatory.lose(Lost { flows: 3, drops: 12_345 });
        assert_eq!(watch.next().await, News::Lost(Lost { flows: 0, drops: 12_345 }));
        observatory.lose(Lost { flows: 3, drops: 0 });
        observatory.tell(|| event(1, What::Refused { reason: "not_allowed" }));
        assert!(matches!(watch.next().await, News::Event(_)));
        assert_eq!(watch.next_now(), None);
    }
}
