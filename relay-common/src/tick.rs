//! The programs' clock: a tick is `2^shift` jiffies, about a second.
//!
//! Reading jiffies costs a third of a nanosecond where the nanosecond clock costs 27, and a coarse tick means that a
//! busy flow's entry is written once a second. HZ differs between kernels, so relayd measures it and sets the shift.

/// How many jiffies make a tick, as a power of two: 1.28 s at HZ 100, 1.02 s at 250 and 1000, 0.85 s at 300.
pub const fn shift(hz: u32) -> u32 {
    match hz {
        0..=149 => 7,
        150..=399 => 8,
        400..=799 => 9,
        _ => 10,
    }
}

/// `milliseconds` in ticks, rounded up, never 0.
pub const fn ticks(milliseconds: u64, hz: u32) -> u32 {
    let jiffies = milliseconds.saturating_mul(hz as u64).div_ceil(1000);
    let ticks = jiffies.div_ceil(1 << shift(hz));
    if ticks == 0 {
        1
    } else if ticks > u32::MAX as u64 / 2 {
        u32::MAX / 2
    } else {
        ticks as u32
    }
}

/// `ticks` in milliseconds.
pub const fn milliseconds(ticks: u32, hz: u32) -> u64 {
    ((ticks as u64) << shift(hz)) * 1000 / hz as u64
}

/// Whether more than `limit` ticks have passed since `then`. Ticks wrap.
#[inline(always)]
pub const fn passed(now: u32, then: u32, limit: u32) -> bool {
    let age = now.wrapping_sub(then);
    age > limit && age < u32::MAX / 2
}

/// jiffies64 starts 300 s before its low half wraps (`INITIAL_JIFFIES` in include/linux/jiffies.h).
const WRAP: i128 = 1 << 32;
const EARLY_SECONDS: i128 = 300;

/// Which of the values that kernels are built with explains a pair of clock readings best, and how far it is off, in
/// milliseconds. `jiffies` counts `hz` a second from boot; `nanoseconds` is the monotonic clock.
pub fn guess_hz(jiffies: u64, nanoseconds: u64) -> (u32, u64) {
    let mut best = (250, u64::MAX);
    for hz in [100u32, 250, 300, 1000] {
        let since_boot = jiffies as i128 - (WRAP - EARLY_SECONDS * hz as i128);
        let off = (since_boot * 1_000 / hz as i128 - nanoseconds as i128 / 1_000_000).unsigned_abs();
        if off < best.1 as u128 {
            best = (hz, off as u64);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_about_a_second() {
        for hz in [100, 250, 300, 1000] {
            let length = milliseconds(1, hz);
            assert!((850..=1280).contains(&length), "{hz}: {length} ms");
            assert!(milliseconds(ticks(180_000, hz), hz) >= 180_000);
        }
    }

    #[test]
    fn durations_round_up_and_saturate() {
        assert_eq!(ticks(0, 250), 1);
        assert_eq!(ticks(1, 250), 1);
        assert_eq!(ticks(u64::MAX, 1000), u32::MAX / 2);
    }

    #[test]
    fn ages_survive_the_wrap() {
        assert!(passed(5, u32::MAX - 5, 10));
        assert!(!passed(5, u32::MAX - 5, 11));
        // a stamp of another CPU, one tick ahead of ours, is not ancient
        assert!(!passed(7, 8, 3));
    }

    #[test]
    fn hz_is_read_off_one_pair_of_clocks() {
        for hz in [100u64, 250, 300, 1000] {
            for uptime_ms in [2_000u64, 60_000, 86_400_000] {
                let jiffies = (1u64 << 32) - 300 * hz + uptime_ms * hz / 1000;
                assert_eq!(guess_hz(jiffies, uptime_ms * 1_000_000).0, hz as u32, "{hz} {uptime_ms}");
            }
        }
    }
}
