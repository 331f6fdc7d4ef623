//! What alerts are told: events as everybody hears them, and digests when they are due.

use std::collections::HashSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

use super::shared::Shared;
use crate::accounting::calendar;
use crate::alert::Alert;
use crate::alert::desk::Alerts;
use crate::alert::digest::kept::{Kept, Standing};
use crate::alert::digest::report::report;
use crate::alert::message::Event;
use crate::api::view::{AlertChange, EventView};
use crate::rule::RuleName;

/// Between looks at whether a digest is due; the clock may be set meanwhile.
const LOOK: Duration = Duration::from_secs(5);
/// A digest that is due when relayd starts waits until it is known who is down.
const SETTLING: Duration = Duration::from_secs(10);
/// For so long totals are waited for, which are read from a database; then they are what has been counted since the start.
const TOTALS: Duration = Duration::from_secs(60);

/// Names of rules that alerts are about and that there are not: rules come and go, but some are typing mistakes.
pub fn strangers<'a>(alerts: &Alerts, rules: impl Iterator<Item = &'a RuleName>) -> Vec<String> {
    let known: HashSet<&RuleName> = rules.collect();
    let unknown = alerts.iter().flat_map(|alert| {
        let names = alert.rules.iter().flatten().filter(|name| !known.contains(name));
        names.map(|name| format!("alert {}: there is no rule {name}", alert.name))
    });
    unknown.collect()
}

/// Starts telling these. Events are heard from now on.
pub fn start(shared: &Arc<Shared>, alerts: &Alerts, state_dir: &Path) -> JoinSet<Infallible> {
    shared.alerts.set(alerts);
    for text in strangers(alerts, shared.snapshot().rules.iter().map(|planned| &planned.rule.name)) {
        tracing::warn!("{text}");
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(dispatch(shared.clone(), shared.events.subscribe()));
    tasks.spawn(tend_digests(shared.clone(), state_dir.to_owned()));
    tasks
}

async fn dispatch(shared: Arc<Shared>, mut events: Receiver<EventView>) -> Infallible {
    loop {
        match events.recv().await {
            Ok(EventView { time, kind, rule, text }) => {
                if let Some(event) = Event::new(time, &kind, rule.as_deref(), &text) {
                    shared.alerts.hear(&event);
                }
            }
            Err(RecvError::Lagged(count)) => {
                tracing::warn!("{count} events came faster than alerts could hear them");
                shared.alerts.miss(count);
            }
            // they end with `shared`, which we have
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn tend_digests(shared: Arc<Shared>, state_dir: PathBuf) -> Infallible {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = Instant::now();
    // read when there is somebody who wants it
    let mut kept = None;
    loop {
        look.tick().await;
        let mut wanting = shared.alerts.alerts();
        wanting.retain(|alert| alert.digest.is_some());
        if start.elapsed() < SETTLING {
            continue;
        }
        if wanting.is_empty() || (shared.ledgers.folder().is_none() && start.elapsed() < TOTALS) {
            continue;
        }
        let kept = kept.get_or_insert_with(|| Kept::open(&state_dir));
        if send_due(&shared, &wanting, kept).await {
            keep(kept.clone()).await;
        }
    }
}

/// Sends digests whose time has come; whether there is something to keep.
async fn send_due(shared: &Shared, wanting: &Alerts, kept: &mut Kept) -> bool {
    let before = kept.digests.len();
    kept.digests.retain(|name, _| wanting.iter().any(|alert| alert.name.as_str() == name));
    let mut is_other = kept.digests.len() != before;
    let now = calendar::now();
    let due: Vec<&Arc<Alert>> = wanting.iter().filter(|alert| is_due(alert, kept, now)).collect();
    if due.is_empty() {
        return is_other;
    }
    let (rules, status) = (shared.rules().await, shared.status().await);
    for alert in due {
        let standing = Standing::of(&rules, now);
        // the first time there is nothing to compare with
        if let Some(before) = kept.digests.insert(alert.name.to_string(), standing) {
            let text = report(&status, &rules, alert.rules.as_ref(), &before, now, &alert.zone);
            shared.alerts.digest(alert, &text);
        }
        is_other = true;
    }
    is_other
}

/// Also one that was due while relayd was away, and one that has never been sent: what it will count from is noted.
fn is_due(alert: &Alert, kept: &Kept, now: u64) -> bool {
    let Some(last) = kept.digests.get(alert.name.as_str()) else { return true };
    // a clock that was set back must not silence it for as long
    let last = last.time.min(now);
    alert.digest.and_then(|digest| digest.next(last, &alert.zone)).is_some_and(|next| next <= now)
}

async fn keep(kept: Kept) {
    let saved = spawn_blocking(move || kept.save()).await;
    if let Ok(Err(error)) = saved {
        tracing::warn!("what digests have told is not kept over a restart: {error}");
    }
}

/// What changes between two sets of alerts.
pub fn changes(before: &Alerts, after: &Alerts) -> Vec<AlertChange> {
    let change =
        |action: &str, alert: &Alert| AlertChange { action: action.into(), name: alert.name.to_string() };
    let same_name =
        |alerts: &Alerts, alert: &Alert| alerts.iter().find(|known| known.name == alert.name).cloned();
    let added = after.iter().filter_map(|alert| match same_name(before, alert) {
        None => Some(change("added", alert)),
        Some(known) if known == *alert => None,
        Some(_) => Some(change("changed", alert)),
    });
    let gone = before.iter().filter(|alert| same_name(after, alert).is_none());
    added.chain(gone.map(|alert| change("removed", alert))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::AlertName;
    use crate::alert::channel::tests::{alert, webhook};
    use crate::alert::digest::Daily;
    use crate::alert::message::tests::EIGHT;

    fn named(name: &str, url: &str) -> Arc<Alert> {
        let (name, digest) = (AlertName::parse(name).expect("name"), Daily::parse("daily:08:00"));
        Arc::new(Alert { name, digest, ..alert(webhook(url)) })
    }

    #[test]
    fn digests_are_due_once_a_day_also_if_relayd_was_away() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut kept, alert) = (Kept::open(folder.path()), named("a", "http://192.0.2.1/"));
        assert!(is_due(&alert, &kept, EIGHT + 1), "its first figures are noted");
        kept.digests.insert("a".into(), Standing { time: EIGHT + 1, ..Standing::default() });
        for (now, due) in [
            (EIGHT + 2, false),
            (EIGHT + 86_399, false),
            (EIGHT + 86_400, true),
            (EIGHT + 10 * 86_400, true),
            (EIGHT - 100, false),
        ] {
            assert_eq!(is_due(&alert, &kept, now), due, "{now}");
        }
    }

    #[test]
    fn rules_that_there_are_not_are_named() {
        let [web, dns] = ["web", "dns"].map(|name| RuleName::parse(name).expect("name"));
        let rules = Some([web.clone(), dns].into());
        let alert = Arc::new(Alert { rules, ..(*named("a", "http://192.0.2.1/")).clone() });
        assert_eq!(strangers(&vec![alert], [web].iter()), ["alert a: there is no rule dns"]);
    }

    #[test]
    fn changes_are_told_by_name() {
        let [a, b, other_b, c] = [("a", "1"), ("b", "1"), ("b", "2"), ("c", "1")]
            .map(|(name, url)| named(name, &format!("http://192.0.2.{url}/")));
        let told: Vec<(String, String)> = changes(&vec![a.clone(), b], &vec![c, other_b])
            .into_iter()
            .map(|change| (change.action, change.name))
            .collect();
        let expected = [("added", "c"), ("changed", "b"), ("removed", "a")];
        assert_eq!(told, expected.map(|(action, name)| (action.to_owned(), name.to_owned())));
        assert!(changes(&vec![a.clone()], &vec![Arc::new((*a).clone())]).is_empty());
    }
}
