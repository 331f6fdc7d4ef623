//! What the programs tell of flows and packets as they meet them, while somebody watches.

use crate::net::{Ports, Protocol};
use crate::numbered::numbered;

numbered! {
    /// What has happened. That a flow is over is told as [`crate::ended::EndedFlow`].
    Sight:
    /// A flow's first packet has passed.
    Opened = "opened",
    /// Its client has proven that it gets the answers.
    Proven = "proven",
    /// A packet was refused under a reason.
    Refused = "refused",
}

/// One thing that the programs have seen (80 bytes). IPv4 addresses lie there as IPv6 ones, in network order as all else that
/// comes out of packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Of the packet as it came in: of a flow that begins, the client and the address that it asks. Zero: not known.
    pub source: [u32; 4],
    pub destination: [u32; 4],
    /// Zero for a packet that is refused.
    pub backend: [u32; 4],
    /// Of the packet; 0: it has none.
    pub ports: u32,
    /// What a flow turns them into.
    pub backend_ports: u32,
    pub rule: u32,
    /// Of the rule when the flow was opened; of a packet that is refused 0.
    pub generation: u32,
    /// A number of [`Sight`].
    pub sight: u32,
    /// Of a packet that is refused, a number of [`crate::counters::DropReason`].
    pub reason: u32,
    /// The IP protocol; 0: not known.
    pub protocol: u32,
    /// Bytes of the frame; 0: not known.
    pub length: u32,
}

impl Seen {
    /// What the map that carries them has room for, in bytes.
    pub const RING: u32 = 256 * 1024;

    pub const fn ports(&self) -> Ports {
        Ports::from_wire(self.ports)
    }

    pub const fn backend_ports(&self) -> Ports {
        Ports::from_wire(self.backend_ports)
    }

    /// TCP or UDP; packets of ICMP and fragments have none.
    pub const fn protocol(&self) -> Option<Protocol> {
        if self.protocol > u8::MAX as u32 { None } else { Protocol::from_number(self.protocol as u8) }
    }
}

/// How many things of one kind a CPU tells in a tick, so that a flood is a sample and not a burden. What is alike shares an
/// account: the rule, and of packets that are refused the reason.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ration {
    pub tick: u32,
    pub told: u32,
}

impl Ration {
    /// Accounts that a CPU has.
    pub const ACCOUNTS: u32 = 256;
    /// Flows of an account in a tick.
    pub const FLOWS: u32 = 500;
    /// Packets of an account in a tick.
    pub const PACKETS: u32 = 100;

    /// Whose account it is. `reason`: of a packet that is refused.
    #[inline(always)]
    pub const fn account(rule: u32, reason: Option<u32>) -> u32 {
        let what = match reason {
            None => 0,
            Some(reason) => reason + 1,
        };
        // 37 is prime and larger than there are reasons
        rule.wrapping_mul(37).wrapping_add(what) % Self::ACCOUNTS
    }

    /// Takes one of this tick's. `false`: there were as many as may be.
    #[inline(always)]
    pub const fn takes(&mut self, now: u32, most: u32) -> bool {
        if self.tick != now {
            self.tick = now;
            self.told = 0;
        }
        self.told = self.told.saturating_add(1);
        self.told <= most
    }
}

/// What was not told, by the index of its count: flows, and packets.
pub const LOST_FLOWS: u32 = 0;
pub const LOST_PACKETS: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::DropReason;

    #[test]
    fn a_tick_has_so_many() {
        let mut ration = Ration::default();
        let mut taken = |tick, times| (0..times).filter(|_| ration.takes(tick, 3)).count();
        assert_eq!([taken(7, 2), taken(7, 5), taken(8, 9), taken(9, 1)], [2, 1, 3, 1]);
    }

    #[test]
    fn a_flood_under_one_reason_hides_no_other_of_its_rule() {
        let reasons = DropReason::ALL.iter().map(|&reason| Some(reason as u32));
        for rule in [0, 1, 5, 16_383, u32::MAX] {
            let mut accounts: std::vec::Vec<u32> = std::iter::once(None)
                .chain(reasons.clone())
                .map(|reason| Ration::account(rule, reason))
                .collect();
            accounts.sort_unstable();
            accounts.dedup();
            assert_eq!(accounts.len(), 1 + DropReason::ALL.len(), "{rule}");
        }
        assert_ne!(Ration::account(0, None), Ration::account(1, None));
    }

    extern crate std;
}
