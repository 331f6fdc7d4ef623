//! What has been carried, both ways.

use std::ops::AddAssign;

/// Bytes and packets of the client leg, and flows opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Amounts {
    pub ingress_bytes: u64,
    pub ingress_packets: u64,
    pub egress_bytes: u64,
    pub egress_packets: u64,
    pub flows: u64,
}

impl Amounts {
    pub const COUNT: usize = 5;

    pub const fn from_array(values: [u64; Self::COUNT]) -> Self {
        let [ingress_bytes, ingress_packets, egress_bytes, egress_packets, flows] = values;
        Self { ingress_bytes, ingress_packets, egress_bytes, egress_packets, flows }
    }

    pub const fn to_array(self) -> [u64; Self::COUNT] {
        [self.ingress_bytes, self.ingress_packets, self.egress_bytes, self.egress_packets, self.flows]
    }

    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// What has come since an earlier reading of the same counters; `None` if any of them has gone back.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let mut values = self.to_array();
        for (value, before) in values.iter_mut().zip(earlier.to_array()) {
            *value = value.checked_sub(before)?;
        }
        Some(Self::from_array(values))
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        let mut values = self.to_array();
        for (value, more) in values.iter_mut().zip(other.to_array()) {
            *value = value.saturating_add(more);
        }
        *self = Self::from_array(values);
    }
}
