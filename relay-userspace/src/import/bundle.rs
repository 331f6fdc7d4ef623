//! Archives (`.tar.gz`), read in memory within bounds: nothing of them is ever written to disk.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Component, Path};

use super::Source;

/// What all of an archive may come to: more is a bomb.
const MOST_BYTES: u64 = 8 * 1024 * 1024;
const MOST_FILES: usize = 10_000;

/// Whether a path is an archive's.
pub fn is_one(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.ends_with(".tar.gz") || name.ends_with(".tgz")
}

/// Its files, as `ARCHIVE:PATH`.
///
/// # Errors
///
/// It is damaged or too large, or has a link, a device, an absolute path or one with `..`: nothing is read from it then.
pub fn read(path: &Path) -> anyhow::Result<Vec<Source>> {
    let shown = path.display().to_string();
    let named = |error: io::Error| anyhow::anyhow!("{shown}: {error}");
    let unpacked = flate2::read::GzDecoder::new(File::open(path).map_err(named)?);
    // headers and padding come on top
    let mut archive = tar::Archive::new(unpacked.take(2 * MOST_BYTES));
    let (mut sources, mut bytes) = (Vec::new(), 0);
    for (count, entry) in archive.entries().map_err(named)?.enumerate() {
        let mut entry = entry.map_err(named)?;
        let inside = entry.path().map_err(named)?.into_owned();
        let kind = entry.header().entry_type();
        anyhow::ensure!(count < MOST_FILES, "{shown}: there are more than {MOST_FILES} files in it");
        let is_plain =
            inside.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        anyhow::ensure!(
            is_plain,
            "{shown}: {} leads out of the archive; nothing is read from it",
            inside.display()
        );
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        anyhow::ensure!(
            kind.is_file(),
            "{shown}: {} is a link or a device; nothing is read from it",
            inside.display()
        );
        let mut content = Vec::new();
        (&mut entry).take(MOST_BYTES + 1).read_to_end(&mut content).map_err(named)?;
        bytes += content.len() as u64;
        anyhow::ensure!(bytes <= MOST_BYTES, "{shown}: it unpacks to more than {MOST_BYTES} bytes");
        sources.push(Source::new(format!("{shown}:{}", inside.display()), content)?);
    }
    anyhow::ensure!(!sources.is_empty(), "{shown}: there is no file in it");
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn packed(
        folder: &Path,
        fill: impl FnOnce(&mut tar::Builder<flate2::write::GzEncoder<File>>),
    ) -> anyhow::Result<Vec<Source>> {
        let path = folder.join("bundle.tar.gz");
        let packer =
            flate2::write::GzEncoder::new(File::create(&path).expect("a file"), flate2::Compression::fast());
        let mut builder = tar::Builder::new(packer);
        fill(&mut builder);
        builder.into_inner().and_then(flate2::write::GzEncoder::finish).expect("packed");
        read(&path)
    }

    fn header(name: &[u8], size: u64, kind: tar::EntryType) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_cksum();
        header
    }

    #[test]
    fn archives_are_read_within_bounds() {
        let folder = tempfile::tempdir().expect("a folder");
        let one = |name: &[u8], kind| {
            packed(folder.path(), |builder| {
                builder.append(&header(name, 2, kind), &b"ab"[..]).expect("append");
            })
        };
        let file = tar::EntryType::Regular;
        let good = one(b"top/rules/rule-1.conf", file).expect("good");
        assert!(good[0].file.ends_with(":top/rules/rule-1.conf") && good[0].text == "ab");
        for (name, kind) in [
            (&b"../evil"[..], file),
            (b"top/../../evil", file),
            (b"/etc/passwd", file),
            (b"link", tar::EntryType::Symlink),
            (b"hard", tar::EntryType::Link),
            (b"device", tar::EntryType::Char),
        ] {
            let error = one(name, kind).expect_err("refused").to_string();
            assert!(error.contains("nothing is read from it"), "{error}");
        }
        let bomb = packed(folder.path(), |builder| {
            let size = 20 * MOST_BYTES;
            builder.append(&header(b"zeros", size, file), io::repeat(b'0').take(size)).expect("append");
        });
        assert!(bomb.is_err());
        let path = folder.path().join("half.tar.gz");
        File::create(&path).and_then(|mut file| file.write_all(b"\x1f\x8b\x08half")).expect("half");
        assert!(read(&path).is_err());
    }
}
