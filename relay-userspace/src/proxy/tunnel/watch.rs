//! Asks a WebSocket's peer that is silent whether it is still there: behind a CDN or a NAT its going is told by nobody,
//! and they forget who is silent for long.
//!
//! Not everybody answers (realm does not), and nobody does before it has read what was sent ahead of the question. So only
//! who has answered since it was sent something, and then stops, is taken for gone.

use std::time::Instant;

use crate::rule::Keepalive;

/// What is to be done about a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    Wait,
    /// Send it a ping of this number.
    Ask(u32),
    /// It is gone.
    Gone,
}

#[derive(Debug)]
pub struct Watch {
    keepalive: Keepalive,
    /// When to look next.
    due: Instant,
    asked: Instant,
    /// Payload has come since the last look.
    is_heard: bool,
    /// An answer has.
    has_answered: bool,
    /// The number of the last question,
    question: u32,
    /// and of the last one before it was sent something.
    said: u32,
    /// It has answered a later one, so it has nothing left to read.
    is_listening: bool,
    /// Questions since the last answer.
    unanswered: u8,
}

impl Watch {
    pub fn new(keepalive: Keepalive, now: Instant) -> Self {
        Self {
            keepalive,
            due: now + keepalive.idle,
            asked: now,
            is_heard: false,
            has_answered: false,
            question: 0,
            said: 0,
            is_listening: false,
            unanswered: 0,
        }
    }

    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Payload has come.
    pub const fn hear(&mut self) {
        self.is_heard = true;
    }

    /// The answer to a question has. An earlier one says nothing of what was sent behind that.
    pub const fn hear_answer(&mut self, question: u32) {
        if question > self.question {
            return;
        }
        self.has_answered = true;
        self.is_listening |= question > self.said;
    }

    /// Payload is sent.
    pub const fn say(&mut self) {
        self.said = self.question;
        self.is_listening = false;
    }

    pub fn look(&mut self, now: Instant) -> Next {
        if now < self.due {
            return Next::Wait;
        }
        let Keepalive { idle, interval, count } = self.keepalive;
        let (is_heard, has_answered) = (self.is_heard, self.has_answered);
        (self.is_heard, self.has_answered) = (false, false);
        if is_heard || has_answered {
            self.unanswered = 0;
            self.due = if is_heard { now } else { self.asked } + idle;
            if now < self.due {
                return Next::Wait;
            }
        } else if self.is_listening && self.unanswered >= count {
            return Next::Gone;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        self.question = self.question.saturating_add(1);
        self.asked = now;
        self.due = now + if self.is_listening { interval } else { idle };
        Next::Ask(self.question)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::time::Duration;

    use super::*;

    const KEEPALIVE: Keepalive =
        Keepalive { idle: Duration::from_secs(15), interval: Duration::from_secs(5), count: 3 };

    /// What is done in so many seconds, each with what the peer does when it is asked.
    fn watch(watch: &mut Watch, begun: Instant, seconds: Range<u64>, answers: bool) -> Vec<(u64, Next)> {
        let mut done = Vec::new();
        for second in seconds {
            let next = watch.look(begun + Duration::from_secs(second));
            if let Next::Ask(question) = next
                && answers
            {
                watch.hear_answer(question);
            }
            if next != Next::Wait {
                done.push((second, next));
            }
            if next == Next::Gone {
                break;
            }
        }
        done
    }

    #[test]
    fn who_has_answered_and_stops_is_gone() {
        let begun = Instant::now();
        let mut one = Watch::new(KEEPALIVE, begun);
        assert_eq!(watch(&mut one, begun, 0..31, true), [(15, Next::Ask(1)), (30, Next::Ask(2))]);
        let last = [(45, Next::Ask(3)), (50, Next::Ask(4)), (55, Next::Ask(5)), (60, Next::Gone)];
        assert_eq!(watch(&mut one, begun, 31..90, false), last);
    }

    #[test]
    fn who_never_answers_is_asked_for_ever() {
        let begun = Instant::now();
        let mut one = Watch::new(KEEPALIVE, begun);
        let asked: Vec<(u64, Next)> = (1..40).map(|turn| (15 * u64::from(turn), Next::Ask(turn))).collect();
        assert_eq!(watch(&mut one, begun, 0..600, false), asked);
    }

    /// The answer waits behind what it has not read.
    #[test]
    fn who_has_something_left_to_read_is_not_gone() {
        let begun = Instant::now();
        let mut one = Watch::new(KEEPALIVE, begun);
        watch(&mut one, begun, 0..20, true);
        one.say();
        assert!(watch(&mut one, begun, 20..600, false).iter().all(|(_, next)| *next != Next::Gone));
    }

    /// An answer to what was asked before is none to what was sent since.
    #[test]
    fn who_answers_late_may_have_something_left_to_read() {
        let begun = Instant::now();
        let mut one = Watch::new(KEEPALIVE, begun);
        assert_eq!(watch(&mut one, begun, 0..20, false), [(15, Next::Ask(1))]);
        one.say();
        assert_eq!(watch(&mut one, begun, 20..31, false), [(30, Next::Ask(2))]);
        one.hear_answer(1);
        assert!(watch(&mut one, begun, 31..600, false).iter().all(|(_, next)| *next != Next::Gone));
    }

    #[test]
    fn who_speaks_is_not_asked() {
        let begun = Instant::now();
        let mut one = Watch::new(KEEPALIVE, begun);
        for second in 0..100 {
            one.hear();
            assert_eq!(one.look(begun + Duration::from_secs(second)), Next::Wait);
        }
    }
}
