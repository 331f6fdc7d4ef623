//! How fast a rule's traffic may be.

/// Rates of a rule, in bits per second of IP packets on the client's side; 0: any.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rates {
    pub ingress: u64,
    pub egress: u64,
    /// Of each client by itself, each way; a rule's alone.
    pub per_client: u64,
}

impl Rates {
    /// Slower than a packet in ten seconds nobody means.
    pub const LEAST: u64 = 1_000;
    /// Faster than all that a host has.
    pub const MOST: u64 = 1_000_000_000_000;

    /// All of them with their names in the configuration.
    pub const fn entries(&mut self) -> [(&'static str, &mut u64); 3] {
        [("ingress", &mut self.ingress), ("egress", &mut self.egress), ("per_client", &mut self.per_client)]
    }

    /// Those that are set.
    pub fn set(mut self) -> impl Iterator<Item = (&'static str, u64)> {
        self.entries().map(|(name, rate)| (name, *rate)).into_iter().filter(|&(_, rate)| rate != 0)
    }

    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}
