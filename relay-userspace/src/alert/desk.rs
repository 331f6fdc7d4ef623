//! All channels: who is told what, and how they are doing. A channel that an edit does not touch goes on.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::answer::Setback;
use super::message::{Event, Message};
use super::outbox::{Counts, Ending, Item, Mishap, Outbox};
use super::{Alert, courier};
use crate::accounting::calendar;

const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// In the order of the configuration.
pub type Alerts = Vec<Arc<Alert>>;

/// What hears of events and hands them to the channels that want them.
#[derive(Debug)]
pub struct Desk {
    /// Who speaks.
    host: Arc<str>,
    channels: Mutex<Vec<Channel>>,
}

#[derive(Debug)]
struct Channel {
    alert: Arc<Alert>,
    outbox: Arc<Outbox>,
    /// Ends with this.
    _task: JoinSet<()>,
}

/// How one channel is doing.
#[derive(Clone, Debug)]
pub struct Status {
    pub alert: Arc<Alert>,
    pub counts: Counts,
    pub mishap: Option<Mishap>,
}

/// What came of a test.
#[derive(Clone, Debug)]
pub struct Tested {
    pub alert: Arc<Alert>,
    pub took: Duration,
    pub result: Result<(), Setback>,
}

impl Default for Desk {
    fn default() -> Self {
        let name = fs::read_to_string(HOST_NAME).unwrap_or_default();
        Self { host: name.trim().into(), channels: Mutex::default() }
    }
}

impl Desk {
    /// Makes these the alerts. One that is as it was goes on; one that is another now keeps what waits and its counts.
    pub fn set(&self, alerts: &Alerts) {
        let mut channels = self.channels();
        let mut before = std::mem::take(&mut *channels);
        for alert in alerts {
            let known = before.iter().position(|channel| channel.alert.name == alert.name);
            let known = known.map(|index| before.swap_remove(index));
            channels.push(match known {
                Some(channel) if channel.alert == *alert => channel,
                Some(channel) => self.open(alert, channel.outbox),
                None => self.open(alert, Arc::default()),
            });
        }
    }

    fn open(&self, alert: &Arc<Alert>, outbox: Arc<Outbox>) -> Channel {
        let mut task = JoinSet::new();
        task.spawn(courier::run(alert.clone(), outbox.clone(), self.host.clone()));
        Channel { alert: alert.clone(), outbox, _task: task }
    }

    /// Hands an event to who wants it.
    pub fn hear(&self, event: &Event) {
        for channel in self.channels().iter().filter(|channel| channel.alert.wants(event)) {
            channel.outbox.push(Item::Event(event.clone()));
        }
    }

    /// So many events came faster than they could be heard. Nobody knows whose they were.
    pub fn miss(&self, count: u64) {
        self.channels().iter().for_each(|channel| channel.outbox.drop_unseen(count));
    }

    /// Hands a digest to one channel, if there still is one.
    pub fn digest(&self, alert: &Alert, text: &str) {
        if let Some(channel) = self.channels().iter().find(|channel| channel.alert.name == alert.name) {
            channel.outbox.push(Item::Digest(text.into()));
        }
    }

    pub fn alerts(&self) -> Alerts {
        self.channels().iter().map(|channel| channel.alert.clone()).collect()
    }

    pub fn statuses(&self) -> Vec<Status> {
        let status = |channel: &Channel| Status {
            alert: channel.alert.clone(),
            counts: channel.outbox.counts(),
            mishap: channel.outbox.mishap(),
        };
        self.channels().iter().map(status).collect()
    }

    /// Sends a message now, beside what waits, once. `None`: there is no such alert.
    pub async fn test(&self, name: &str) -> Option<Tested> {
        let found = self
            .channels()
            .iter()
            .find(|channel| channel.alert.name.as_str() == name)
            .map(|channel| (channel.alert.clone(), channel.outbox.clone()));
        let (alert, outbox) = found?;
        let started = Instant::now();
        let message = Message::test(&self.host, name, calendar::now());
        let result = courier::deliver(&alert.channel, &message).await;
        match &result {
            Ok(()) => outbox.count(Ending::Sent, 1),
            Err(setback) => {
                outbox.count(Ending::Failed, 1);
                outbox.note(Mishap { time: calendar::now(), why: setback.why().to_owned() });
            }
        }
        Some(Tested { alert, took: started.elapsed(), result })
    }

    fn channels(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::AlertName;
    use super::super::channel::tests::{alert, webhook};
    use super::super::kinds::{EventKind, EventKinds};
    use super::*;

    fn named(name: &str, kind: EventKind) -> Arc<Alert> {
        // nobody waits that long in a test
        let gather = Duration::from_secs(3600);
        let name = AlertName::parse(name).expect("name");
        let events = EventKinds::of([kind]);
        Arc::new(Alert { name, events, gather, ..alert(webhook("http://192.0.2.1/")) })
    }

    fn waiting(desk: &Desk) -> Vec<(String, usize)> {
        let statuses = desk.statuses().into_iter();
        statuses.map(|status| (status.alert.name.to_string(), status.counts.waiting)).collect()
    }

    #[tokio::test]
    async fn what_waits_outlives_edits_of_its_alert_and_of_others() {
        let desk = Desk::default();
        desk.set(&vec![
            named("a", EventKind::Reload),
            named("b", EventKind::Daemon),
            named("c", EventKind::Reload),
        ]);
        desk.hear(&Event::new(0, "reload", None, "it").expect("event"));
        assert_eq!(waiting(&desk), [("a".into(), 1), ("b".into(), 0), ("c".into(), 1)]);
        // one goes, one is another now, one is new
        desk.set(&vec![
            named("d", EventKind::Reload),
            named("c", EventKind::Daemon),
            named("b", EventKind::Daemon),
        ]);
        assert_eq!(waiting(&desk), [("d".into(), 0), ("c".into(), 1), ("b".into(), 0)]);
        desk.miss(3);
        assert!(desk.statuses().iter().all(|status| status.counts.dropped == 3));
        assert!(desk.test("a").await.is_none());
    }
}
