//! Files to import, read into memory within bounds.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use super::{Place, Refusal, bundle};

/// A file larger than this is no configuration.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// A folder with more is something else.
const MOST_FILES: usize = 10_000;
/// How deep folders are looked into.
const DEEPEST: usize = 8;

/// A text, and what to call it.
#[derive(Clone, Debug)]
pub struct Source {
    pub file: String,
    pub text: String,
}

impl Source {
    /// # Errors
    ///
    /// The bytes are not UTF-8: says in which line.
    pub fn new(file: String, bytes: Vec<u8>) -> Result<Self, Refusal> {
        String::from_utf8(bytes).map_or_else(
            |error| {
                let good = error.utf8_error().valid_up_to();
                let line = error.as_bytes()[..good].iter().filter(|&&byte| byte == b'\n').count() + 1;
                let text =
                    "this is not UTF-8; convert the file first, as with: iconv -f GBK -t UTF-8".to_owned();
                Err(Refusal { place: Place { file: file.clone(), line }, text })
            },
            |text| {
                let text = text.strip_prefix('\u{feff}').map(ToOwned::to_owned).unwrap_or(text);
                Ok(Self { file: file.clone(), text })
            },
        )
    }

    pub fn place(&self, line: usize) -> Place {
        Place { file: self.file.clone(), line }
    }

    /// The line that a byte is in.
    pub fn line_of(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    pub fn refuse(&self, line: usize, text: impl Into<String>) -> Refusal {
        Refusal { place: self.place(line), text: text.into() }
    }

    /// Lines with their numbers, trimmed, without those that are empty or a comment.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let trimmed = self.text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        trimmed.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }
}

/// Reads a file, `-` for standard input, an archive, or all `*.toml`, `*.json` and `*.conf` of a folder and the folders in it.
///
/// # Errors
///
/// What cannot be read, with its name; a file that is too large, a folder with too many.
pub fn read(path: &Path) -> anyhow::Result<Vec<Source>> {
    if path == Path::new("-") {
        return Ok(vec![Source::new(
            "standard input".into(),
            bounded(io::stdin().lock(), "standard input")?,
        )?]);
    }
    if bundle::is_one(path) {
        return bundle::read(path);
    }
    let mut sources = Vec::new();
    let kind = fs::metadata(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    if kind.is_dir() {
        walk(path, 0, &mut sources)?;
        anyhow::ensure!(
            !sources.is_empty(),
            "{}: there is no *.toml, *.json or *.conf in it",
            path.display()
        );
    } else {
        sources.push(open(path)?);
    }
    Ok(sources)
}

fn open(path: &Path) -> anyhow::Result<Source> {
    let shown = path.display().to_string();
    let named = |error: io::Error| anyhow::anyhow!("{shown}: {error}");
    let kind = fs::metadata(path).map_err(named)?;
    anyhow::ensure!(
        !kind.is_dir() && (kind.is_file() || path.starts_with("/dev/fd")),
        "{shown}: it is no regular file"
    );
    let file = fs::File::open(path).map_err(named)?;
    Ok(Source::new(shown.clone(), bounded(file, &shown)?)?)
}

fn bounded(file: impl io::Read, shown: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = file
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| anyhow::anyhow!("{shown}: {error}"))?;
    anyhow::ensure!(
        length as u64 <= MOST_BYTES,
        "{shown}: it is larger than {MOST_BYTES} bytes; import it in parts"
    );
    Ok(bytes)
}

/// In name order; hidden files and links are left alone.
fn walk(folder: &Path, depth: usize, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    let named = |error: io::Error| anyhow::anyhow!("{}: {error}", folder.display());
    anyhow::ensure!(depth < DEEPEST, "{}: folders go deeper than {DEEPEST}", folder.display());
    let mut entries: Vec<fs::DirEntry> = fs::read_dir(folder).and_then(Iterator::collect).map_err(named)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type().map_err(named)?);
        let is_config =
            path.extension().is_some_and(|ending| ending == "toml" || ending == "json" || ending == "conf");
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            walk(&path, depth + 1, sources)?;
        } else if kind.is_file() && is_config {
            anyhow::ensure!(
                sources.len() < MOST_FILES,
                "{}: there are more than {MOST_FILES} files",
                folder.display()
            );
            sources.push(open(&path)?);
        }
    }
    Ok(())
}
