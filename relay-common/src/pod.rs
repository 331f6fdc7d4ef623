//! `aya::Pod` for every type that lies in a map, each with its size asserted.

macro_rules! pod {
    ($($type:ty: $size:literal,)*) => {
        $(
            const _: () = assert!(size_of::<$type>() == $size, concat!("size of ", stringify!($type)));
            #[cfg(feature = "user")]
            // SAFETY: the type is `repr(C)`, holds only integers and has no padding (its size is asserted above
            // and equals the sum of its fields), so any byte pattern is a value and every byte is initialised.
            unsafe impl aya::Pod for $type {}
        )*
    };
}

pod! {
    crate::ended::EndedFlow: 88,
    crate::observe::Seen: 80,
    crate::observe::Ration: 8,
    crate::digest::Digest: 8,
    crate::digest::Secret: 32,
    crate::flow::FlowKey: 16,
    crate::rule::OwnAddress: 8,
    crate::rule::Numbered: 24,
    crate::flow::FlowEntry: 64,
    crate::flow::FragmentKey: 16,
    crate::flow::FragmentKey<[u32; 4]>: 40,
    crate::flow::FragmentEntry: 32,
    crate::rule::PortEntry: 8,
    crate::rule::ListenerKey: 12,
    crate::rule::ListenerKey<[u32; 4]>: 24,
    crate::rule::ListenerEntry: 8,
    crate::rule::RuleEntry: 72,
    crate::rule::EndpointEntry: 32,
    crate::rule::SourceKey: 20,
    crate::round_trip::RoundTrips: 336,
    crate::route::NextHop: 32,
    crate::route::RouteKey: 20,
    crate::counters::RuleCounters: 64,
    crate::counters::DropKey: 8,
    crate::counters::PortKey: 8,
    crate::settings::Settings: 64,
    crate::settings::Pressure: 8,
    crate::settings::IcmpBudget: 8,
    crate::settings::SweepRequest: 12,
    crate::lookup::Block: 128,
    crate::lookup::Spot: 20,
    crate::lookup::Home: 16,
    crate::lab::Recipe: 72,
}
