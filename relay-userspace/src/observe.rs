//! What happens to flows of both planes, for those who watch it live.
//!
//! While nobody watches, telling costs a look at a flag. Who tells waits for nobody: a watcher who is too slow, or is told more
//! than a second takes, misses events, which are counted.

mod event;
mod watcher;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch as channel;

pub use self::event::{Event, Filter, Kind, Kinds, What, canonical};
use self::watcher::Watcher;
pub use self::watcher::{Lost, News, Watch};

/// Who may watch at once.
pub const MOST_WATCHERS: usize = 64;

/// Where everything is told, and everybody watches.
#[derive(Debug)]
pub struct Observatory {
    on: AtomicBool,
    watchers: RwLock<Vec<Arc<Watcher>>>,
    /// Whether anybody watches, for who tells the kernel plane.
    wanted: channel::Sender<bool>,
    /// Whether the kernel plane has been told.
    ready: channel::Sender<bool>,
}

/// As many watch as may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Crowded;

impl Default for Observatory {
    fn default() -> Self {
        Self {
            on: AtomicBool::new(false),
            watchers: RwLock::default(),
            wanted: channel::Sender::new(false),
            ready: channel::Sender::new(false),
        }
    }
}

impl Observatory {
    /// Whether anybody watches.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// How many watch, and are told all that there is.
    pub fn watchers(&self) -> usize {
        if *self.ready.borrow() { self.list().len() } else { 0 }
    }

    /// Something has happened; `event` is only asked if somebody watches.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        if !self.is_on() {
            return;
        }
        let event = event();
        for watcher in self.list().iter().filter(|watcher| watcher.filter.takes(&event)) {
            watcher.offer(&event);
        }
    }

    /// So much more has happened that nobody knows more about.
    pub fn lose(&self, lost: Lost) {
        if self.is_on() && lost != Lost::default() {
            self.list().iter().for_each(|watcher| watcher.lose(lost));
        }
    }

    /// Watches from now on, until what this returns is dropped.
    ///
    /// # Errors
    ///
    /// There are as many as may be.
    pub fn watch(self: &Arc<Self>, filter: Filter) -> Result<Watch, Crowded> {
        let mut watchers = self.watchers.write().unwrap_or_else(PoisonError::into_inner);
        if watchers.len() >= MOST_WATCHERS {
            return Err(Crowded);
        }
        let (watcher, inbox) = Watcher::new(filter);
        let watcher = Arc::new(watcher);
        watchers.push(watcher.clone());
        self.switch(true);
        drop(watchers);
        Ok(Watch::new(self.clone(), watcher, inbox))
    }

    fn forget(&self, watcher: &Arc<Watcher>) {
        let mut watchers = self.watchers.write().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|other| !Arc::ptr_eq(other, watcher));
        self.switch(!watchers.is_empty());
    }

    /// Only with the list in hand, so that the last word is true.
    fn switch(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, on) != on);
    }

    /// Says whether anybody watches, whenever that changes.
    pub fn wanted(&self) -> channel::Receiver<bool> {
        self.wanted.subscribe()
    }

    /// The kernel plane has been told whether anybody watches.
    pub fn set_ready(&self, on: bool) {
        self.ready.send_replace(on);
    }

    /// Waits until the kernel plane tells.
    pub async fn ready(&self) {
        let mut ready = self.ready.subscribe();
        let _never_closed = ready.wait_for(|ready| *ready).await;
    }

    fn list(&self) -> RwLockReadGuard<'_, Vec<Arc<Watcher>>> {
        self.watchers.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RuleName;
    use relay_common::net::Protocol;

    fn event(rule: &str, client: &str, what: What) -> Event {
        let rule = RuleName::parse(rule).expect(rule);
        Event::of_session(&rule, Protocol::Tcp, client.parse().ok(), what)
    }

    fn number(watch: &mut Watch) -> Option<u16> {
        match watch.next_now() {
            Some(News::Event(event)) => event.client.map(|client| client.port()),
            Some(News::Lost(lost)) => panic!("{lost:?}"),
            None => None,
        }
    }

    #[test]
    fn it_is_on_while_somebody_watches() {
        let observatory = Arc::new(Observatory::default());
        let wanted = observatory.wanted();
        observatory.tell(|| unreachable!("nobody asks"));
        let first = observatory.watch(Filter::default()).expect("watch");
        let second = observatory.watch(Filter::default()).expect("watch");
        assert!(observatory.is_on() && *wanted.borrow());
        drop(first);
        assert!(observatory.is_on() && *wanted.borrow());
        drop(second);
        assert!(!observatory.is_on() && !*wanted.borrow());
        observatory.tell(|| unreachable!("nobody asks"));
    }

    #[test]
    fn each_gets_what_it_wants() {
        let observatory = Arc::new(Observatory::default());
        let web = Filter { rule: RuleName::parse("web"), ..Filter::default() };
        let (mut all, mut web) =
            (observatory.watch(Filter::default()).expect("watch"), observatory.watch(web).expect("watch"));
        observatory.tell(|| event("dns", "192.0.2.1:1", What::Opened));
        observatory.tell(|| event("web", "192.0.2.1:2", What::Opened));
        assert_eq!([number(&mut all), number(&mut all), number(&mut all)], [Some(1), Some(2), None]);
        assert_eq!([number(&mut web), number(&mut web)], [Some(2), None]);
    }

    #[test]
    fn too_many_are_turned_away() {
        let observatory = Arc::new(Observatory::default());
        let watch = || observatory.watch(Filter::default());
        let all: Vec<_> = (0..MOST_WATCHERS).map(|_| watch().expect("watch")).collect();
        assert_eq!(watch().err(), Some(Crowded));
        drop(all);
        assert!(watch().is_ok());
    }
}
