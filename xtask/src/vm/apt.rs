//! Debian packages for a guest, from the mirror that this machine's apt uses, without touching its apt settings.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::tools::run_quietly;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Names a mirror where apt's own sources have none, as on Ubuntu.
const MIRROR_VARIABLE: &str = "RELAY_DEBIAN_MIRROR";

/// Where Debian's packages are.
#[derive(Clone, Debug)]
pub struct Mirror {
    archive: String,
    security: String,
}

impl Mirror {
    pub fn find() -> anyhow::Result<Self> {
        let uris = match env::var(MIRROR_VARIABLE) {
            Ok(uri) => vec![uri],
            Err(_not_set) => configured(),
        };
        let ending = |ending: &str| {
            let mut uris = uris.iter().map(|uri| uri.trim_end_matches('/'));
            uris.find(|uri| uri.ends_with(ending)).map(ToOwned::to_owned)
        };
        let Some(archive) = ending("/debian") else {
            bail!("apt's sources name no Debian mirror; set {MIRROR_VARIABLE} to one (http://.../debian)");
        };
        let security = ending("/debian-security").unwrap_or_else(|| format!("{archive}-security"));
        Ok(Self { archive, security })
    }

    /// A line of sources.list for a suite.
    pub fn source(&self, suite: &str) -> anyhow::Result<String> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: apt-get install debian-archive-keyring");
        }
        let uri = if suite.ends_with("-security") { &self.security } else { &self.archive };
        Ok(format!("deb [signed-by={KEYRING}] {uri} {suite} main\n"))
    }
}

/// All URIs of this machine's apt sources, of either format.
fn configured() -> Vec<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.sort();
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.flat_map(|text| uris(&text)).collect()
}

fn uris(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    let words = lines.flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with("http://") || word.starts_with("https://")).map(Into::into).collect()
}

/// apt with sources, lists and cache of its own.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Reads a suite's list of packages.
    pub fn open(folder: &Path, mirror: &Mirror, suite: &str) -> anyhow::Result<Self> {
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::write(folder.join("sources.list"), mirror.source(suite)?)?;
        let apt = Self { folder: folder.to_owned() };
        run_quietly(apt.command("apt-get").args(["-qq", "update"]))
            .with_context(|| format!("cannot read the list of packages of {suite}"))?;
        Ok(apt)
    }

    /// Names of packages that one depends on.
    pub fn depends(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let text = run_quietly(self.command("apt-cache").args(["depends", package]))?;
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(Into::into).collect())
    }

    /// Downloads a package and unpacks it into a folder.
    pub fn unpack(&self, package: &str, into: &Path) -> anyhow::Result<()> {
        let folder = self.folder.join("debs").join(package);
        fs::create_dir_all(&folder)?;
        run_quietly(self.command("apt-get").args(["-qq", "download", package]).current_dir(&folder))?;
        for entry in fs::read_dir(&folder)? {
            run_quietly(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(into))?;
        }
        Ok(fs::remove_dir_all(&folder)?)
    }

    fn command(&self, program: &str) -> Command {
        let option = |name: &str, value: &OsStr| {
            let mut option = std::ffi::OsString::from(format!("{name}="));
            option.push(value);
            option
        };
        let mut command = Command::new(program);
        for (name, file) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(option(name, self.folder.join(file).as_os_str()));
        }
        let sandbox =
            if nix::unistd::geteuid().is_root() { "APT::Sandbox::User=root" } else { "Debug::NoLocking=1" };
        command.args(["-o", "Dir::Etc::sourceparts=/dev/null", "-o", sandbox]);
        command.args(["-o", "Acquire::Languages=none"]);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_of_sources_are_read() {
        assert_eq!(
            uris("# deb http://no/debian x main\ndeb [a=b] http://one/debian x main\n"),
            ["http://one/debian"]
        );
        assert_eq!(uris("Types: deb\nURIs: http://two/debian/\nSuites: x\n"), ["http://two/debian/"]);
    }
}
