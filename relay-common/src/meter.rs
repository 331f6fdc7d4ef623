//! What a rule's or a group's traffic may be: token buckets, and what is left of a quota. relayd sets them and the programs
//! spend them, in the same memory, so that both planes share them and they hold while relayd is away.
//!
//! A bucket is kept as the time at which all that has passed is paid for (GCRA, ITU-T I.371 annex A): it fills up by the
//! clock alone. A packet passes while there is anything in it and may leave it in debt, since super-packets cannot be
//! let through in part; the debt is paid before the next one passes, so the rate holds. A quota is spent likewise.
//!
//! Where the way out has a queue that keeps packets until they are due (fq), what takes the last of a bucket leaves evenly. Elsewhere
//! it leaves at once, as the rest of the burst does.

use crate::counters::DropReason;
use crate::shared::Shared;

/// Bits of nanoseconds per byte behind the point.
const POINT: u32 = 16;
const SECOND: u64 = 1_000_000_000;
/// The least that a bucket holds, in bytes.
const LEAST_BURST: u64 = 256 * 1024;
/// How long a bucket that is at least so large takes to fill, in nanoseconds. The shortest retransmission timeout of Linux is
/// 200 ms: a sender that has lost everything finds all that it could have sent meanwhile.
const FILLING: u64 = 210_000_000;
/// Bytes that may wait until they are due: fewer than the hundred packets that fq keeps of one flow.
const WAITING: u64 = 96 * 1500;
/// And how long they wait at most, whatever the rate, in nanoseconds.
const LONGEST_WAIT: u64 = 50_000_000;
/// Less is no use to TCP.
const SHORTEST_WAIT: u64 = 10_000_000;
/// Packets of so many bytes may overdraw a bucket by what it holds: acknowledgments, and what opens and ends connections. Data
/// that goes one way would lose those of the other way's, and TCP with them.
const LITTLE: u64 = 128;
/// What is added to the clock, in nanoseconds (104 days): a bucket that takes longer to fill than the machine has been up is
/// full all the same.
const AGES: u64 = 1 << 53;
/// Bits of a client's rate: the slowest, a byte in ten milliseconds, takes 40.
const TIMES: u32 = 48;
/// The most that one packet is, with the headers of all its segments, about.
const LARGEST: u64 = 128 * 1024;
/// What a quota begins with until relayd has said what is left of it, in bytes.
const PLENTY: i64 = 1 << 62;

/// Meters of groups come behind those of all rules.
pub const FIRST_GROUP: u32 = 16_384;
/// Groups that there may be.
pub const GROUPS: u32 = 4_096;
/// All meters.
pub const METERS: u32 = FIRST_GROUP + GROUPS;

/// One rule's, or one group's.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Meter {
    /// What is asked of packets ([`Asks`]), and above 32 bits the place of the rule's group. 0: nothing is.
    asks: Shared,
    /// Of the rate of each client: as a bucket's, and above 48 bits how often there has begun to be one.
    per_client: Shared,
    /// What is left of the quota, in bytes, as signed numbers; of a quota for each direction one each, else the first.
    remaining: [Shared; 2],
    rates: [Bucket; 2],
    /// What holds when the quota is used up.
    throttled: [Bucket; 2],
}

const _: () = assert!(size_of::<Meter>() == 128);

#[repr(C)]
#[derive(Debug, Default)]
struct Bucket {
    /// Nanoseconds that a byte takes, times 2^16; 0: any rate.
    per_byte: Shared,
    /// What it holds, in nanoseconds.
    depth: Shared,
    /// When everything is paid for, in nanoseconds of the monotonic clock.
    paid: Shared,
}

/// When everything that one client has sent, and got, is paid for, as a bucket has it. Its rate is its rule's.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Client {
    paid: [Shared; 2],
}

/// What a meter asks of packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Terms {
    /// In and out, in bytes per second; 0: any.
    pub rates: [u64; 2],
    /// Of each client by itself, in and out alike, in bytes per second; 0: any.
    pub per_client: u64,
    /// Each port is counted by itself, too.
    pub counts_ports: bool,
    pub quota: Option<Quota>,
    /// Nothing passes any more.
    pub closed: Option<Closed>,
    /// The place of the group's meter, which is asked too; 0: none.
    pub group: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quota {
    pub counted: Counted,
    /// How fast it may be when the quota is used up, each way, in bytes per second; 0: not at all.
    pub throttle: u64,
}

/// Which bytes a quota counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Counted {
    Ingress,
    Egress,
    Both,
    /// Each by itself; it is used up when one of them is.
    Each,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    Quota,
    Expired,
}

/// Bits of what is asked.
struct Asks;

impl Asks {
    const RATE: u64 = 1;
    const QUOTA: u64 = 1 << 1;
    const THROTTLE: u64 = 1 << 2;
    const INGRESS: u64 = 1 << 3;
    const EGRESS: u64 = 1 << 4;
    const EACH: u64 = 1 << 5;
    const USED_UP: u64 = 1 << 6;
    const EXPIRED: u64 = 1 << 7;
    const CLIENTS: u64 = 1 << 8;
    const PORTS: u64 = 1 << 9;
    /// Of the group's place.
    const GROUP: u32 = 32;
}

impl Terms {
    const fn asks(&self) -> u64 {
        let mut asks = (self.group as u64) << Asks::GROUP;
        if self.rates[0] != 0 || self.rates[1] != 0 {
            asks |= Asks::RATE;
        }
        if self.per_client != 0 {
            asks |= Asks::CLIENTS;
        }
        if self.counts_ports {
            asks |= Asks::PORTS;
        }
        if let Some(quota) = self.quota {
            asks |= Asks::QUOTA
                | match quota.counted {
                    Counted::Ingress => Asks::INGRESS,
                    Counted::Egress => Asks::EGRESS,
                    Counted::Both => Asks::INGRESS | Asks::EGRESS,
                    Counted::Each => Asks::INGRESS | Asks::EGRESS | Asks::EACH,
                };
            if quota.throttle != 0 {
                asks |= Asks::THROTTLE;
            }
        }
        asks | match self.closed {
            None => 0,
            Some(Closed::Quota) => Asks::USED_UP,
            Some(Closed::Expired) => Asks::EXPIRED,
        }
    }
}

impl Client {
    #[inline(always)]
    fn due(&self, egress: bool, per_byte: u64) -> i64 {
        due(of(&self.paid, egress), per_byte)
    }
}

impl Meter {
    /// Whether nothing is asked of packets.
    #[inline(always)]
    pub fn is_off(&self) -> bool {
        self.asks.get() == 0
    }

    /// The place of the group that is asked too; 0: none.
    #[inline(always)]
    pub fn group(&self) -> u32 {
        (self.asks.get() >> Asks::GROUP) as u32
    }

    /// Whether it takes more than a packet's bytes: whose it is, or which port's.
    #[inline(always)]
    pub fn asks_whose(&self) -> bool {
        self.asks.get() & (Asks::CLIENTS | Asks::PORTS) != 0
    }

    /// Whether each port is counted by itself, too.
    #[inline(always)]
    pub fn counts_ports(&self) -> bool {
        self.asks.get() & Asks::PORTS != 0
    }

    /// Whether a packet may be refused.
    #[inline(always)]
    pub fn may_refuse(&self) -> bool {
        self.asks.get() & !Asks::PORTS != 0
    }

    /// Whether each client has a rate of its own.
    #[inline(always)]
    pub fn asks_clients(&self) -> bool {
        self.asks.get() & Asks::CLIENTS != 0
    }

    /// Whether a packet of a client's may pass by the client's own rate. Who lets it pass [pays](Self::pay_client) then.
    #[inline(always)]
    pub fn admits_client(&self, client: &Client, egress: bool, bytes: u64, now: u64) -> bool {
        let per_byte = self.client_rate();
        let depth = depth(per_byte);
        let paid = of(&client.paid, egress);
        // no debt is larger than this, unless the rate was lower when it was made
        let most = now + AGES + depth + time(per_byte, LARGEST);
        if paid.get() > most {
            paid.set(most);
        }
        per_byte == 0 || has_any(paid, depth, now, bytes <= LITTLE)
    }

    #[inline(always)]
    pub fn pay_client(&self, client: &Client, egress: bool, bytes: u64) {
        of(&client.paid, egress).add(time(self.client_rate(), bytes));
    }

    #[inline(always)]
    fn client_rate(&self) -> u64 {
        self.per_client.get() & ((1 << TIMES) - 1)
    }

    /// A rule as clients' meters know it: each that has had the place `rule`, and each time that it began to have such a rate, is
    /// another.
    #[inline(always)]
    pub fn clients_of(&self, rule: u32) -> u32 {
        rule | ((self.per_client.get() >> TIMES) as u32 & 0x7fff) << 16
    }

    /// Sets what is asked. A rate that changes forgives debts, which were of the old one, and gives nothing. A quota that there
    /// was none of before has plenty left, until [`Self::adjust`] says how much.
    pub fn set(&self, terms: &Terms, now: u64) {
        let now = now + AGES;
        let throttle = terms.quota.map_or(0, |quota| quota.throttle);
        let buckets = self.rates.iter().zip(terms.rates).chain(self.throttled.iter().zip([throttle; 2]));
        buckets.for_each(|(bucket, rate)| bucket.set(rate, now));
        let (before, rate) = (self.per_client.get(), per_byte(terms.per_client));
        let begins = before << (64 - TIMES) == 0 && rate != 0;
        self.per_client.set(((before >> TIMES) + u64::from(begins)) << TIMES | rate);
        if self.asks.get() & Asks::QUOTA == 0 {
            self.remaining.iter().for_each(|remaining| remaining.set(PLENTY.cast_unsigned()));
        }
        self.asks.set(terms.asks());
    }

    /// What is left of the quota, in bytes: ingress and egress, or all in the first.
    pub fn remaining(&self) -> [i64; 2] {
        self.remaining.each_ref().map(|remaining| remaining.get().cast_signed())
    }

    /// Adds to what is left, or takes away from it. What packets spend at this moment counts.
    pub fn adjust(&self, by: [i64; 2]) {
        self.remaining.iter().zip(by).for_each(|(remaining, by)| remaining.add(by.cast_unsigned()));
    }

    /// Why a packet may not pass, if so. Who lets it pass [pays](Self::pay) then: two that look at once may both pass, and the
    /// debt is paid all the same.
    #[inline(always)]
    pub fn refusal(&self, egress: bool, bytes: u64, now: u64) -> Option<DropReason> {
        let asks = self.asks.get();
        if asks & (Asks::USED_UP | Asks::EXPIRED) != 0 {
            return Some(if asks & Asks::EXPIRED != 0 { DropReason::Expired } else { DropReason::Quota });
        }
        let may_overdraw = bytes <= LITTLE;
        if asks & Asks::RATE != 0 && !of(&self.rates, egress).has_any(now, may_overdraw) {
            return Some(DropReason::Rate);
        }
        if asks & Asks::QUOTA != 0 && self.is_used_up(asks) {
            let throttled = of(&self.throttled, egress);
            if asks & Asks::THROTTLE == 0 || !throttled.has_any(now, may_overdraw) {
                return Some(DropReason::Quota);
            }
        }
        None
    }

    /// When a packet that has just been [paid](Self::pay) for is due, in nanoseconds of the monotonic clock: once it is, as on a link of
    /// that rate. What is past is due now.
    #[inline(always)]
    pub fn due(&self, egress: bool) -> i64 {
        // a bucket that nothing is asked of says when something was due once
        let [rated, throttled] = [of(&self.rates, egress), of(&self.throttled, egress)];
        let [rated, throttled] = [rated, throttled].map(|bucket| due(&bucket.paid, bucket.per_byte.get()));
        if rated > throttled { rated } else { throttled }
    }

    /// The same by the client's own rate.
    #[inline(always)]
    pub fn due_of_client(&self, client: &Client, egress: bool) -> i64 {
        client.due(egress, self.client_rate())
    }

    /// Pays for a packet that passes.
    #[inline(always)]
    pub fn pay(&self, egress: bool, bytes: u64) {
        let asks = self.asks.get();
        if asks & Asks::RATE != 0 {
            of(&self.rates, egress).pay(bytes);
        }
        if asks & Asks::QUOTA == 0 {
            return;
        }
        if asks & Asks::THROTTLE != 0 && self.is_used_up(asks) {
            of(&self.throttled, egress).pay(bytes);
        }
        let counts = if egress { Asks::EGRESS } else { Asks::INGRESS };
        if asks & counts != 0 {
            let [first, second] = &self.remaining;
            let remaining = if egress && asks & Asks::EACH != 0 { second } else { first };
            remaining.add(0_u64.wrapping_sub(bytes));
        }
    }

    #[inline(always)]
    fn is_used_up(&self, asks: u64) -> bool {
        let [first, second] = &self.remaining;
        (first.get() as i64) <= 0 || (asks & Asks::EACH != 0 && (second.get() as i64) <= 0)
    }
}

/// The one for this direction.
#[inline(always)]
const fn of<T>(two: &[T; 2], egress: bool) -> &T {
    let [ingress, out] = two;
    if egress { out } else { ingress }
}

impl Bucket {
    /// `rate`: bytes per second; 0: any. `now`: as buckets have it.
    fn set(&self, rate: u64, now: u64) {
        let per_byte = per_byte(rate);
        if self.per_byte.get() == 0 {
            self.paid.set(0);
        } else if self.per_byte.get() != per_byte {
            self.paid.set(self.paid.get().min(now));
        }
        self.per_byte.set(per_byte);
        self.depth.set(depth(per_byte));
    }

    #[inline(always)]
    fn has_any(&self, now: u64, may_overdraw: bool) -> bool {
        self.per_byte.get() == 0 || has_any(&self.paid, self.depth.get(), now, may_overdraw)
    }

    #[inline(always)]
    fn pay(&self, bytes: u64) {
        let per_byte = self.per_byte.get();
        if per_byte != 0 {
            self.paid.add(time(per_byte, bytes));
        }
    }
}

/// Whether there is anything in a bucket of so many nanoseconds.
#[inline(always)]
fn has_any(paid: &Shared, depth: u64, now: u64, may_overdraw: bool) -> bool {
    let now = now + AGES;
    // what has filled up beyond its depth is lost
    let full = now.saturating_sub(depth);
    if paid.get() < full {
        paid.set(full);
    }
    let latest = if may_overdraw { now + depth } else { now };
    paid.get() <= latest
}

/// When what has last been paid for is due. What takes the last of the bucket waits until it would have been paid for by a bucket that
/// is smaller by so much.
#[inline(always)]
fn due(paid: &Shared, per_byte: u64) -> i64 {
    paid.get().wrapping_add(wait(per_byte)).wrapping_sub(AGES) as i64
}

/// How long packets may wait until they are due, in nanoseconds; always less than a bucket's depth.
#[inline(always)]
const fn wait(per_byte: u64) -> u64 {
    let wait = time(per_byte, WAITING);
    if wait > LONGEST_WAIT {
        LONGEST_WAIT
    } else if wait < SHORTEST_WAIT {
        SHORTEST_WAIT
    } else {
        wait
    }
}

/// Nanoseconds that a byte takes, times 2^16. `rate`: bytes per second; 0: any, and no time.
fn per_byte(rate: u64) -> u64 {
    (SECOND << POINT).checked_div(rate).map_or(0, |time| time.max(1))
}

/// What a bucket holds, in nanoseconds.
#[inline(always)]
const fn depth(per_byte: u64) -> u64 {
    let least = time(per_byte, LEAST_BURST);
    if least > FILLING { least } else { FILLING }
}

/// Nanoseconds that bytes take. No packet takes 2^48 of them.
#[inline(always)]
const fn time(per_byte: u64, bytes: u64) -> u64 {
    per_byte.wrapping_mul(bytes) >> POINT
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1000 * SECOND;

    fn rated(rates: [u64; 2]) -> Terms {
        Terms { rates, ..Terms::default() }
    }

    fn meter(ingress: u64, egress: u64) -> Meter {
        let meter = Meter::default();
        meter.set(&rated([ingress, egress]), START);
        meter
    }

    fn quota(counted: Counted, throttle: u64) -> Meter {
        let meter = Meter::default();
        meter.set(&Terms { quota: Some(Quota { counted, throttle }), ..Terms::default() }, START);
        let [ingress, egress] = meter.remaining();
        meter.adjust([10_000 - ingress, 10_000 - egress]);
        meter
    }

    fn admits(meter: &Meter, egress: bool, bytes: u64, now: u64) -> bool {
        let passes = meter.refusal(egress, bytes, now).is_none();
        if passes {
            meter.pay(egress, bytes);
        }
        passes
    }

    /// Bytes that pass of packets that come one each so many nanoseconds.
    fn carried(meter: &Meter, egress: bool, from: u64, length: u64, bytes: u64, each: u64) -> u64 {
        let passes = |now: &u64| admits(meter, egress, bytes, *now);
        (from..from + length).step_by(each as usize).filter(passes).count() as u64 * bytes
    }

    #[test]
    fn a_rate_holds_whatever_comes() {
        for rate in [1000, 125_000, 1_250_000, 125_000_000, 1_250_000_000] {
            for bytes in [40, 1500, 65_535] {
                let meter = meter(rate, 0);
                // the burst first, where so much comes
                carried(&meter, false, START, SECOND, bytes, 50_000);
                let later = carried(&meter, false, START + SECOND, 10 * SECOND, bytes, 20_000);
                let overdrawn = if bytes <= LITTLE { LEAST_BURST.max(rate * 21 / 100) } else { 0 };
                let saved = if SECOND / 50_000 * bytes > 2 * (rate + LEAST_BURST) {
                    0
                } else {
                    LEAST_BURST.max(rate * 21 / 100)
                };
                let most = 10 * rate + saved + overdrawn + 65_535;
                let offered = 10 * SECOND / 20_000 * bytes;
                let least = (10 * rate).min(offered).saturating_sub(LEAST_BURST + 65_535 + rate / 1000);
                assert!((least..=most + rate / 1000).contains(&later), "{rate} {bytes}: {later}");
            }
        }
    }

    #[test]
    fn a_burst_is_what_comes_in_a_retransmission_timeout() {
        for (rate, burst) in [(1000, LEAST_BURST), (125_000_000, 26_250_000)] {
            let meter = meter(rate, rate);
            for egress in [false, true] {
                let at_once = carried(&meter, egress, START, 1000, 1000, 1).min(2 * burst);
                let more = carried(&meter, egress, START + 1000, 100_000_000, 1000, 1000);
                let all = at_once + more;
                assert!((burst..burst + rate / 5 + 2000).contains(&all), "{rate} {egress}: {all}");
            }
            // a rest of an hour is worth no more
            assert!(carried(&meter, true, START + 3600 * SECOND, 60_000, 1000, 1) <= burst + 60_000 + 1000);
        }
    }

    #[test]
    fn a_bucket_is_full_when_the_machine_has_just_started() {
        for rate in [1, 1000, 125_000_000] {
            let meter = Meter::default();
            meter.set(&rated([rate, 0]), 1000);
            let carried = carried(&meter, false, 2000, 262_144, 1000, 1000);
            assert!(carried >= LEAST_BURST, "{rate}: {carried}");
        }
    }

    #[test]
    fn packets_are_due_one_after_the_other_at_the_rate() {
        const RATE: u64 = 1_250_000;
        let meter = meter(RATE, 0);
        // the burst, which nothing waits for
        carried(&meter, false, START, 1000, 1250, 1);
        assert!(meter.due(true) < 0);
        let (mut last, mut counted) = (0, 0);
        for clump in 0..50 {
            let now = START + clump * 20_000_000;
            for _ in 0..60 {
                if !admits(&meter, false, 1250, now) {
                    continue;
                }
                let due = meter.due(false).cast_unsigned().max(now);
                assert!(due <= now + LONGEST_WAIT + 1_000_000, "{due}");
                // once the first burst is over there is one each millisecond, though they come in clumps
                if clump >= 25 {
                    assert!((due - last).abs_diff(1_000_000) < 2_000, "{due} after {last}");
                    counted += 1;
                }
                last = due;
            }
        }
        assert!(counted > 450, "{counted}");
    }

    #[test]
    fn a_wait_is_as_long_as_its_queue_within_bounds() {
        for (rate, milliseconds) in [(1000, 50), (1_250_000, 50), (5_760_000, 25), (125_000_000, 10)] {
            assert_eq!(wait(per_byte(rate)).div_ceil(1_000_000), milliseconds, "{rate}");
            assert!(wait(per_byte(rate)) < depth(per_byte(rate)));
        }
    }

    #[test]
    fn a_rate_that_is_no_more_lets_everything_pass() {
        let meter = meter(1000, 1000);
        carried(&meter, false, START, 1000, 1000, 1);
        carried(&meter, false, START + 1000, 1_000_000, 1000, 1000);
        assert!(!admits(&meter, false, 1000, START));
        assert!(admits(&meter, true, 1000, START), "the other direction has a bucket of its own");
        meter.set(&rated([0, 1000]), START);
        assert_eq!(carried(&meter, false, START, 1000, 1000, 1), 1_000_000);
        assert!(!meter.is_off());
        meter.set(&rated([0, 0]), START);
        assert!(meter.is_off());
        meter.set(&rated([1000, 1000]), START);
        assert!(admits(&meter, false, 1000, START), "it begins anew");
    }

    #[test]
    fn another_rate_holds_at_once() {
        let (meter, later) = (meter(1000, 0), START + 1000);
        carried(&meter, false, START, 1000, 1000, 1);
        // a packet that takes a minute
        assert!(admits(&meter, false, 60_000, START) || !admits(&meter, false, 1000, later));
        meter.set(&rated([1_000_000, 0]), later);
        let carried = carried(&meter, false, later, SECOND, 1000, 100_000);
        assert!((1_000_000..1_010_000).contains(&carried), "{carried} bytes, and no burst");
    }

    #[test]
    fn little_packets_pass_beside_large_ones_and_are_paid() {
        let meter = meter(125_000, 0);
        carried(&meter, false, START, 1000, 1500, 1);
        assert!(!admits(&meter, false, 1500, START + 1000));
        assert!((0..100).all(|_| admits(&meter, false, 52, START + 1000)));
        let alone = carried(&meter, false, START + SECOND, 10 * SECOND, 52, 100_000);
        assert!((1_250_000..1_250_000 + 3 * LEAST_BURST).contains(&alone), "{alone} bytes of little ones");
    }

    #[test]
    fn each_client_has_a_rate_of_its_own() {
        let meter = Meter::default();
        meter.set(&Terms { per_client: 125_000, ..Terms::default() }, START);
        assert!(meter.asks_clients() && !meter.is_off());
        assert_eq!(meter.clients_of(7), 7 | 1 << 16);
        let (one, other) = (Client::default(), Client::default());
        let passes = |client: &Client, egress, bytes, now| {
            let passes = meter.admits_client(client, egress, bytes, now);
            if passes {
                meter.pay_client(client, egress, bytes);
            }
            passes
        };
        let carried = |client: &Client, from: u64, length: u64| {
            let times = (from..from + length).step_by(10_000);
            times.filter(|now| passes(client, false, 1500, *now)).count() as u64 * 1500
        };
        let burst = carried(&one, START, SECOND);
        assert!((LEAST_BURST..LEAST_BURST + 130_000).contains(&burst), "{burst}");
        let slow = carried(&one, START + SECOND, 10 * SECOND);
        assert!((1_240_000..=1_260_000).contains(&slow), "{slow} bytes in ten seconds");
        assert!(passes(&one, false, 52, START + 11 * SECOND), "acknowledgments get through");
        assert!(passes(&one, true, 1500, START + 11 * SECOND), "the other way has its own");
        assert!(carried(&other, START + 11 * SECOND, SECOND) > LEAST_BURST, "and so has the other client");
        // a faster one forgives what took long
        meter.set(&Terms { per_client: 1000, ..Terms::default() }, START);
        assert!(passes(&one, true, 65_000, START + 12 * SECOND));
        meter.set(&Terms { per_client: 125_000_000, ..Terms::default() }, START);
        let waits =
            (0..SECOND).step_by(1_000_000).find(|late| passes(&one, true, 1500, START + 13 * SECOND + late));
        assert!(waits.is_some_and(|time| time < SECOND / 4), "{waits:?}");
        meter.set(&Terms::default(), START);
        assert!(meter.is_off() && meter.admits_client(&one, false, 1500, START));
        meter.set(&Terms { per_client: 1, ..Terms::default() }, START);
        assert_eq!(meter.clients_of(7), 7 | 2 << 16, "all begin anew");
    }

    #[test]
    fn a_quota_counts_what_it_says() {
        for (counted, left) in [
            (Counted::Ingress, [9_000, 10_000]),
            (Counted::Egress, [9_700, 10_000]),
            (Counted::Both, [8_700, 10_000]),
            (Counted::Each, [9_000, 9_700]),
        ] {
            let meter = quota(counted, 0);
            assert!(admits(&meter, false, 1000, START) && admits(&meter, true, 300, START));
            assert_eq!(meter.remaining(), left, "{counted:?}");
        }
    }

    #[test]
    fn a_quota_that_is_used_up_ends_both_directions() {
        for counted in [Counted::Ingress, Counted::Both, Counted::Each] {
            let meter = quota(counted, 0);
            // the last packet may be more than what is left
            assert!(admits(&meter, false, 9_999, START) && admits(&meter, false, 65_000, START));
            for egress in [false, true] {
                assert_eq!(meter.refusal(egress, 40, START), Some(DropReason::Quota), "{counted:?}");
            }
            meter.adjust([100_000, 0]);
            assert!(admits(&meter, true, 1000, START), "there is some again");
        }
    }

    #[test]
    fn a_quota_that_is_used_up_may_leave_some_rate() {
        let meter = quota(Counted::Both, 125_000);
        assert!(admits(&meter, false, 10_000, START));
        carried(&meter, false, START, SECOND, 1500, 10_000);
        let slow = carried(&meter, false, START + SECOND, 10 * SECOND, 1500, 10_000);
        assert!((1_200_000..1_300_000).contains(&slow), "{slow} bytes in ten seconds");
        assert!(meter.remaining()[0] < 0, "and it counts");
    }

    #[test]
    fn what_is_closed_lets_nothing_pass() {
        let meter = quota(Counted::Both, 125_000);
        for (closed, reason) in [(Closed::Quota, DropReason::Quota), (Closed::Expired, DropReason::Expired)] {
            meter.set(&Terms { closed: Some(closed), group: 5, ..Terms::default() }, START);
            assert_eq!((meter.refusal(true, 40, START), meter.group()), (Some(reason), 5));
        }
        meter.set(&Terms::default(), START);
        assert!(meter.is_off());
    }
}
