//! The addresses of backends that are names: looked up beside the supervisor, and again until there is an answer.
//!
//! A name that has resolved keeps its address when a later lookup fails. It keeps it over a restart too, where the
//! kernel plane has gone on forwarding to it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::boot::BootFile;
use crate::net::resolve::resolve;
use crate::rule::{Host, Rule};

/// How long a start or a reload waits for its names before it is called done. Rules without names do not wait.
pub const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// Lookups at once: each has a thread of its own, for as long as the resolver takes.
const AT_ONCE: usize = 32;
/// Between a failure and the next lookup: this, then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

type Answer = Result<Vec<IpAddr>, String>;

pub struct Names {
    known: BTreeMap<Host, Result<IpAddr, String>>,
    under_way: BTreeSet<Host>,
    lookups: JoinSet<(Host, Answer)>,
    at_once: Arc<Semaphore>,
    /// Names whose last lookup failed.
    failing: BTreeMap<Host, Failure>,
    memory: BootFile,
}

/// Failures in a row, and when it is worth another try.
struct Failure {
    times: u32,
    retry: Instant,
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
    pub fn open(state_dir: &Path) -> Self {
        let memory = BootFile::open(&state_dir.join("names"));
        let remembered = |(name, address): (&String, &String)| {
            Some((Host::Name(name.as_str().into()), Ok(address.parse().ok()?)))
        };
        Self {
            known: memory.entries.iter().filter_map(remembered).collect(),
            under_way: BTreeSet::new(),
            lookups: JoinSet::new(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            failing: BTreeMap::new(),
            memory,
        }
    }

    /// The address of each name, or why it has none. Those that are missing are being resolved.
    pub const fn known(&self) -> &BTreeMap<Host, Result<IpAddr, String>> {
        &self.known
    }

    pub fn address(&self, host: &Host) -> Option<IpAddr> {
        match (host, self.known.get(host)) {
            (Host::Address(address), _) | (_, Some(Ok(address))) => Some(*address),
            _ => None,
        }
    }

    pub fn is_under_way(&self, host: &Host) -> bool {
        self.under_way.contains(host)
    }

    pub fn look_up(&mut self, host: &Host) {
        let Host::Name(name) = host else { return };
        if !self.under_way.insert(host.clone()) {
            return;
        }
        let (name, host, at_once) = (name.clone(), host.clone(), self.at_once.clone());
        self.lookups.spawn(async move {
            let _turn = at_once.acquire().await;
            (host, resolve(&name).await)
        });
    }

    /// Looks names up whatever is known. Addresses hold until there is an answer, failures are forgotten.
    pub fn look_up_again(&mut self, names: &BTreeSet<Host>) {
        for host in names {
            self.failing.remove(host);
            if let Some(Err(_)) = self.known.get(host) {
                self.known.remove(host);
            }
            self.look_up(host);
        }
    }

    /// Looks up names that are wanted and not known, and tries no others again. What is not even kept is forgotten:
    /// names that no rule goes to, and failures.
    pub fn tend(&mut self, wanted: &BTreeSet<Host>, kept: &BTreeSet<Host>) {
        self.known.retain(|host, known| wanted.contains(host) || (known.is_ok() && kept.contains(host)));
        self.failing.retain(|host, _| wanted.contains(host));
        for host in wanted {
            if !self.known.contains_key(host) {
                self.look_up(host);
            }
        }
        self.remember();
    }

    /// Tries everything that has failed again: the way to the name server may be there now.
    pub fn retry_now(&mut self) {
        let retry = Instant::now();
        self.failing.values_mut().for_each(|failure| *failure = Failure { times: 0, retry });
    }

    /// Waits for answers, and tries again in time what has failed. Returns the names of which something new is known.
    pub async fn answered(&mut self) -> BTreeSet<Host> {
        loop {
            let waiting = self.failing.iter().filter(|(host, _)| !self.under_way.contains(host));
            let retry = waiting.map(|(_, failure)| failure.retry).min();
            tokio::select! {
                Some(first) = self.lookups.join_next() => {
                    let rest = std::iter::from_fn(|| self.lookups.try_join_next());
                    let answers: Vec<_> = std::iter::once(first).chain(rest).flatten().collect();
                    return answers.into_iter().filter_map(|(host, answer)| self.take(host, answer)).collect();
                }
                () = at(retry) => self.retry_due(),
            }
        }
    }

    fn retry_due(&mut self) {
        let now = Instant::now();
        let due = self.failing.iter().filter(|(_, failure)| failure.retry <= now);
        for host in due.map(|(host, _)| host.clone()).collect::<Vec<_>>() {
            self.look_up(&host);
        }
    }

    /// Takes an answer in; returns the name if that is news.
    fn take(&mut self, host: Host, answer: Answer) -> Option<Host> {
        self.under_way.remove(&host);
        let before = self.known.get(&host);
        let result = match answer {
            Ok(addresses) => {
                self.failing.remove(&host);
                let address = choose(&addresses, before);
                if let Some(Ok(before)) = before.filter(|before| **before != Ok(address)) {
                    tracing::info!("{host} is {address} now, and no longer {before}");
                }
                Ok(address)
            }
            Err(error) => {
                let first = Failure { times: 0, retry: Instant::now() };
                let failure = self.failing.entry(host.clone()).or_insert(first);
                match before {
                    _ if failure.times > 0 => {}
                    Some(Ok(address)) => tracing::warn!("{host} keeps its address {address}: {error}"),
                    _ => tracing::warn!("{host} does not resolve: {error}; it is tried again"),
                }
                failure.retry = Instant::now() + pause(failure.times);
                failure.times += 1;
                before.cloned().filter(Result::is_ok).unwrap_or(Err(error))
            }
        };
        let is_news = before != Some(&result);
        self.known.insert(host.clone(), result);
        is_news.then_some(host)
    }

    /// Writes down what has an address.
    fn remember(&mut self) {
        let resolved = self
            .known
            .iter()
            .filter_map(|(host, known)| Some((host.to_string(), known.as_ref().ok()?.to_string())));
        let entries: BTreeMap<String, String> = resolved.collect();
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

/// The address that a name had, if it still has it; else the first IPv4 address; else the first.
fn choose(addresses: &[IpAddr], before: Option<&Result<IpAddr, String>>) -> IpAddr {
    let kept = before.and_then(|before| before.as_ref().ok()).filter(|kept| addresses.contains(kept));
    *kept.or(addresses.iter().find(|address| address.is_ipv4())).unwrap_or(&addresses[0])
}

/// How long to wait after so many failures before.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}

/// Ends at a time, or never.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than a label may be, so that no name server is asked.
    fn impossible() -> Host {
        Host::Name("x".repeat(64).into())
    }

    fn localhost() -> Host {
        Host::Name("localhost".into())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_later_and_later() {
        let folder = tempfile::tempdir().expect("folder");
        let mut names = Names::open(folder.path());
        let nothing = BTreeSet::new();
        names.tend(&BTreeSet::from([impossible()]), &nothing);
        assert_eq!(names.answered().await, BTreeSet::from([impossible()]));
        assert!(matches!(names.known().get(&impossible()), Some(Err(_))));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let start = Instant::now();
            assert_eq!(names.answered().await, BTreeSet::new(), "the same failure is no news");
            pauses.push(start.elapsed().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        names.retry_now();
        let start = Instant::now();
        names.answered().await;
        names.answered().await;
        assert_eq!(start.elapsed().as_secs(), 1, "at once, and then as patiently as at first");
        // nobody wants it any more, so nothing is ever tried
        names.tend(&nothing, &BTreeSet::from([impossible()]));
        assert!(names.known().is_empty() && names.failing.is_empty() && names.under_way.is_empty());
    }

    #[tokio::test]
    async fn an_address_is_kept_over_failures_and_restarts() {
        let folder = tempfile::tempdir().expect("folder");
        let (wanted, nothing) = (BTreeSet::from([localhost()]), BTreeSet::new());
        let mut names = Names::open(folder.path());
        names.tend(&wanted, &nothing);
        assert_eq!(names.answered().await, wanted);
        assert_eq!(names.address(&localhost()), Some(address("127.0.0.1")));
        names.tend(&wanted, &nothing);
        let mut names = Names::open(folder.path());
        assert_eq!(names.address(&localhost()), Some(address("127.0.0.1")), "written down");
        assert_eq!(names.take(localhost(), Err("no answer".into())), None);
        assert_eq!(names.address(&localhost()), Some(address("127.0.0.1")));
        assert!(names.failing.contains_key(&localhost()), "but tried again");
        names.look_up_again(&wanted);
        assert_eq!(names.address(&localhost()), Some(address("127.0.0.1")), "until there is an answer");
        names.tend(&nothing, &wanted);
        assert_eq!(
            Names::open(folder.path()).known().len(),
            1,
            "a rule that needs it not now may need it again"
        );
        names.tend(&nothing, &nothing);
        assert_eq!(Names::open(folder.path()).known().len(), 0, "forgotten");
    }

    #[test]
    fn an_address_that_is_still_right_stays() {
        let all = ["2001:db8::1", "203.0.113.1", "203.0.113.2"].map(address);
        assert_eq!(choose(&all, None), all[1], "IPv4 first");
        assert_eq!(choose(&all, Some(&Err("no".into()))), all[1]);
        assert_eq!(choose(&all, Some(&Ok(all[2]))), all[2]);
        assert_eq!(choose(&all, Some(&Ok(address("203.0.113.9")))), all[1]);
        assert_eq!(choose(&all[..1], None), all[0]);
    }
}
