//! How a rule's new flows are spread over its backends.

/// Who gets a new flow, of the backends that are in their turn ([`super::Backend::priority`]).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Balance {
    /// One after the other, as often as its weight says.
    #[default]
    RoundRobin,
    /// The same one for the same client address.
    IpHash,
    /// The one with the fewest flows for its weight.
    LeastConn,
    /// The first one, as long as it is there.
    First,
}

impl Balance {
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::IpHash, Self::LeastConn, Self::First];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|balance| balance.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "roundrobin",
            Self::IpHash => "iphash",
            Self::LeastConn => "leastconn",
            Self::First => "first",
        }
    }
}
