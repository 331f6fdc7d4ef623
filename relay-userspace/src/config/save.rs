//! Replacing a file in one step: a reader sees the old text or the new one, and so does a machine that lost power.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// A new text on the disk beside the file that it will replace. Dropped, it goes away again.
///
/// Writing is what may fail for want of room or rights, so it comes first; then whatever the text stands for is
/// applied, and only then the file is replaced.
#[must_use = "nothing is replaced until it is committed"]
pub struct Staged {
    temporary: PathBuf,
    target: PathBuf,
}

impl Staged {
    pub fn write(path: &Path, text: &str) -> io::Result<Self> {
        Self::write_as(path, text, 0o640)
    }

    /// `mode` is for a file that is not there yet.
    fn write_as(path: &Path, text: &str, mode: u32) -> io::Result<Self> {
        // a link stays a link
        let target = fs::canonicalize(path).unwrap_or_else(|_new_file| path.to_owned());
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder(&target).join(format!(".{name}.{}.tmp", std::process::id()));
        let staged = Self { temporary, target };
        write_new(&staged.temporary, &staged.target, text, mode)?;
        Ok(staged)
    }

    /// Puts the new text in the old one's place.
    pub fn commit(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.target)?;
        File::open(folder(&self.target))?.sync_all()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // after a commit there is nothing to remove
        let _best_effort = fs::remove_file(&self.temporary);
    }
}

/// Both steps, for a text that nothing else depends on.
pub fn save(path: &Path, text: &str) -> io::Result<()> {
    Staged::write(path, text)?.commit()
}

/// The same for a text that nobody else may read.
pub fn save_secret(path: &Path, text: &str) -> io::Result<()> {
    Staged::write_as(path, text, 0o600)?.commit()
}

fn folder(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_new(temporary: &Path, target: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(temporary)?;
    if let Ok(old) = fs::metadata(target) {
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        // without the right to give files away the new one is ours, which is where the old one was writable from
        let _kept = fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_committed_leaves_no_trace() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("relay.toml");
        fs::write(&path, "old").expect("write");
        drop(Staged::write(&path, "new").expect("stage"));
        assert_eq!(fs::read_to_string(&path).expect("read"), "old");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
        Staged::write(&path, "new").and_then(Staged::commit).expect("commit");
        assert_eq!(fs::read_to_string(&path).expect("read"), "new");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn save_keeps_mode_and_links() {
        let folder = tempfile::tempdir().expect("folder");
        let (file, link) = (folder.path().join("real.toml"), folder.path().join("link.toml"));
        fs::write(&file, "old").expect("write");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("mode");
        std::os::unix::fs::symlink(&file, &link).expect("link");
        save(&link, "new").expect("save");
        assert_eq!(fs::read_to_string(&file).expect("read"), "new");
        assert!(fs::symlink_metadata(&link).expect("link").is_symlink());
        assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2);
    }
}
