//! What the kernel plane needs and whether it is there, in sentences.

use std::fs;

use aya::util::KernelVersion;

use super::Unavailable;

/// Capabilities by number (include/uapi/linux/capability.h). Without PERFMON the verifier refuses packet-pointer
/// arithmetic to anyone but root.
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
const SYS_ADMIN: u32 = 21;
const OLDEST: (u8, u8) = (5, 10);

/// `Err` with everything that is missing.
pub fn check() -> Result<(), Unavailable> {
    if !kernel_is_at_least(OLDEST.0, OLDEST.1) {
        return Err(Unavailable("the kernel is older than 5.10".into()));
    }
    let missing = missing_capabilities(effective_capabilities());
    if missing.is_empty() {
        return Ok(());
    }
    let verb = if missing.len() == 1 { "is" } else { "are" };
    Err(Unavailable(format!("{} {verb} missing", missing.join(", "))))
}

/// Whether the running kernel is this version or a later one.
pub fn kernel_is_at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|current| current >= KernelVersion::new(major, minor, 0))
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    NEEDED
        .into_iter()
        // before there were CAP_BPF and CAP_PERFMON, SYS_ADMIN stood for both, and it still does
        .filter(|&(_, bit)| !has(bit) && (bit == 12 || !has(SYS_ADMIN)))
        .map(|(name, _)| name)
        .collect()
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_unit_have_what_they_need() {
        assert_eq!(missing_capabilities(u64::MAX), [] as [&str; 0]);
        assert_eq!(missing_capabilities(0xc0_0000_1400), [] as [&str; 0]);
        assert_eq!(missing_capabilities(1 << SYS_ADMIN | 1 << 12), [] as [&str; 0]);
    }

    #[test]
    fn a_user_is_told_what_is_missing() {
        assert_eq!(missing_capabilities(0), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(missing_capabilities(1 << 39 | 1 << 12), ["CAP_PERFMON"]);
    }
}
