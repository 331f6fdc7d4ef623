//! Facts that are worth something until the next boot: a file in the state folder, a line `key=value` for each.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::config::save::save;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What this boot of the host is called; every boot has another name.
pub fn id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

/// Nanoseconds by the clock that the programs keep paces and rates by.
pub fn monotonic() -> u64 {
    let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    since_boot.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[derive(Debug)]
pub struct BootFile {
    path: PathBuf,
    boot: String,
    /// Neither keys nor values span lines, and no key has an equals sign.
    pub entries: BTreeMap<String, String>,
}

impl BootFile {
    /// Reads what has been written since the host started. What an earlier boot has left is forgotten.
    pub fn open(path: &Path) -> Self {
        Self::open_in(path, &id())
    }

    fn open_in(path: &Path, boot: &str) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let entries = match text.split_once('\n') {
            Some((first, rest)) if first == heading(boot) => rest
                .lines()
                .filter_map(|line| line.split_once('='))
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
            _ => BTreeMap::new(),
        };
        Self { path: path.into(), boot: boot.into(), entries }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn save(&self) -> io::Result<()> {
        let lines = self.entries.iter().map(|(key, value)| format!("{key}={value}\n"));
        save(&self.path, &(heading(&self.boot) + "\n" + &lines.collect::<String>()))
    }

    /// Forgets everything, on the disk too.
    pub fn clear(&mut self) {
        self.entries.clear();
        let _never_written = fs::remove_file(&self.path);
    }
}

/// The first line. It has no equals sign.
fn heading(boot: &str) -> String {
    format!("boot {boot}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_lasts_until_the_next_boot() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("facts");
        let mut file = BootFile::open_in(&path, "one");
        file.entries = BTreeMap::from([("a/b", "1=2"), ("c", "")].map(|(k, v)| (k.into(), v.into())));
        file.save().expect("save");
        assert_eq!(BootFile::open_in(&path, "one").entries, file.entries);
        assert_eq!(BootFile::open_in(&path, "two").entries, BTreeMap::new());
        // a file without a boot is from nobody knows when
        fs::write(&path, "a/b=1\nc=2\n").expect("write");
        assert_eq!(BootFile::open_in(&path, "one").entries, BTreeMap::new());
    }

    #[test]
    fn the_boot_has_a_name() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(!BootFile::open(&folder.path().join("facts")).boot.is_empty());
    }

    #[test]
    fn nothing_is_left_of_what_is_cleared() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("facts");
        let mut file = BootFile::open_in(&path, "one");
        file.entries.insert("a".into(), "b".into());
        file.save().expect("save");
        assert!(path.exists());
        file.clear();
        assert!(file.entries.is_empty() && !path.exists());
    }
}
