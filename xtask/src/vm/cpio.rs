//! Writing an initramfs: a cpio archive of the "newc" format (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive being written.
pub struct Cpio<W> {
    out: W,
    entries: u32,
}

/// What is in an entry's header besides its name and size.
#[derive(Clone, Copy, Default)]
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    device: (u32, u32),
}

impl<W: Write> Cpio<W> {
    pub const fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// A folder; the ones above it come first.
    pub fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path.as_bytes(), Meta { mode: FOLDER, ..Meta::default() }, &[])
    }

    /// A file that may be run.
    pub fn program(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(path.as_bytes(), Meta { mode: PROGRAM, ..Meta::default() }, bytes)
    }

    /// Everything below a folder, with its owners and modes. Folders named in `without` are left empty.
    pub fn tree(&mut self, root: &Path, without: &[&str]) -> io::Result<()> {
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let facts = fs::symlink_metadata(&path)?;
                let name = path.strip_prefix(root).unwrap_or(&path);
                let bytes = if facts.is_file() {
                    fs::read(&path)?
                } else if facts.is_symlink() {
                    fs::read_link(&path)?.as_os_str().as_bytes().to_vec()
                } else {
                    Vec::new()
                };
                let device = facts.rdev();
                let device = (nix::libc::major(device), nix::libc::minor(device));
                let meta = Meta { mode: facts.mode(), uid: facts.uid(), gid: facts.gid(), device };
                self.entry(name.as_os_str().as_bytes(), meta, &bytes)?;
                if facts.is_dir() && !without.iter().any(|left_out| name == Path::new(left_out)) {
                    folders.push(path);
                }
            }
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.entry(b"TRAILER!!!", Meta::default(), &[])?;
        self.out.flush()
    }

    fn entry(&mut self, name: &[u8], meta: Meta, bytes: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(bytes.len()).map_err(|_too_large| io::ErrorKind::FileTooLarge)?;
        let (major, minor) = meta.device;
        // inode, mode, owner, group, links, time, size, device, device of the node, length of the name, checksum
        let fields = [
            self.entries,
            meta.mode,
            meta.uid,
            meta.gid,
            1,
            0,
            size,
            0,
            0,
            major,
            minor,
            name.len() as u32 + 1,
            0,
        ];
        let mut header = b"070701".to_vec();
        for field in fields {
            write!(header, "{field:08x}")?;
        }
        header.extend(name);
        header.push(0);
        self.padded(&header)?;
        self.padded(bytes)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.write_all(&[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_contents_start_at_multiples_of_four() {
        let mut bytes = Vec::new();
        let mut archive = Cpio::new(&mut bytes);
        archive.folder("a").expect("folder");
        archive.program("a/b", b"hello").expect("file");
        archive.finish().expect("trailer");
        let starts: Vec<usize> =
            bytes.windows(6).enumerate().filter(|(_, at)| at == b"070701").map(|(at, _)| at).collect();
        // headers of 110 bytes, names with a zero, contents, each part filled up
        assert_eq!(starts, [0, 112, 112 + 116 + 8]);
        assert_eq!(&bytes[112 + 116..112 + 116 + 5], b"hello");
        assert_eq!(bytes.len() % 4, 0);
    }
}
