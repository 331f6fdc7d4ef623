//! Kernel settings that relayd changes. Old values are written down before, and put back by `relayctl down`.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::boot::BootFile;
use crate::host::ClaimRange;

/// Settings changed since the host started, with the values they had, kept in the state folder. After a reboot they are
/// the host's own again, and there is nothing to put back.
#[derive(Debug)]
pub struct Ledger {
    old: BootFile,
}

const ROOT: &str = "/proc/sys";
const LOCAL_PORTS: &str = "net/ipv4/ip_local_port_range";
const REUSE_RESTING: &str = "net/ipv4/tcp_tw_reuse";
const RESERVED_PORTS: &str = "net/ipv4/ip_local_reserved_ports";

/// The fewest claimable ports that do without a reservation.
const ENOUGH: u16 = 16_384;
const LOWEST_CLAIM: u16 = 1024;
const HIGHEST_CLAIM: u16 = 32_767;
/// What is reserved where too few ports lie outside the host's own range.
const RESERVED: ClaimRange = ClaimRange { first: 10_240, last: HIGHEST_CLAIM };

impl Ledger {
    /// Reads what an earlier relayd has changed.
    pub fn open(state_dir: &Path) -> Self {
        Self { old: BootFile::open(&state_dir.join("sysctl")) }
    }

    /// Changes a setting, unless it has that value already. What was there is saved first.
    pub fn set(&mut self, name: &str, value: &str) -> io::Result<()> {
        let path = Path::new(ROOT).join(name);
        let current = fs::read_to_string(&path)?.trim().to_owned();
        if current == value {
            return Ok(());
        }
        if !self.old.entries.contains_key(name) {
            self.old.entries.insert(name.to_owned(), current);
            if let Err(error) = self.old.save() {
                // what is not written down must not be changed, at the next attempt either
                self.old.entries.remove(name);
                return Err(error);
            }
        }
        fs::write(path, value)
    }

    /// Puts every old value back. Returns what could not be put back.
    pub fn restore(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        for (name, value) in &self.old.entries {
            // an interface's settings go with the interface
            let path = Path::new(ROOT).join(name);
            // an empty line is how a list is emptied
            if path.exists()
                && let Err(error) = fs::write(&path, format!("{value}\n"))
            {
                failed.push(format!("{name}: {error}"));
            }
        }
        self.old.clear();
        failed
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.old.entries.keys().map(String::as_str)
    }
}

/// The ports that the kernel gives to sockets that ask for none in particular.
pub fn local_ports() -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string(Path::new(ROOT).join(LOCAL_PORTS))?;
    let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
    Ok(numbers.next().unwrap_or(32_768)..=numbers.next().unwrap_or(60_999))
}

/// The IPv6 MTU of an interface; `None`: it has no IPv6.
pub fn mtu_v6(interface: &str) -> Option<u32> {
    let path = Path::new(ROOT).join("net/ipv6/conf").join(interface).join("mtu");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The ports that flows may claim on this host, reserving some where too few are left.
pub fn claim_range(ledger: &mut Ledger) -> io::Result<ClaimRange> {
    let local = local_ports()?;
    if let Some(range) = outside(*local.start(), *local.end()) {
        return Ok(range);
    }
    let reserved = fs::read_to_string(Path::new(ROOT).join(RESERVED_PORTS))?;
    if !covers(reserved.trim(), RESERVED) {
        let own = format!("{}-{}", RESERVED.first, RESERVED.last);
        let list = if reserved.trim().is_empty() { own } else { format!("{},{own}", reserved.trim()) };
        ledger.set(RESERVED_PORTS, &list)?;
    }
    Ok(RESERVED)
}

/// Lets connections begin where one to the same backend rests (TIME_WAIT) for a second already: those that clients close
/// first rest here, for a minute each, and there are 28,000 ports.
pub fn reuse_resting_ports(ledger: &mut Ledger) -> io::Result<()> {
    ledger.set(REUSE_RESTING, "1")
}

/// The larger stretch of claimable ports outside the host's ephemeral range, if it is large enough.
fn outside(first: u16, last: u16) -> Option<ClaimRange> {
    let below = ClaimRange { first: LOWEST_CLAIM, last: HIGHEST_CLAIM.min(first.saturating_sub(1)) };
    let above = ClaimRange { first: LOWEST_CLAIM.max(last.saturating_add(1)), last: HIGHEST_CLAIM };
    [below, above]
        .into_iter()
        .filter(|range| range.first <= range.last && range.len() >= ENOUGH)
        .max_by_key(|range| range.len())
}

/// Whether a list like `8080,10000-20000` covers a range with one of its parts.
fn covers(list: &str, wanted: ClaimRange) -> bool {
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => first <= wanted.first && wanted.last <= last,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_stay_clear_of_the_hosts_own_ports() {
        assert_eq!(outside(32_768, 60_999), Some(ClaimRange { first: 1024, last: 32_767 }));
        assert_eq!(outside(20_000, 30_000), Some(ClaimRange { first: 1024, last: 19_999 }));
        assert_eq!(outside(1024, 8_000), Some(ClaimRange { first: 8_001, last: 32_767 }));
        assert_eq!(outside(1024, 65_535), None);
        assert_eq!(outside(10_000, 65_535), None);
    }

    #[test]
    fn a_reservation_is_recognised() {
        assert!(covers("10240-32767", RESERVED));
        assert!(covers("80,10000-40000,50000", RESERVED));
        assert!(!covers("", RESERVED));
        assert!(!covers("10240-20000,20001-32767", RESERVED));
    }
}
