//! The addresses of backends that are names: looked up beside the supervisor, again when they are no longer sure to be
//! right, and again until there is an answer.
//!
//! A name that has resolved keeps its addresses when a later lookup fails. It keeps them over a restart too, where the
//! kernel plane has gone on forwarding to them.

mod kept;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use self::kept::{Kept, Upkeep};
use crate::boot::BootFile;
use crate::config::dns::Dns;
use crate::net::resolve::{Answer, Book, Resolver};
use crate::plan::Resolved;
use crate::rule::{Host, Rule};

/// How long a start or a reload waits for its names before it is called done. Rules without names do not wait.
pub const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// Lookups at once.
const AT_ONCE: usize = 32;
pub struct Names {
    known: BTreeMap<Host, Resolved>,
    upkeep: Arc<Upkeep>,
    /// Names that are looked up when they are due.
    wanted: BTreeSet<Host>,
    under_way: BTreeSet<Host>,
    lookups: JoinSet<(Host, Result<Answer, String>)>,
    at_once: Arc<Semaphore>,
    resolver: Resolver,
    dns: Dns,
    memory: BootFile,
}

/// What answers have brought.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct News {
    /// Names of which something else is known now.
    pub names: BTreeSet<Host>,
    /// Those that had addresses before and have others now, in words.
    pub changes: Vec<String>,
}

/// The names that rules go to.
pub fn names_in<'a>(rules: impl IntoIterator<Item = &'a Arc<Rule>>) -> BTreeSet<Host> {
    let hosts = rules.into_iter().flat_map(|rule| rule.to.iter().map(|backend| &backend.host));
    hosts.filter(|host| matches!(host, Host::Name(_))).cloned().collect()
}

/// The names that rules need. One that is disabled needs none.
pub fn names_for<'a>(rules: impl IntoIterator<Item = &'a Arc<Rule>>) -> BTreeSet<Host> {
    names_in(rules.into_iter().filter(|rule| rule.enabled))
}

impl Names {
    /// Starts with what an earlier relayd has written down.
    pub fn open(state_dir: &Path, dns: &Dns) -> Self {
        let memory = BootFile::open(&state_dir.join("names"));
        let remembered = |(name, addresses): (&String, &String)| {
            let addresses: Result<Arc<[IpAddr]>, _> = addresses.split(' ').map(str::parse).collect();
            Some((Host::Name(name.as_str().into()), Ok(addresses.ok()?)))
        };
        Self {
            known: memory.entries.iter().filter_map(remembered).collect(),
            upkeep: Arc::default(),
            wanted: BTreeSet::new(),
            under_way: BTreeSet::new(),
            lookups: JoinSet::new(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            resolver: Resolver::new(dns.servers.clone()),
            dns: dns.clone(),
            memory,
        }
    }

    /// The addresses of each name, or why it has none. Those that are missing are being resolved.
    pub const fn known(&self) -> &BTreeMap<Host, Resolved> {
        &self.known
    }

    pub fn upkeep(&self) -> Arc<Upkeep> {
        self.upkeep.clone()
    }

    /// Who is asked, for others who want to know.
    pub fn book(&self) -> Arc<Book> {
        self.resolver.book()
    }

    pub fn has_address(&self, host: &Host) -> bool {
        matches!((host, self.known.get(host)), (Host::Address(_), _) | (_, Some(Ok(_))))
    }

    /// Where a backend is, as far as that is known.
    pub fn addresses(&self, host: &Host) -> Cow<'_, [IpAddr]> {
        match (host, self.known.get(host)) {
            (Host::Address(address), _) => Cow::Owned(vec![address.to_canonical()]),
            (_, Some(Ok(addresses))) => Cow::Borrowed(addresses),
            _ => Cow::Borrowed(&[]),
        }
    }

    pub fn is_under_way(&self, host: &Host) -> bool {
        self.under_way.contains(host)
    }

    pub fn look_up(&mut self, host: &Host) {
        self.follow_files();
        if self.under_way.insert(host.clone()) {
            self.ask(host);
        }
    }

    fn ask(&mut self, host: &Host) {
        let Host::Name(name) = host else { return };
        let (name, host, at_once, book) =
            (name.clone(), host.clone(), self.at_once.clone(), self.resolver.book());
        self.lookups.spawn(async move {
            let _turn = at_once.acquire().await;
            (host, book.look_up(&name).await)
        });
    }

    /// Looks names up whatever is known. Addresses hold until there is an answer, failures are forgotten.
    pub fn look_up_again(&mut self, names: &BTreeSet<Host>) {
        for host in names {
            if let Some(kept) = self.upkeep.lock().get_mut(host) {
                kept.failures = 0;
            }
            if let Some(Err(_)) = self.known.get(host) {
                self.known.remove(host);
            }
            self.look_up(host);
        }
    }

    /// Looks up names that are wanted and not known, and only those again when they are due. What is not even kept is
    /// forgotten: names that no rule goes to, and failures.
    pub fn tend(&mut self, wanted: BTreeSet<Host>, kept: &BTreeSet<Host>) {
        self.known.retain(|host, known| wanted.contains(host) || (known.is_ok() && kept.contains(host)));
        self.upkeep.lock().retain(|host, _| wanted.contains(host) || self.known.contains_key(host));
        for host in &wanted {
            if !self.known.contains_key(host) || !self.upkeep.lock().contains_key(host) {
                self.look_up(host);
            }
        }
        self.wanted = wanted;
        self.remember();
    }

    /// Tries everything that has failed again: the way to the name server may be there now.
    pub fn retry_now(&mut self) {
        for kept in self.upkeep.lock().values_mut().filter(|kept| kept.failures > 0) {
            (kept.failures, kept.due) = (0, Some(Instant::now()));
        }
    }

    /// Looks everything up again if resolv.conf or hosts has changed.
    pub fn follow_files(&mut self) {
        if self.resolver.follow_files() {
            self.start_over();
            self.all_are_due();
        }
    }

    /// What is under way would be answered as of before.
    fn start_over(&mut self) {
        self.lookups = JoinSet::new();
        for host in self.under_way.clone() {
            self.ask(&host);
        }
    }

    /// Looks names up in another way from now on.
    pub fn configure(&mut self, dns: &Dns) {
        let before = std::mem::replace(&mut self.dns, dns.clone());
        if before.servers != dns.servers {
            self.resolver = Resolver::new(dns.servers.clone());
            self.start_over();
        }
        if before != *dns {
            self.all_are_due();
        }
    }

    fn all_are_due(&self) {
        self.upkeep.lock().values_mut().for_each(|kept| kept.due = Some(Instant::now()));
    }

    /// Waits for answers, and looks up in time what is due. Returns what is new.
    pub async fn answered(&mut self) -> News {
        loop {
            let due = self.due().map(|(_, due)| due).min();
            tokio::select! {
                Some(first) = self.lookups.join_next() => {
                    let rest = std::iter::from_fn(|| self.lookups.try_join_next());
                    let answers: Vec<_> = std::iter::once(first).chain(rest).flatten().collect();
                    let mut news = News::default();
                    for (host, answer) in answers {
                        self.take(host, answer, &mut news);
                    }
                    return news;
                }
                () = at(due) => self.look_up_due(),
            }
        }
    }

    /// Names that wait for their next lookup.
    fn due(&self) -> impl Iterator<Item = (&Host, Instant)> {
        let upkeep = self.upkeep.lock();
        let waiting = self.wanted.iter().filter(|host| !self.under_way.contains(host));
        waiting.filter_map(move |host| Some((host, upkeep.get(host)?.due?)))
    }

    fn look_up_due(&mut self) {
        let now = Instant::now();
        let due: Vec<Host> =
            self.due().filter(|(_, due)| *due <= now).map(|(host, _)| host.clone()).collect();
        for host in due {
            self.look_up(&host);
        }
    }

    /// Takes an answer in.
    fn take(&mut self, host: Host, answer: Result<Answer, String>, news: &mut News) {
        self.under_way.remove(&host);
        let before = self.known.get(&host);
        let mut upkeep = self.upkeep.lock();
        let kept = upkeep.entry(host.clone()).or_default();
        let known = match answer {
            Ok(answer) => {
                let addresses = kept.succeed(&answer, addresses_of(before), &self.dns);
                if let Some(Ok(before)) = before.filter(|before| **before != Ok(addresses.clone())) {
                    let change =
                        format!("{host} is {} now, and no longer {}", shown(&addresses), shown(before));
                    tracing::info!("{change}");
                    news.changes.push(change);
                }
                Ok(addresses)
            }
            Err(error) => {
                if kept.failures == 0 {
                    match before {
                        Some(Ok(before)) => {
                            tracing::warn!("{host} keeps its address {}: {error}", shown(before));
                        }
                        _ => tracing::warn!("{host} does not resolve: {error}; it is tried again"),
                    }
                }
                kept.fail(error.clone());
                before.cloned().filter(Result::is_ok).unwrap_or(Err(error))
            }
        };
        drop(upkeep);
        if before != Some(&known) {
            news.names.insert(host.clone());
        }
        self.known.insert(host, known);
    }

    /// Writes down what has an address.
    fn remember(&mut self) {
        let resolved = |(host, known): (&Host, &Resolved)| {
            let addresses: Vec<String> = known.as_ref().ok()?.iter().map(ToString::to_string).collect();
            Some((host.to_string(), addresses.join(" ")))
        };
        let entries: BTreeMap<String, String> = self.known.iter().filter_map(resolved).collect();
        if entries == self.memory.entries {
            return;
        }
        self.memory.entries = entries;
        if let Err(error) = self.memory.save() {
            let path = self.memory.path().display();
            tracing::warn!("{path}: {error}; after a restart names have no address until they resolve");
        }
    }
}

fn addresses_of(known: Option<&Resolved>) -> &[IpAddr] {
    known.and_then(|known| known.as_deref().ok()).unwrap_or_default()
}

/// `203.0.113.1, 2001:db8::1`
fn shown(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Ends at a time, or never.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
