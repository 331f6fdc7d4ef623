//! What happens to flows of both planes, for those who watch it live.
//!
//! While nobody watches, telling costs a look at a flag. Who tells waits for nobody: a watcher who is too slow, or is told more
//! than a second takes, misses events, which are counted.

mod watcher;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use relay_common::net::Protocol;
use tokio::sync::watch as channel;

use self::watcher::Watcher;
pub use self::watcher::{Lost, News, Watch};
use crate::connections::Ended;
use crate::flows::Plane;
use crate::rule::RuleName;

/// Who may watch at once.
pub const MOST_WATCHERS: usize = 64;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When relayd heard of it; of the kernel plane that is up to a tenth of a second later.
    pub at: SystemTime,
    /// `None`: a packet that could not be laid at a rule's door.
    pub rule: Option<RuleName>,
    pub plane: Plane,
    /// `None`: a packet of ICMP, or one that is not known.
    pub protocol: Option<Protocol>,
    /// Of a packet that was dropped, who sent it.
    pub client: Option<SocketAddr>,
    /// The address and port that the client asked; of a packet that was dropped, where it was going.
    pub listen: Option<SocketAddr>,
    /// `None`: it has none.
    pub backend: Option<SocketAddr>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The first packet of a flow, or a session that has been let in.
    Opened,
    /// The client has proven that it gets the answers; a session has its backend.
    Proven,
    Closed {
        /// Client to backend, backend to client.
        bytes: [u64; 2],
        lasted: Duration,
        reason: &'static str,
    },
    /// A new flow that was not let in.
    Refused { reason: &'static str },
    /// Packets, or datagrams, that went nowhere.
    Dropped { reason: &'static str, packets: u64 },
}

/// The same without its particulars.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Kind {
    Opened = 0,
    Proven = 1,
    Closed = 2,
    Refused = 3,
    Dropped = 4,
}

/// Some kinds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kinds(u8);

/// What somebody wants to see. `None`: any.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub rule: Option<RuleName>,
    pub client: Option<IpNet>,
    pub protocol: Option<Protocol>,
    pub plane: Option<Plane>,
    pub kinds: Kinds,
}

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

impl Kind {
    pub const ALL: [Self; 5] = [Self::Opened, Self::Proven, Self::Closed, Self::Refused, Self::Dropped];

    pub const NAMES: [&str; 5] = [
        Self::ALL[0].as_str(),
        Self::ALL[1].as_str(),
        Self::ALL[2].as_str(),
        Self::ALL[3].as_str(),
        Self::ALL[4].as_str(),
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Proven => "proven",
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether something was turned away.
    pub const fn is_drop(self) -> bool {
        matches!(self, Self::Refused | Self::Dropped)
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Self::of(&Kind::ALL)
    }
}

impl Kinds {
    pub fn of(kinds: &[Kind]) -> Self {
        Self(kinds.iter().fold(0, |bits, &kind| bits | 1 << kind as u8))
    }

    pub const fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Whether some of them are of flows, and some of what is turned away.
    fn sorts(self) -> [bool; 2] {
        [false, true].map(|is_drop| Kind::ALL.iter().any(|kind| self.has(*kind) && kind.is_drop() == is_drop))
    }
}

impl What {
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Opened => Kind::Opened,
            Self::Proven => Kind::Proven,
            Self::Closed { .. } => Kind::Closed,
            Self::Refused { .. } => Kind::Refused,
            Self::Dropped { .. } => Kind::Dropped,
        }
    }
}

impl Event {
    /// Something about a session of the user plane.
    pub fn of_session(rule: &RuleName, protocol: Protocol, client: Option<SocketAddr>, what: What) -> Self {
        Self {
            at: SystemTime::now(),
            rule: Some(rule.clone()),
            plane: Plane::User,
            protocol: Some(protocol),
            client: client.map(canonical),
            listen: None,
            backend: None,
            what,
        }
    }

    /// A flow or session that is over.
    pub fn closed(ended: Ended) -> Self {
        let Ended { rule, plane, protocol, client, backend, bytes, lasted, reason } = ended;
        Self {
            at: SystemTime::now(),
            rule: Some(rule),
            plane,
            protocol: Some(protocol),
            client: Some(canonical(client)),
            listen: None,
            backend: backend.map(canonical),
            what: What::Closed { bytes, lasted, reason },
        }
    }
}

/// IPv4 addresses that were written as IPv6 ones are IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Filter {
    pub fn takes(&self, event: &Event) -> bool {
        self.kinds.has(event.what.kind())
            && self.rule.as_ref().is_none_or(|rule| event.rule.as_ref() == Some(rule))
            && self.protocol.is_none_or(|protocol| event.protocol == Some(protocol))
            && self.plane.is_none_or(|plane| event.plane == plane)
            && self.client.as_ref().is_none_or(|net| is_of(net, event))
    }
}

/// Whether it is about a client in a network. A packet that was dropped may have been on its way there.
fn is_of(net: &IpNet, event: &Event) -> bool {
    let has = |end: Option<SocketAddr>| end.is_some_and(|end| net.contains(&IpAddr::to_canonical(&end.ip())));
    let is_packet = matches!(event.what, What::Dropped { .. });
    has(event.client) || (is_packet && has(event.listen))
}

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

    fn list(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Watcher>>> {
        self.watchers.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_filter_takes_what_it_names() {
        let opened = event("web", "[::ffff:198.51.100.7]:4000", What::Opened);
        let dropped = event("web", "203.0.113.10:80", What::Dropped { reason: "rate", packets: 1 });
        let dropped = Event { listen: Some("198.51.100.9:4001".parse().expect("address")), ..dropped };
        let net = |text: &str| Filter { client: Some(text.parse().expect(text)), ..Filter::default() };
        let kinds = |kinds: &[Kind]| Filter { kinds: Kinds::of(kinds), ..Filter::default() };
        for (filter, takes) in [
            (Filter::default(), [true, true]),
            (Filter { rule: RuleName::parse("dns"), ..Filter::default() }, [false, false]),
            (Filter { rule: RuleName::parse("web"), ..Filter::default() }, [true, true]),
            (Filter { plane: Some(Plane::Kernel), ..Filter::default() }, [false, false]),
            (Filter { protocol: Some(Protocol::Udp), ..Filter::default() }, [false, false]),
            (net("198.51.100.0/24"), [true, true]),
            (net("198.51.100.7/32"), [true, false]),
            (net("192.0.2.0/24"), [false, false]),
            (kinds(&[Kind::Opened, Kind::Closed]), [true, false]),
            (kinds(&[Kind::Dropped]), [false, true]),
        ] {
            assert_eq!([&opened, &dropped].map(|event| filter.takes(event)), takes, "{filter:?}");
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
