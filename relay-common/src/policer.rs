//! How fast a rule's traffic may be: token buckets. relayd sets them and the programs spend them, in the same memory, so that
//! both planes share them and they hold while relayd is away.
//!
//! A bucket is kept as the time at which all that has passed is paid for (GCRA, ITU-T I.371 annex A): it fills up by the
//! clock alone. A packet passes while there is anything in it and may leave it in debt, since super-packets cannot be
//! let through in part; the debt is paid before the next one passes, so the rate holds.

use crate::shared::Shared;

/// Bits of nanoseconds per byte behind the point.
const POINT: u32 = 16;
const SECOND: u64 = 1_000_000_000;
/// The least that a bucket holds, in bytes.
const LEAST_BURST: u64 = 256 * 1024;
/// How long a bucket that is at least so large takes to fill, in nanoseconds. The shortest retransmission timeout of Linux is
/// 200 ms: a sender that has lost everything finds all that it could have sent meanwhile.
const FILLING: u64 = 210_000_000;
/// Packets of so many bytes may overdraw a bucket by what it holds: acknowledgments, and what opens and ends connections. Data
/// that goes one way would lose those of the other way's, and TCP with them.
const LITTLE: u64 = 128;
/// What is added to the clock, in nanoseconds (104 days): a bucket that takes longer to fill than the machine has been up is
/// full all the same.
const AGES: u64 = 1 << 53;

/// One rule's.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Policer {
    /// 0: nothing is asked of packets.
    is_on: Shared,
    buckets: [Bucket; 2],
    _reserved: u64,
}

const _: () = assert!(size_of::<Policer>() == 64);

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

impl Policer {
    /// Whether nothing is asked of packets.
    #[inline(always)]
    pub fn is_off(&self) -> bool {
        self.is_on.get() == 0
    }

    /// Sets the rates in and out, in bytes per second; 0: any. A rate that changes forgives debts, which were of the old one,
    /// and gives nothing.
    pub fn set(&self, rates: [u64; 2], now: u64) {
        let now = now + AGES;
        for (bucket, rate) in self.buckets.iter().zip(rates) {
            let per_byte = (SECOND << POINT).checked_div(rate).map_or(0, |time| time.max(1));
            if bucket.per_byte.get() == 0 {
                bucket.paid.set(0);
            } else if bucket.per_byte.get() != per_byte {
                bucket.paid.set(bucket.paid.get().min(now));
            }
            bucket.per_byte.set(per_byte);
            bucket.depth.set(FILLING.max(time(per_byte, LEAST_BURST)));
        }
        self.is_on.set(u64::from(rates != [0; 2]));
    }

    /// Whether a packet may pass, which then is paid for. Two that look at once may both pass: the debt is paid all the same.
    #[inline(always)]
    pub fn admits(&self, egress: bool, bytes: u64, now: u64) -> bool {
        let [ingress, out] = &self.buckets;
        let bucket = if egress { out } else { ingress };
        let per_byte = bucket.per_byte.get();
        if per_byte == 0 {
            return true;
        }
        if !bucket.has_any(now + AGES, bytes <= LITTLE) {
            return false;
        }
        bucket.paid.add(time(per_byte, bytes));
        true
    }
}

impl Bucket {
    #[inline(always)]
    fn has_any(&self, now: u64, may_overdraw: bool) -> bool {
        // what has filled up beyond its depth is lost
        let depth = self.depth.get();
        let full = now.saturating_sub(depth);
        if self.paid.get() < full {
            self.paid.set(full);
        }
        let latest = if may_overdraw { now + depth } else { now };
        self.paid.get() <= latest
    }
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

    fn policer(ingress: u64, egress: u64) -> Policer {
        let policer = Policer::default();
        policer.set([ingress, egress], START);
        policer
    }

    /// Bytes that pass of packets that come one each so many nanoseconds.
    fn carried(policer: &Policer, egress: bool, from: u64, length: u64, bytes: u64, each: u64) -> u64 {
        let passes = |now: &u64| policer.admits(egress, bytes, *now);
        (from..from + length).step_by(each as usize).filter(passes).count() as u64 * bytes
    }

    #[test]
    fn a_rate_holds_whatever_comes() {
        for rate in [1000, 125_000, 1_250_000, 125_000_000, 1_250_000_000] {
            for bytes in [40, 1500, 65_535] {
                let policer = policer(rate, 0);
                // the burst first, where so much comes
                carried(&policer, false, START, SECOND, bytes, 50_000);
                let later = carried(&policer, false, START + SECOND, 10 * SECOND, bytes, 20_000);
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
            let policer = policer(rate, rate);
            for egress in [false, true] {
                let at_once = carried(&policer, egress, START, 1000, 1000, 1).min(2 * burst);
                let more = carried(&policer, egress, START + 1000, 100_000_000, 1000, 1000);
                let all = at_once + more;
                assert!((burst..burst + rate / 5 + 2000).contains(&all), "{rate} {egress}: {all}");
            }
            // a rest of an hour is worth no more
            assert!(carried(&policer, true, START + 3600 * SECOND, 60_000, 1000, 1) <= burst + 60_000 + 1000);
        }
    }

    #[test]
    fn a_bucket_is_full_when_the_machine_has_just_started() {
        for rate in [1, 1000, 125_000_000] {
            let policer = Policer::default();
            policer.set([rate, 0], 1000);
            let carried = carried(&policer, false, 2000, 262_144, 1000, 1000);
            assert!(carried >= LEAST_BURST, "{rate}: {carried}");
        }
    }

    #[test]
    fn a_rate_that_is_no_more_lets_everything_pass() {
        let policer = policer(1000, 1000);
        carried(&policer, false, START, 1000, 1000, 1);
        carried(&policer, false, START + 1000, 1_000_000, 1000, 1000);
        assert!(!policer.admits(false, 1000, START));
        assert!(policer.admits(true, 1000, START), "the other direction has a bucket of its own");
        policer.set([0, 1000], START);
        assert_eq!(carried(&policer, false, START, 1000, 1000, 1), 1_000_000);
        assert!(!policer.is_off());
        policer.set([0, 0], START);
        assert!(policer.is_off());
        policer.set([1000, 1000], START);
        assert!(policer.admits(false, 1000, START), "it begins anew");
    }

    #[test]
    fn another_rate_holds_at_once() {
        let (policer, later) = (policer(1000, 0), START + 1000);
        carried(&policer, false, START, 1000, 1000, 1);
        // a packet that takes a minute
        assert!(policer.admits(false, 60_000, START) || !policer.admits(false, 1000, later));
        policer.set([1_000_000, 0], later);
        let carried = carried(&policer, false, later, SECOND, 1000, 100_000);
        assert!((1_000_000..1_010_000).contains(&carried), "{carried} bytes, and no burst");
    }

    #[test]
    fn little_packets_pass_beside_large_ones_and_are_paid() {
        let policer = policer(125_000, 0);
        carried(&policer, false, START, 1000, 1500, 1);
        assert!(!policer.admits(false, 1500, START + 1000));
        assert!((0..100).all(|_| policer.admits(false, 52, START + 1000)));
        let alone = carried(&policer, false, START + SECOND, 10 * SECOND, 52, 100_000);
        assert!((1_250_000..1_250_000 + 3 * LEAST_BURST).contains(&alone), "{alone} bytes of little ones");
    }
}
