//! Round trips of handshakes as readers see them.

use relay_common::round_trip::{self, Histogram, RoundTrips};
use serde::{Deserialize, Serialize};

/// How long the two legs of a backend's TCP flows take, each there and back, as their handshakes show. Absent: not known yet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RoundTripsView {
    /// SYN-ACK to ACK, of the clients whose flows it got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<RoundTripView>,
    /// SYN to SYN-ACK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<RoundTripView>,
}

/// One leg's.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RoundTripView {
    /// Handshakes that tell: not those of which a packet was sent twice.
    pub count: u64,
    pub sum_ms: f64,
    /// Estimates from the buckets.
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    /// How many took up to 16 microseconds, up to 32, and so on; the last one of 20 has all others.
    pub buckets: Vec<u64>,
}

const MICROS_OF_MILLI: f64 = 1000.0;

impl RoundTripsView {
    /// `None`: nothing is known of either leg.
    pub fn new(trips: &RoundTrips) -> Option<Self> {
        let view =
            Self { client: RoundTripView::new(&trips.client), backend: RoundTripView::new(&trips.backend) };
        (view != Self::default()).then_some(view)
    }
}

impl RoundTripView {
    fn new(trips: &Histogram) -> Option<Self> {
        let count = trips.total();
        let percentile = |share| quantile(trips, share) / MICROS_OF_MILLI;
        (count > 0).then(|| Self {
            count,
            sum_ms: float(trips.sum()) / MICROS_OF_MILLI,
            p50_ms: percentile(0.5),
            p90_ms: percentile(0.9),
            p99_ms: percentile(0.99),
            buckets: trips.counts().to_vec(),
        })
    }

    /// How many there are up to each bound in seconds that are above the bound before it.
    pub fn in_seconds(&self) -> Vec<(f64, u64)> {
        let bound = |bucket| round_trip::bound(bucket).map_or(f64::INFINITY, |most| float(most) / 1e6);
        self.buckets.iter().enumerate().map(|(bucket, count)| (bound(bucket), *count)).collect()
    }
}

/// How many microseconds a share of all take at most, as `histogram_quantile` of Prometheus estimates it: evenly spread
/// within each bucket, and what is beyond the largest bound is taken to be there.
fn quantile(trips: &Histogram, share: f64) -> f64 {
    let rank = share * float(trips.total());
    let (mut before, mut lower) = (0.0, 0.0);
    for (bucket, &count) in trips.counts().iter().enumerate() {
        let Some(upper) = round_trip::bound(bucket).map(float) else { break };
        let count = float(count);
        if count > 0.0 && before + count >= rank {
            return (upper - lower).mul_add((rank - before) / count, lower);
        }
        (before, lower) = (before + count, upper);
    }
    lower
}

/// Counts and microseconds are far below what a double holds exactly.
#[expect(clippy::cast_precision_loss, reason = "of numbers above 2^53 the last digits say nothing")]
const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use relay_common::shared::Shared;

    use super::*;

    fn of(micros: impl IntoIterator<Item = u32>) -> RoundTripView {
        let trips = RoundTrips::<Shared>::default();
        micros.into_iter().for_each(|micros| trips.backend.count(micros));
        RoundTripsView::new(&trips.read()).and_then(|view| view.backend).expect("a leg")
    }

    #[test]
    fn percentiles_are_estimated_within_their_buckets() {
        let one = of([300]);
        assert_eq!((one.count, one.p50_ms), (1, 0.384), "between 256 and 512");
        let many = of((0..90).map(|_| 700).chain((0..10).map(|_| 100_000)));
        assert_eq!(many.p90_ms, 1.024);
        assert!((0.512..1.024).contains(&many.p50_ms), "{many:?}");
        assert!((65.536..131.072).contains(&many.p99_ms), "{many:?}");
        let slow = of([u32::MAX]);
        assert_eq!((slow.p50_ms, slow.in_seconds()[19]), (4194.304, (f64::INFINITY, 1)));
    }

    #[test]
    fn nothing_is_said_of_what_is_not_known() {
        assert_eq!(RoundTripsView::new(&RoundTrips::default()), None);
        let trips = RoundTrips::<Shared>::default();
        trips.client.count(5);
        let view = RoundTripsView::new(&trips.read()).expect("a view");
        assert!(view.backend.is_none() && view.client.is_some_and(|leg| leg.sum_ms == 0.005));
    }
}
