//! Taking everything off again: `relayctl down`.

use std::fs;
use std::path::Path;

use super::bpffs::layouts;
use super::{links, lookup, tc};

/// What was removed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Removed {
    pub links: usize,
    pub filters: usize,
    pub maps: usize,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

impl Removed {
    /// Places where packets met a program.
    pub const fn hooks(&self) -> usize {
        self.links + self.filters
    }
}

/// What [`detach_all`] would remove.
pub fn count(bpf_dir: &Path, interfaces: &[String]) -> Removed {
    let mut there = Removed::default();
    for entry in layouts(bpf_dir).iter().filter_map(|pins| fs::read_dir(pins).ok()).flatten().flatten() {
        if is_link(&entry.file_name().to_string_lossy()) {
            there.links += 1;
        } else {
            there.maps += 1;
        }
    }
    there.filters = interfaces.iter().map(|name| tc::own_filters(name)).sum();
    there
}

fn is_link(name: &str) -> bool {
    ["tcx_", "xdp_", lookup::PIN].iter().any(|prefix| name.starts_with(prefix))
}

/// Detaches the programs of every layout and removes all pins. `interfaces`: names of all interfaces of the host, for
/// kernels whose filters have no pin.
pub fn detach_all(bpf_dir: &Path, interfaces: &[String]) -> Removed {
    let mut removed = Removed::default();
    let folders = layouts(bpf_dir);
    // links first: a program without maps' pins still forwards, one without a hook does not
    for pins in &folders {
        remove_pins(pins, true, &mut removed);
    }
    removed.filters = interfaces.iter().map(|name| tc::remove_filters(name)).sum();
    for pins in &folders {
        remove_pins(pins, false, &mut removed);
        if let Err(error) = fs::remove_dir(pins) {
            removed.failed.push(format!("{}: {error}", pins.display()));
        }
    }
    removed
}

fn remove_pins(pins: &Path, links: bool, removed: &mut Removed) {
    let Ok(entries) = fs::read_dir(pins) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_link(&name) != links {
            continue;
        }
        if links {
            // one whose interface is gone has no hook any more; whatever fails, the pin goes
            let _ended_with_its_pin = links::detach(&entry.path());
        }
        match fs::remove_file(entry.path()) {
            Ok(()) if links => removed.links += 1,
            Ok(()) => removed.maps += 1,
            Err(error) => removed.failed.push(format!("{}: {error}", entry.path().display())),
        }
    }
}
