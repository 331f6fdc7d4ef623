//! How much of its limits a rule has used up. The programs write it, and relayd through a mapping of the same memory, so
//! that a rule's limit holds over both planes.
//!
//! Kernels before 5.12 cannot add and read in one step. So whoever wants something takes it first, looks then, and gives
//! it back if that was too much: two that want the last one may both be refused, but never both be let in.

use crate::net::Protocol;
use crate::shared::Shared;

const SECOND: u64 = 1_000_000_000;
/// relayd says this often that its sessions are alive; those of one that has been silent for longer do not count.
const SILENCE: u64 = 30 * SECOND;

/// One rule's use of its limits. Times are nanoseconds of the monotonic clock.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Usage {
    flows: Count,
    sessions: Count,
    heartbeat: Shared,
    /// Of new flows and sessions.
    pub pace: Pace,
    /// Flows that have taken turns among the rule's backends.
    turns: [Shared; 2],
    _reserved: [u64; 2],
}

const _: () = assert!(size_of::<Usage>() == 64);

impl Usage {
    /// Proven flows of the kernel plane.
    #[inline(always)]
    pub fn flows(&self) -> i64 {
        self.flows.get()
    }

    pub const fn flow_count(&self) -> &Count {
        &self.flows
    }

    /// Takes a place for a proven flow, if there is one of `most` (0: any number).
    #[inline(always)]
    pub fn take_flow(&self, most: u32, now: u64) -> bool {
        self.flows.add(1);
        if most != 0 && self.taken(now) > i64::from(most) {
            self.flows.add(-1);
            return false;
        }
        true
    }

    #[inline(always)]
    pub fn give_flow_back(&self) {
        self.flows.add(-1);
    }

    /// The number of a new flow whose backend is chosen by turns. Two at once may get the same.
    #[inline(always)]
    pub fn turn(&self, protocol: Protocol) -> u64 {
        let [tcp, udp] = &self.turns;
        let turns = match protocol {
            Protocol::Tcp => tcp,
            Protocol::Udp => udp,
        };
        turns.add(1);
        turns.get()
    }

    /// Sessions of the user plane.
    pub fn sessions(&self) -> i64 {
        self.sessions.get()
    }

    /// Takes a place for a session of the user plane, if there is one of `most` (0: any number).
    pub fn take_session(&self, most: u32, now: u64) -> bool {
        self.heartbeat.set(now);
        self.sessions.add(1);
        if most != 0 && self.taken(now) > i64::from(most) {
            self.sessions.add(-1);
            return false;
        }
        true
    }

    pub fn give_session_back(&self) {
        self.sessions.add(-1);
    }

    /// Says that relayd is alive.
    pub fn beat(&self, now: u64) {
        self.heartbeat.set(now);
    }

    /// A relayd begins: whatever an earlier one had open is closed.
    pub fn forget_sessions(&self) {
        self.sessions.0.set(0);
    }

    /// Whether no place of `most` (0: any number) is left.
    #[inline(always)]
    pub fn is_full(&self, most: u32, now: u64) -> bool {
        most != 0 && self.taken(now) >= i64::from(most)
    }

    #[inline(always)]
    fn taken(&self, now: u64) -> i64 {
        // another CPU may have said so after `now` was read
        let alive = now.saturating_sub(self.heartbeat.get()) < SILENCE;
        let sessions = if alive { self.sessions.get() } else { 0 };
        self.flows.get() + sessions
    }
}

/// A number that many add to at once. Below zero for as long as who gives back is faster than who takes.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Count(Shared);

impl Count {
    #[inline(always)]
    pub fn get(&self) -> i64 {
        self.0.get().cast_signed()
    }

    #[inline(always)]
    pub fn add(&self, difference: i64) {
        self.0.add(difference.cast_unsigned());
    }
}

/// A pace that new flows must keep: a second's worth may come at once, then one each `interval` (GCRA, ITU-T I.371
/// annex A). Holds the time at which all that were let in are paid for.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Pace(Shared);

impl Pace {
    /// Time between two at `rate` per second; 0: no limit.
    pub const fn interval(rate: u32) -> u32 {
        if rate == 0 { 0 } else { (SECOND / rate as u64) as u32 }
    }

    /// Whether it is as one that nobody has used.
    pub fn is_rested(&self, now: u64) -> bool {
        self.0.get() <= now.saturating_sub(SECOND)
    }

    /// Whether one more may come now.
    #[inline(always)]
    pub fn admits(&self, interval: u32, now: u64) -> bool {
        if interval == 0 {
            return true;
        }
        let earliest = now.saturating_sub(SECOND);
        if self.0.get() < earliest {
            self.0.set(earliest);
        }
        self.0.add(u64::from(interval));
        if self.0.get() > now {
            self.0.add(u64::from(interval).wrapping_neg());
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1000 * SECOND;

    #[test]
    fn a_limit_holds_over_both_planes() {
        let usage = Usage::default();
        assert!(usage.take_flow(2, START) && usage.take_session(2, START));
        assert!(usage.is_full(2, START) && !usage.is_full(3, START) && !usage.is_full(0, START));
        assert!(!usage.take_flow(2, START) && !usage.take_session(2, START));
        usage.give_session_back();
        assert!(usage.take_flow(2, START) && !usage.take_session(2, START));
        usage.give_flow_back();
        assert!(usage.take_session(2, START));
        assert!(usage.take_flow(0, START) && usage.take_session(0, START), "no limit");
    }

    #[test]
    fn sessions_of_a_dead_relayd_do_not_count() {
        let usage = Usage::default();
        assert!(usage.take_session(1, START));
        assert!(!usage.take_flow(1, START + SILENCE - 1));
        assert!(usage.take_flow(1, START + SILENCE));
        usage.give_flow_back();
        usage.beat(START + SILENCE);
        assert!(!usage.take_flow(1, START + SILENCE), "alive after all");
        usage.forget_sessions();
        assert!(usage.take_flow(1, START + SILENCE), "started again");
    }

    #[test]
    fn a_heartbeat_after_the_clock_was_read_is_one() {
        let usage = Usage::default();
        assert!(usage.take_session(1, START + 5));
        assert!(usage.is_full(1, START) && !usage.take_flow(1, START));
    }

    #[test]
    fn lost_flows_are_put_right() {
        let usage = Usage::default();
        usage.flow_count().add(3);
        assert!(usage.is_full(3, START));
        usage.flow_count().add(-3);
        assert_eq!(usage.flows(), 0);
    }

    #[test]
    fn a_seconds_worth_at_once_then_evenly() {
        let (pace, interval) = (Pace::default(), Pace::interval(10));
        let admitted = |now: u64| (0..100).filter(|_| pace.admits(interval, now)).count();
        assert_eq!(admitted(START), 10);
        assert_eq!(admitted(START + SECOND / 10 - 1), 0);
        assert_eq!(admitted(START + SECOND / 10), 1);
        assert_eq!(admitted(START + SECOND / 2), 4);
        assert_eq!(admitted(START + 100 * SECOND), 10, "silence is not saved up");
        let long: usize = (1..=100).map(|step| admitted(START + 100 * SECOND + step * SECOND / 20)).sum();
        assert_eq!(long, 50, "five seconds");
    }

    #[test]
    fn paces_from_the_slowest_to_the_fastest() {
        assert_eq!(Pace::interval(0), 0);
        assert!((0..1000).all(|_| Pace::default().admits(0, START)));
        for rate in [1, 3, 1000, 1_000_000] {
            let (pace, interval) = (Pace::default(), Pace::interval(rate));
            let admitted = (0..=rate).filter(|_| pace.admits(interval, START)).count();
            assert_eq!(admitted, rate as usize);
        }
    }
}
