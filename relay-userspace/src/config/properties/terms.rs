//! Any quota and any end.

use proptest::prelude::*;

use crate::rule::quota::{Counted, Over, Reset, Unit, Zone};
use crate::rule::{Expiry, Quota, Rates};

pub fn quotas() -> BoxedStrategy<Quota> {
    let date = || {
        (1970..=9000i16, 1..=12i8, 1..=28i8)
            .prop_map(|(year, month, day)| jiff::civil::date(year, month, day))
    };
    let unit = proptest::sample::select(&[Unit::Days, Unit::Months][..]);
    let reset = prop_oneof![
        Just(Reset::Never),
        (1..=31u8).prop_map(Reset::Monthly),
        (1..=12u8, 1..=28u8).prop_map(|(month, day)| Reset::Yearly(month, day)),
        (1..=120u16, unit, date()).prop_map(|(count, unit, from)| Reset::Every(count, unit, from)),
        date().prop_map(Reset::Once),
    ];
    let over = prop_oneof![Just(Over::Block), (Rates::LEAST..=Rates::MOST).prop_map(Over::Throttle)];
    let zone = proptest::sample::select(&[None, Some("Asia/Shanghai"), Some("UTC")][..])
        .prop_map(|name| name.map_or_else(Zone::default, |name| Zone::parse(name).expect(name)));
    let warn = proptest::collection::btree_set(1..=100u8, 0..4).prop_map(|set| set.into_iter().collect());
    let count = proptest::sample::select(&Counted::ALL[..]);
    (1..=Quota::MOST, count, reset, zone, over, warn)
        .prop_map(|(limit, count, reset, zone, over, warn)| Quota { limit, count, reset, zone, over, warn })
        .boxed()
}

pub fn expiries() -> impl Strategy<Value = Expiry> {
    (0..4_000_000_000_i64).prop_map(|at| {
        let at = jiff::Timestamp::from_second(at).expect("a moment");
        Expiry::parse(&at.to_string()).expect("a moment")
    })
}
