//! Where a rule's flows and sessions may go on going.

use std::net::IpAddr;

use relay_common::net::Protocol;

/// The addresses that flows and sessions may go to, others end: `on_down = "reset"`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Staying {
    pub tcp: Box<[IpAddr]>,
    pub udp: Box<[IpAddr]>,
}

impl Staying {
    /// The same for both protocols.
    pub fn both(addresses: &[IpAddr]) -> Self {
        Self { tcp: addresses.into(), udp: addresses.into() }
    }

    pub const fn of(&self, protocol: Protocol) -> &[IpAddr] {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }
}
