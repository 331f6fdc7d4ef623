//! The folder on a bpffs that pins live in.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;
use relay_common::ABI_VERSION;

use super::Unavailable;

/// The folder of this version's layout below `bpf_dir`, made ready for use.
///
/// `bpf_dir` is used as it is when it, or its parent, is on a bpffs. Root gets one mounted there otherwise, but not
/// under systemd: a mount made inside the service's own namespace would die with it, and all pins too.
pub fn prepare(bpf_dir: &Path, under_systemd: bool) -> Result<PathBuf, Unavailable> {
    let here = is_bpffs(bpf_dir);
    let above = bpf_dir.parent().is_some_and(is_bpffs);
    if !here && !above {
        mount_at(bpf_dir, under_systemd)?;
    }
    let pins = layout_dir(bpf_dir);
    make_private(bpf_dir, above && !here)?;
    refuse_other_layouts(bpf_dir, &pins)?;
    make_private(&pins, true)?;
    Ok(pins)
}

/// `bpf_dir/abi<N>`.
pub fn layout_dir(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(format!("abi{ABI_VERSION}"))
}

/// Folders of any layout below `bpf_dir`.
pub fn layouts(bpf_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(bpf_dir) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.retain(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.strip_prefix("abi").is_some_and(|number| number.parse::<u32>().is_ok())
    });
    folders.sort();
    folders
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|info| info.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_at(bpf_dir: &Path, under_systemd: bool) -> Result<(), Unavailable> {
    let shown = bpf_dir.display();
    if under_systemd {
        return Err(Unavailable(format!("{shown} is not a bpffs; enable the mount unit for it")));
    }
    if !geteuid().is_root() {
        return Err(Unavailable(format!("{shown} is not on a bpffs and only root can mount one")));
    }
    fs::create_dir_all(bpf_dir).map_err(|error| Unavailable(format!("cannot make {shown}: {error}")))?;
    mount(Some("bpf"), bpf_dir, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|error| Unavailable(format!("cannot mount a bpffs at {shown}: {error}")))
}

/// Makes a folder that only we may enter; pins are as good as the rights to the maps.
fn make_private(folder: &Path, create: bool) -> Result<(), Unavailable> {
    let shown = folder.display();
    if !create || folder.is_dir() {
        return Ok(());
    }
    fs::create_dir(folder).map_err(|error| Unavailable(format!("cannot make {shown}: {error}")))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .map_err(|error| Unavailable(format!("cannot close {shown} to others: {error}")))
}

fn refuse_other_layouts(bpf_dir: &Path, own: &Path) -> Result<(), Unavailable> {
    match layouts(bpf_dir).into_iter().find(|folder| folder != own) {
        None => Ok(()),
        Some(other) => Err(Unavailable(format!(
            "another version's programs are attached (pins in {}); `relayctl down` removes them",
            other.display()
        ))),
    }
}
