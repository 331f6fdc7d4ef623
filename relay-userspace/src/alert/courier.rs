//! Carries what waits in an outbox to its service, one message after the other; nothing is lost while a service is away.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer::{Setback, judge};
use super::channel::{Channel, Web};
use super::message::Message;
use super::outbox::{Batch, Ending, Item, Mishap, Outbox};
use super::secret::scrubbed;
use super::{Alert, http, mail, render, retry};
use crate::accounting::calendar;

/// For one request, from the look-up of the name to the last byte of the answer.
const REQUEST: Duration = Duration::from_secs(10);
/// For a mail, which takes many turns; some servers are slow to greet on purpose.
const MAIL: Duration = Duration::from_secs(30);

/// One channel's task. It never ends by itself.
pub async fn run(alert: Arc<Alert>, outbox: Arc<Outbox>, host: Arc<str>) {
    serve(&alert, &outbox, &host, &alert.channel).await;
}

/// What takes messages to their service.
trait Carrier: Sync {
    fn carry(&self, message: &Message) -> impl Future<Output = Result<(), Setback>> + Send;
}

impl Carrier for Channel {
    async fn carry(&self, message: &Message) -> Result<(), Setback> {
        deliver(self, message).await
    }
}

/// Sends a message now. What comes back names no secret.
pub async fn deliver(channel: &Channel, message: &Message) -> Result<(), Setback> {
    let late = |limit: Duration| Setback::lost(format!("no answer within {} s", limit.as_secs()));
    let result = match channel {
        Channel::Web(web) => {
            timeout(REQUEST, post(web, message)).await.unwrap_or_else(|_| Err(late(REQUEST)))
        }
        Channel::Smtp(smtp) => {
            timeout(MAIL, mail::send(smtp, message)).await.unwrap_or_else(|_| Err(late(MAIL)))
        }
    };
    let clean = |why: &str| scrubbed(why, &channel.secrets());
    result.map_err(|setback| match setback {
        Setback::Later { after, why } => Setback::Later { after, why: clean(&why) },
        Setback::Refused(why) => Setback::Refused(clean(&why)),
    })
}

async fn post(web: &Web, message: &Message) -> Result<(), Setback> {
    let milliseconds = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    let post = render::post(&web.service, message, milliseconds);
    let post = post.map_err(|error| Setback::Refused(error.to_string()))?;
    let answer = http::send(web, post).await.map_err(|error| Setback::lost(format!("{error:#}")))?;
    judge(&web.service, &answer, Timestamp::now())
}

async fn serve(alert: &Alert, outbox: &Outbox, host: &str, carrier: &impl Carrier) {
    let mut earliest = Instant::now();
    loop {
        outbox.filled().await;
        sleep(alert.gather).await;
        sleep_until(earliest).await;
        earliest = Instant::now() + alert.min_interval;
        send_next(alert, outbox, host, carrier).await;
    }
}

/// Until one message is through, or will never be. What comes meanwhile goes along with the next try.
async fn send_next(alert: &Alert, outbox: &Outbox, host: &str, carrier: &impl Carrier) {
    let (name, first) = (&alert.name, Instant::now());
    let mut tries = 0;
    while let Some(batch) = outbox.batch() {
        tries += 1;
        let setback = match carrier.carry(&message(alert, &batch, host)).await {
            Ok(()) => {
                outbox.settle(&batch, Ending::Sent);
                if tries > 1 {
                    tracing::info!("alert {name}: sent, at the {tries}. try");
                }
                return;
            }
            Err(setback) => setback,
        };
        outbox.note(Mishap { time: calendar::now(), why: setback.why().to_owned() });
        let wait = match &setback {
            Setback::Refused(_) => None,
            Setback::Later { after, .. } => retry::wait(tries, first.elapsed(), *after),
        };
        let why = setback.why();
        let Some(wait) = wait else {
            tracing::error!("alert {name}: not sent: {why}");
            outbox.settle(&batch, Ending::Failed);
            return;
        };
        if tries == 1 {
            tracing::warn!("alert {name}: not sent yet, tried again: {why}");
        }
        sleep(wait.max(alert.min_interval)).await;
    }
}

fn message(alert: &Alert, batch: &Batch, host: &str) -> Message {
    let now = calendar::now();
    if let [Item::Digest(text)] = &batch.items[..] {
        return Message::digest(host, text, now);
    }
    let event = |item: &Item| match item {
        Item::Event(event) => Some(event.clone()),
        Item::Digest(_) => None,
    };
    Message::of_events(host, batch.items.iter().filter_map(event).collect(), &alert.zone, now)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::channel::tests::{alert, webhook};
    use super::super::message::Event;
    use super::super::outbox::Counts;
    use super::*;

    /// When messages came, in milliseconds, and how many lines each had.
    type Seen = Mutex<Vec<(u128, usize)>>;

    fn push(outbox: &Outbox, count: usize) {
        for number in 0..count {
            let event = Event::new(0, "reload", None, &format!("number {number}")).expect("event");
            outbox.push(Item::Event(event));
        }
    }

    fn paced(gather: u64, min_interval: u64) -> Alert {
        let [gather, min_interval] = [gather, min_interval].map(Duration::from_millis);
        Alert { gather, min_interval, ..alert(webhook("http://192.0.2.1/")) }
    }

    /// A service that answers so, one answer after the other and then well.
    struct Service {
        start: Instant,
        seen: Seen,
        answers: Mutex<std::vec::IntoIter<Setback>>,
    }

    impl Carrier for Service {
        async fn carry(&self, message: &Message) -> Result<(), Setback> {
            let at = self.start.elapsed().as_millis();
            self.seen.lock().expect("lock").push((at, message.lines.len()));
            self.answers.lock().expect("lock").next().map_or(Ok(()), Err)
        }
    }

    /// What a service sees within an hour.
    async fn seen(
        alert: &Alert,
        outbox: &Outbox,
        answers: Vec<Setback>,
        meanwhile: impl Future<Output = ()>,
    ) -> Vec<(u128, usize)> {
        let answers = Mutex::new(answers.into_iter());
        let service = Service { start: Instant::now(), seen: Seen::default(), answers };
        let both = async { tokio::join!(serve(alert, outbox, "here", &service), meanwhile) };
        let _it_never_ends = timeout(Duration::from_hours(1), both).await;
        service.seen.into_inner().expect("lock")
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_message_and_the_next_waits_for_its_turn() {
        let outbox = Outbox::default();
        let alert = paced(2000, 10_000);
        let meanwhile = async {
            push(&outbox, 5);
            sleep(Duration::from_secs(1)).await;
            push(&outbox, 5);
            sleep(Duration::from_secs(3)).await;
            push(&outbox, 1);
            sleep(Duration::from_secs(5)).await;
            push(&outbox, 1);
        };
        let seen = seen(&alert, &outbox, Vec::new(), meanwhile).await;
        assert_eq!(seen, [(2000, 10), (12_000, 2)]);
        assert_eq!(outbox.counts(), Counts { sent: 12, ..Counts::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_is_tried_again_with_what_came_meanwhile() {
        let outbox = Outbox::default();
        let alert = paced(0, 0);
        push(&outbox, 1);
        let meanwhile = async {
            sleep(Duration::from_secs(5)).await;
            push(&outbox, 2);
        };
        let slow = Setback::Later { after: Some(Duration::from_secs(60)), why: "HTTP 429".into() };
        let answers = vec![Setback::lost("away"), Setback::lost("away"), slow];
        let seen = seen(&alert, &outbox, answers, meanwhile).await;
        assert_eq!(seen, [(0, 1), (2000, 1), (6000, 3), (66_000, 3)]);
        assert_eq!(outbox.counts(), Counts { sent: 3, ..Counts::default() });
        assert_eq!(outbox.mishap().map(|mishap| mishap.why).as_deref(), Some("HTTP 429"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_not_tried_again() {
        let outbox = Outbox::default();
        let alert = paced(0, 1000);
        push(&outbox, 3);
        let meanwhile = async {
            sleep(Duration::from_secs(100)).await;
            push(&outbox, 1);
        };
        let seen = seen(&alert, &outbox, vec![Setback::Refused("HTTP 404".into())], meanwhile).await;
        assert_eq!(seen, [(0, 3), (100_000, 1)]);
        assert_eq!(outbox.counts(), Counts { sent: 1, failed: 3, ..Counts::default() });
    }
}
