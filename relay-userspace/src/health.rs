//! Whether endpoints can be used: who asks them, what is made of the answers, and which backends get new flows.
//!
//! `judge`, `tiers` and `weigh` are pure. The prober's thread asks, has a judge for each endpoint, and tells what changes.

pub mod judge;
pub mod probe;
pub mod prober;
pub mod saved;
pub mod tiers;
pub mod weigh;

pub use self::judge::{Change, Reason, Signal, Standing, State};
pub use self::probe::ProbeError;
pub use self::prober::{News, Probe, ProbeId, Prober};
