//! Debian's kernels: fetched once into `target/vm`, and their modules in the order they load in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::Series;
use super::apt::{Apt, Mirror};
use crate::tools::{output_of, say};

/// The smallest of Debian's kernels, which virtual machines run.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
pub struct Kernel {
    pub image: PathBuf,
    /// `lib/modules/VERSION`.
    modules: PathBuf,
}

impl Kernel {
    /// The newest kernel of a series, downloaded unless it is there.
    pub fn fetch(series: &Series, work: &Path) -> anyhow::Result<Self> {
        let folder = work.join("kernels").join(series.kernel);
        let complete = folder.join("complete");
        if !complete.exists() {
            say(&format!("downloading Debian's kernel {}", series.kernel));
            download(series, work, &folder)
                .with_context(|| format!("cannot download Debian's kernel {}", series.kernel))?;
            fs::write(&complete, "")?;
        }
        let image = find(&folder, &|name| name.starts_with("vmlinuz"));
        let modules = find(&folder, &|name| name == "modules.builtin");
        match (image, modules) {
            (Some(image), Some(list)) => {
                Ok(Self { image, modules: list.parent().map(Into::into).unwrap_or_default() })
            }
            _ => bail!("{} holds no kernel; remove it and try again", folder.display()),
        }
    }

    /// Modules with all they depend on, uncompressed, in the order they load in. What is built in is left out.
    pub fn modules(&self, names: &[&str]) -> anyhow::Result<Vec<Module>> {
        let builtin = fs::read_to_string(self.modules.join("modules.builtin"))?;
        let mut loaded = Vec::new();
        for name in names {
            self.add(name, &builtin, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn add(&self, name: &str, builtin: &str, loaded: &mut Vec<Module>) -> anyhow::Result<()> {
        let name = name.replace('-', "_");
        let is_it = |file: &str| {
            let stem = file.split(".ko").next().unwrap_or("");
            file.contains(".ko") && stem.replace('-', "_") == name
        };
        let is_builtin = builtin.lines().any(|line| line.rsplit('/').next().is_some_and(is_it));
        if is_builtin || loaded.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(path) = find(&self.modules, &is_it) else {
            bail!("{} has no module {name}", self.modules.display());
        };
        let bytes = uncompressed(&path)?;
        for needed in dependencies(&bytes) {
            self.add(&needed, builtin, loaded)?;
        }
        loaded.push(Module { name, bytes });
        Ok(())
    }
}

/// A module, ready to load.
pub struct Module {
    pub name: String,
    pub bytes: Vec<u8>,
}

fn download(series: &Series, work: &Path, folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let apt = Apt::open(&work.join("apt").join(series.kernel), &Mirror::find()?, series.kernel_suite)?;
    // the package names today's kernel, whose files may be in packages of their own
    let mut packages = apt.depends(PACKAGE)?;
    packages.retain(|package| package.starts_with("linux-image-"));
    let Some(image) = packages.first().cloned() else { bail!("{PACKAGE} names no kernel") };
    let parts = apt.depends(&image)?.into_iter();
    packages.truncate(1);
    packages
        .extend(parts.filter(|part| {
            ["linux-binary-", "linux-modules-"].iter().any(|prefix| part.starts_with(prefix))
        }));
    packages.iter().try_for_each(|package| apt.unpack(package, folder))
}

fn uncompressed(path: &Path) -> anyhow::Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return Ok(fs::read(path)?),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("{}: an unknown compression", path.display()),
    };
    output_of(Command::new(tool).arg("-dc").arg(path))
}

/// The modules that one names in its `.modinfo` section: `depends=a,b`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    list.split(',').filter(|name| !name.is_empty()).map(Into::into).collect()
}

/// A file below a folder, by its name.
fn find(folder: &Path, is_it: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if entry.file_name().to_str().is_some_and(is_it) {
                return Some(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_a_module() {
        assert_eq!(dependencies(b"x\0license=GPL\0depends=stp,llc\0name=bridge\0"), ["stp", "llc"]);
        assert_eq!(dependencies(b"x\0license=GPL\0depends=\0name=stp\0"), Vec::<String>::new());
    }
}
