//! What interfaces have carried in all, so that a provider's bill can be compared with what rules explain of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;

use super::amounts::Amounts;
use super::books::{Account, Source};

/// An Ethernet header, which interfaces count (without the checksum behind the frame) and rules do not.
const FRAME_HEADER: u64 = 14;

/// Totals by interface's name. Only those that were watched at some time have one.
#[derive(Debug, Default)]
pub struct Interfaces {
    accounts: BTreeMap<String, Account>,
}

/// Received is ingress, sent is egress; by interface's name.
pub type Readings = BTreeMap<String, Amounts>;

impl Interfaces {
    pub const fn restored(accounts: BTreeMap<String, Account>) -> Self {
        Self { accounts }
    }

    /// Takes in what the kernel has counted for an interface. What came before it was first looked at is nobody's.
    pub fn observe(&mut self, name: &str, source: Source, now: Amounts) {
        let Some(account) = self.accounts.get_mut(name) else {
            self.accounts.insert(name.into(), Account::restored(Amounts::default(), Some((source, now))));
            return;
        };
        let last = account.kernel.as_ref().filter(|(last, _)| *last == source);
        // another boot's, or an interface made anew: they begin at zero
        let came = last.map_or(now, |(_, before)| now.since(before).unwrap_or(now));
        account.total += came;
        account.kernel = Some((source, now));
    }

    /// An interface's total; of one that has never been watched there is none.
    pub fn total(&self, name: &str) -> Option<Amounts> {
        self.accounts.get(name).map(|account| account.total)
    }

    /// All of them, as they are written.
    pub fn accounts(&self) -> Vec<(String, Account)> {
        self.accounts.iter().map(|(name, account)| (name.clone(), account.clone())).collect()
    }

    /// Bytes that interfaces have carried, both ways, also those that are gone.
    pub fn bytes(&self) -> u64 {
        let both = |account: &Account| account.total.ingress_bytes.saturating_add(account.total.egress_bytes);
        self.accounts.values().map(both).fold(0, u64::saturating_add)
    }
}

/// The counters of an interface begin anew with the boot and with the interface.
pub fn source(boot: &Arc<str>, index: u32) -> Source {
    Source { boot: boot.clone(), map: index, slot: 0 }
}

/// Bytes that what rules have carried takes on interfaces: each packet comes and goes, and has a frame's header both times.
pub fn on_the_wire(carried: &Amounts) -> u64 {
    let packets = carried.ingress_packets.saturating_add(carried.egress_packets);
    let bytes = carried.ingress_bytes.saturating_add(carried.egress_bytes);
    packets.saturating_mul(FRAME_HEADER).saturating_add(bytes).saturating_mul(2)
}

/// Reads the counters of all interfaces of this network namespace.
///
/// # Errors
///
/// The kernel does not say.
pub fn read() -> io::Result<Readings> {
    Ok(parse(&fs::read_to_string("/proc/self/net/dev")?))
}

/// Lines `name: bytes packets errs drop fifo frame compressed multicast bytes packets ...`, received first
/// (net/core/net-procfs.c, `dev_seq_printf_stats`).
fn parse(text: &str) -> Readings {
    let line = |line: &str| {
        let (name, counters) = line.rsplit_once(':')?;
        let mut counters = counters.split_whitespace().map(str::parse::<u64>);
        let (ingress_bytes, ingress_packets) = (counters.next()?.ok()?, counters.next()?.ok()?);
        let (egress_bytes, egress_packets) = (counters.nth(6)?.ok()?, counters.next()?.ok()?);
        let amounts = Amounts::from_array([ingress_bytes, ingress_packets, egress_bytes, egress_packets, 0]);
        Some((name.trim().to_owned(), amounts))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(bytes: u64) -> Amounts {
        Amounts { ingress_bytes: bytes, egress_bytes: 2 * bytes, ..Amounts::default() }
    }

    #[test]
    fn what_came_before_is_nobodys_and_a_reboot_begins_at_zero() {
        let mut interfaces = Interfaces::default();
        let boots: [Arc<str>; 2] = ["one".into(), "two".into()];
        for (boot, index, now, total) in [
            (0, 2, 1000, 0),
            (0, 2, 1100, 100),
            (1, 2, 50, 150),
            (1, 3, 7, 157),
            (1, 3, 7, 157),
            (1, 3, 5, 162),
        ] {
            interfaces.observe("eth0", source(&boots[boot], index), came(now));
            assert_eq!(interfaces.total("eth0"), Some(came(total)));
        }
        let mut restored = Interfaces::restored(interfaces.accounts().into_iter().collect());
        restored.observe("eth0", source(&boots[1], 3), came(6));
        assert_eq!((restored.total("eth0"), restored.bytes()), (Some(came(163)), 3 * 163));
    }

    #[test]
    fn the_kernels_table_is_read() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n    \
            lo: 10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n  \
            eth0:123456789012 99 1 2 3 4 5 6 77 8 9 10 11 12 13 14\n";
        let eth0 = Amounts::from_array([123_456_789_012, 99, 77, 8, 0]);
        assert_eq!(parse(text).get("eth0"), Some(&eth0));
        assert_eq!(parse(text).len(), 2);
        assert!(read().is_ok_and(|readings| readings.contains_key("lo")));
    }

    #[test]
    fn packets_cross_interfaces_twice_with_their_frames() {
        let carried = Amounts::from_array([1000, 1, 500, 2, 1]);
        assert_eq!(on_the_wire(&carried), 2 * (1500 + 3 * 14));
    }
}
