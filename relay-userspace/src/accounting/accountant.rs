//! Reads all counters every ten seconds and writes what has come, in a thread of its own: a slow disk holds nobody up.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::books::{Books, Entries, Left, Reading, Scope, Source};
use super::calendar;
use super::interfaces::Interfaces;
use super::ports::Ports;
use super::store::{Store, StoreError, move_aside};
use crate::rule::RuleName;
use crate::supervisor::Shared;

/// Between writes: what a crash of the host or of relayd's sessions may lose.
const PACE: Duration = Duration::from_secs(10);
/// Between looks for old rows.
const PRUNING: Duration = Duration::from_hours(1);
/// What the wall clock may be off after that time for it to be believed.
const STEADY: u64 = 300;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Accountant {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Accountant {
    /// Starts writing what [`Ledgers`] learns.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub fn start(folder: &Path, shared: &Arc<Shared>) -> io::Result<Self> {
        let mut writer = Writer::open(folder, &shared.ledgers);
        let (stop, stopped) = mpsc::channel();
        let shared = shared.clone();
        let thread = thread::Builder::new().name("accounts".into()).spawn(move || {
            loop {
                let over = stopped.recv_timeout(until_next(SystemTime::now()));
                if writer.is_open(&shared.ledgers) {
                    shared.take_readings();
                    shared.read_interfaces();
                    shared.read_ports();
                    writer.write(&shared.ledgers);
                }
                if !matches!(over, Err(RecvTimeoutError::Timeout)) {
                    return;
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Accountant {
    fn drop(&mut self) {
        self.stop = None;
        let _it_has_said_why = self.thread.take().map(JoinHandle::join);
    }
}

/// Writes come at whole tens of seconds of the wall clock, so that minutes end with one.
fn until_next(now: SystemTime) -> Duration {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let pace = PACE.as_millis();
    let left = pace - since.as_millis() % pace;
    u64::try_from(left).map_or(PACE, Duration::from_millis)
}

/// The books that requests and the thread share.
#[derive(Debug, Default)]
pub struct Ledgers {
    books: Mutex<Books>,
    interfaces: Mutex<Interfaces>,
    ports: Mutex<Ports>,
    folder: OnceLock<PathBuf>,
}

impl Ledgers {
    pub fn with<T>(&self, work: impl FnOnce(&mut Books) -> T) -> T {
        work(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn with_interfaces<T>(&self, work: impl FnOnce(&mut Interfaces) -> T) -> T {
        work(&mut self.interfaces.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn with_ports<T>(&self, work: impl FnOnce(&mut Ports) -> T) -> T {
        work(&mut self.ports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the database is; `None` until it has been read. Until then all counters wait: what is known of them is in it.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.get().map(PathBuf::as_path)
    }

    /// Takes in what counters say now. `last` looks at a source that a rule has had before.
    pub fn observe(
        &self,
        current: &HashMap<RuleName, Reading>,
        scope: Scope,
        last: impl Fn(&Source) -> Left,
    ) {
        if self.folder().is_none() {
            return;
        }
        // what came until now came before the full minute
        let minute = calendar::now().saturating_sub(1) / 60;
        self.with(|books| {
            for (name, source) in books.left(current, scope) {
                books.close(&name, last(&source), minute);
            }
            books.observe(current, scope, minute);
        });
    }
}

/// The database, and what becomes of it.
struct Writer {
    folder: PathBuf,
    store: Option<Store>,
    /// Complained of already.
    fails: bool,
    pruned: (Instant, u64),
}

impl Writer {
    fn open(folder: &Path, ledgers: &Ledgers) -> Self {
        let mut writer = Self {
            folder: folder.into(),
            store: None,
            fails: false,
            pruned: (Instant::now(), calendar::now()),
        };
        let _tried_again_later = writer.is_open(ledgers);
        writer
    }

    /// Whether the accounts are known; if not, reads them. One that is of no use is left for a new one at once.
    fn is_open(&mut self, ledgers: &Ledgers) -> bool {
        for _ in 0..2 {
            if ledgers.folder().is_some() {
                return true;
            }
            match self.try_open(ledgers) {
                Ok(()) => self.succeeded(),
                Err(error) => self.failed(&error, ledgers),
            }
        }
        ledgers.folder().is_some()
    }

    fn try_open(&mut self, ledgers: &Ledgers) -> Result<(), StoreError> {
        let store = Store::open(&self.folder)?;
        let (accounts, interfaces, allowances) =
            (store.accounts()?, store.interfaces()?, store.allowances()?);
        let of_ports = store.ports()?;
        ledgers.with_ports(|ports| ports.restore(of_ports));
        ledgers.with(|books| books.restore(accounts, allowances));
        ledgers.with_interfaces(|known| *known = Interfaces::restored(interfaces));
        self.store = Some(store);
        let _only_once = ledgers.folder.set(self.folder.clone());
        Ok(())
    }

    fn write(&mut self, ledgers: &Ledgers) {
        let mut entries = ledgers.with(|books| books.entries());
        entries.interfaces = ledgers.with_interfaces(|interfaces| interfaces.accounts());
        entries.ports = ledgers.with_ports(|ports| ports.entries());
        match self.try_write(&entries) {
            Ok(()) => {
                ledgers.with(|books| books.written(&entries));
                ledgers.with_ports(|ports| ports.written(&entries.ports));
                self.succeeded();
            }
            Err(error) => self.failed(&error, ledgers),
        }
    }

    fn try_write(&mut self, entries: &Entries) -> Result<(), StoreError> {
        let store = match &mut self.store {
            Some(store) => store,
            none => none.insert(Store::open(&self.folder)?),
        };
        if !entries.is_empty() {
            store.write(entries)?;
        }
        let (monotonic, wall) = self.pruned;
        let passed = monotonic.elapsed();
        if passed >= PRUNING {
            let now = calendar::now();
            self.pruned = (Instant::now(), now);
            // a clock that has just jumped ahead would take everything out
            if now.abs_diff(wall.saturating_add(passed.as_secs())) <= STEADY {
                store.prune(now)?;
            }
        }
        Ok(())
    }

    fn succeeded(&mut self) {
        if std::mem::take(&mut self.fails) {
            tracing::info!("{}: history is written again", self.folder.display());
        }
    }

    /// Counting goes on in memory; what is of no use makes room.
    fn failed(&mut self, error: &StoreError, ledgers: &Ledgers) {
        let folder = self.folder.display();
        if let StoreError::Unusable(why) = error {
            self.store = None;
            match move_aside(&self.folder, calendar::now()) {
                Ok(aside) => {
                    tracing::warn!(
                        "{folder}: the history is of no use ({why}); it is {} now, and a new one begins",
                        aside.display()
                    );
                    ledgers.with(Books::forgotten);
                    ledgers.with_ports(Ports::forgotten);
                    return;
                }
                Err(error) => tracing::warn!("{folder}: a history of no use cannot be moved aside: {error}"),
            }
        }
        if !std::mem::replace(&mut self.fails, true) {
            tracing::warn!(
                "{folder}: history cannot be written ({error}); it is kept in memory until it can"
            );
        }
    }
}
