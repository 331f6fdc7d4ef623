//! How many connections a rule takes, and how fast new ones may come.

/// Limits of a rule; 0: none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// At once.
    pub connections: u32,
    pub connections_per_ip: u32,
    /// Per second.
    pub new_flows: u32,
    pub new_flows_per_ip: u32,
}

impl Limits {
    /// The highest of each: so many flows nobody has, and a pace is kept in whole nanoseconds.
    pub const MOST: u32 = 1_000_000;

    /// All of them with their names in the configuration.
    pub const fn entries(&mut self) -> [(&'static str, &mut u32); 4] {
        [
            ("connections", &mut self.connections),
            ("connections_per_ip", &mut self.connections_per_ip),
            ("new_flows", &mut self.new_flows),
            ("new_flows_per_ip", &mut self.new_flows_per_ip),
        ]
    }

    /// Those that are set.
    pub fn set(mut self) -> impl Iterator<Item = (&'static str, u32)> {
        self.entries().map(|(name, most)| (name, *most)).into_iter().filter(|&(_, most)| most != 0)
    }
}
