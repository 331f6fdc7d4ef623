//! Fragments, which carry no ports: what the first one of a datagram leaves for the later ones.

use super::FlowKey;
use crate::net::Port;

/// The addresses, identification and protocol that the fragments of one datagram share (RFC 791 section 3.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FragmentKey<A = u32> {
    pub source: A,
    pub destination: A,
    pub identification: u32,
    pub protocol: u32,
}

/// What later fragments of a datagram need: they carry no ports and no transport checksum.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FragmentEntry {
    /// The half that the first fragment belongs to.
    pub key: FlowKey,
    pub rule: u32,
    pub seen: u32,
    /// 1: from the backend to the client.
    pub egress: u32,
    /// Not 0: the user plane's, only counted; above 16 bits, the rule's port.
    pub user: u32,
}

impl FragmentEntry {
    /// For a datagram that comes from the user plane or goes to it.
    #[inline(always)]
    pub const fn of_user(rule: u32, port: Port, egress: bool, seen: u32) -> Self {
        Self {
            key: FlowKey::NOBODY,
            rule,
            seen,
            egress: egress as u32,
            user: 1 | (port.number() as u32) << 16,
        }
    }

    /// The rule's port that such a datagram belongs to.
    #[inline(always)]
    pub const fn port_of_user(&self) -> Port {
        Port::new((self.user >> 16) as u16)
    }

    /// Whether it is for such a datagram, on this way.
    #[inline(always)]
    pub const fn is_of_user(&self, egress: bool) -> bool {
        self.user != 0 && self.egress == egress as u32
    }
}
