//! How long the round trips of TCP handshakes take, as histograms: SYN to SYN-ACK at the backend, SYN-ACK to ACK at the client.
//! Both planes count into the same, and Prometheus reads them as they are.

use crate::shared::Shared;

/// Buckets of a histogram: the first holds up to [`SMALLEST`] microseconds, each other one up to twice as many as the one
/// before it, the last one (above 4.2 s) whatever takes longer.
pub const BUCKETS: usize = 20;

/// The upper bound of the first bucket, in microseconds.
const SMALLEST: u64 = 1 << SMALLEST_BITS;
const SMALLEST_BITS: u32 = 4;

/// The round trips of one leg. `N`: `Shared` where many count at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Histogram<N = u64> {
    counts: [N; BUCKETS],
    /// All of them together, in microseconds.
    sum: N,
}

/// What is known of an endpoint's round trips, by leg.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RoundTrips<N = u64> {
    pub client: Histogram<N>,
    pub backend: Histogram<N>,
}

/// The bucket for so many microseconds.
#[inline(always)]
const fn bucket(micros: u32) -> usize {
    let bits = u32::BITS - micros.saturating_sub(1).leading_zeros();
    let bucket = bits.saturating_sub(SMALLEST_BITS) as usize;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}

/// The most microseconds that a bucket holds; `None`: any number.
pub const fn bound(bucket: usize) -> Option<u64> {
    if bucket + 1 < BUCKETS { Some(SMALLEST << bucket) } else { None }
}

impl Histogram<Shared> {
    /// Counts one more.
    #[inline(always)]
    pub fn count(&self, micros: u32) {
        if let Some(count) = self.counts.get(bucket(micros)) {
            count.add(1);
            self.sum.add(micros.into());
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl RoundTrips<Shared> {
    /// What has been counted so far.
    pub fn read(&self) -> RoundTrips {
        RoundTrips { client: self.client.read(), backend: self.backend.read() }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Histogram<Shared> {
    fn read(&self) -> Histogram {
        Histogram { counts: self.counts.each_ref().map(Shared::get), sum: self.sum.get() }
    }
}

impl RoundTrips {
    pub fn add(&mut self, other: &Self) {
        self.client.add(&other.client);
        self.backend.add(&other.backend);
    }
}

impl Histogram {
    fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// How many there are in each bucket.
    pub const fn counts(&self) -> &[u64; BUCKETS] {
        &self.counts
    }

    /// How many there are in all.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together, in microseconds.
    pub const fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double() {
        let cases = [
            (0, 0),
            (1, 0),
            (16, 0),
            (17, 1),
            (32, 1),
            (33, 2),
            (1000, 6),
            (1 << 22, 18),
            ((1 << 22) + 1, 19),
        ];
        for (micros, wanted) in cases {
            assert_eq!(bucket(micros), wanted, "{micros}");
        }
        assert_eq!(bucket(u32::MAX), BUCKETS - 1);
        assert_eq!((bound(0), bound(18), bound(19)), (Some(16), Some(4_194_304), None));
        for bucket_of in 0..BUCKETS - 1 {
            let most = u32::try_from(bound(bucket_of).unwrap_or_default()).unwrap_or_default();
            assert_eq!((bucket(most), bucket(most + 1)), (bucket_of, bucket_of + 1));
        }
    }

    #[test]
    fn what_is_counted_is_read_and_added_up() {
        let shared = RoundTrips::<Shared>::default();
        for micros in [10, 20, 20_000_000] {
            shared.client.count(micros);
        }
        shared.backend.count(300);
        let mut read = shared.read();
        read.add(&shared.read());
        assert_eq!((read.client.total(), read.client.sum()), (6, 40_000_060));
        assert_eq!((read.client.counts()[0], read.client.counts()[1], read.client.counts()[19]), (2, 2, 2));
        assert_eq!((read.backend.total(), read.backend.sum(), read.backend.counts()[5]), (2, 600, 2));
    }
}
