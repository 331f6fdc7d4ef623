//! The unit under systemd itself: Debian's own, of the release that has the kernel. The whole system is an initramfs.

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::apt::Mirror;
use super::cpio::Cpio;
use super::kernel::Kernel;
use super::payload::Payload;
use super::qemu::Guest;
use super::{MODULES, Series, Verdict, add_modules};
use crate::install::Site;
use crate::tools::{run_quietly, say};

const LIMIT: Duration = Duration::from_secs(900);
/// The system is unpacked into memory.
const MEMORY_MIB: u32 = 1536;
const PREFIX: &str = "/usr/local";
/// Left out of the image.
const LARGE: [&str; 6] = [
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/zoneinfo",
];
/// Runs the checks once everything is up, and ends the machine however they end.
const CHECK: &str = "\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
Environment=RELAY_BIN_DIR=/usr/local/bin RELAY_SLOWNESS=10
ExecStart=/relay/guest systemd
ExecStopPost=/bin/systemctl poweroff --force --force
TimeoutStartSec=infinity
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
";

/// Installs Relay into a Debian and boots it.
pub fn check(
    series: &Series,
    kernel: &Kernel,
    payload: &Payload,
    work: &Path,
    kvm: bool,
) -> anyhow::Result<Verdict> {
    let name = format!("debian{}", series.debian);
    let root = system(series, &name, work)?;
    Site { root: root.clone(), prefix: PREFIX.into(), programs: Payload::folder() }.install()?;
    add_check(&root)?;
    let initramfs = work.join(format!("{name}.cpio"));
    write_initramfs(&initramfs, &root, kernel, payload)?;
    fs::remove_dir_all(&root)?;
    let guest = Guest {
        image: &kernel.image,
        initramfs: &initramfs,
        memory_mib: MEMORY_MIB,
        words: "systemd.show_status=0 systemd.log_target=journal".into(),
        kvm,
        limit: LIMIT,
    };
    let boot = guest.boot(&work.join(format!("{name}.log")))?;
    let passed = boot.passed();
    let exposure = boot.console.iter().find_map(|line| line.strip_prefix("exposure ")).unwrap_or("unknown");
    let line = format!(
        "Debian {} {}: {}; unit as a user, add, reload, kill -9, stop, down; exposure {exposure}; {:.0} s",
        series.debian,
        boot.outcome(),
        boot.release(),
        boot.took.as_secs_f32()
    );
    Ok(Verdict { passed, line, console: boot.console })
}

/// A fresh copy of a minimal Debian.
fn system(series: &Series, name: &str, work: &Path) -> anyhow::Result<PathBuf> {
    let (base, complete) = (work.join(name), work.join(format!("{name}.complete")));
    if !complete.exists() {
        say(&format!("making a minimal Debian {}", series.debian));
        if base.exists() {
            fs::remove_dir_all(&base)?;
        }
        run_quietly(
            Command::new("mmdebstrap")
                .args(["--quiet", "--variant=minbase", "--include=systemd,systemd-sysv", "--mode=root"])
                .arg(series.suite)
                .arg(&base)
                .arg(Mirror::find()?.source(series.suite)?.trim()),
        )
        .with_context(|| format!("cannot make a Debian {}", series.debian))?;
        fs::write(&complete, "")?;
    }
    let copy = work.join(format!("{name}.installed"));
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    run_quietly(Command::new("cp").arg("--archive").arg(&base).arg(&copy))?;
    Ok(copy)
}

fn add_check(root: &Path) -> anyhow::Result<()> {
    let units = root.join("etc/systemd/system");
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    fs::write(units.join("relay-check.service"), CHECK)?;
    symlink("../relay-check.service", wanted.join("relay-check.service"))?;
    // nobody logs in
    symlink("/dev/null", units.join("getty.target"))?;
    Ok(symlink("lib/systemd/systemd", root.join("init"))?)
}

fn write_initramfs(path: &Path, root: &Path, kernel: &Kernel, payload: &Payload) -> anyhow::Result<()> {
    let mut archive = Cpio::new(BufWriter::new(File::create(path)?));
    archive.tree(root, &LARGE)?;
    archive.folder("relay")?;
    archive.program("relay/guest", &payload.read("guest")?)?;
    add_modules(&mut archive, kernel, &MODULES)?;
    Ok(archive.finish()?)
}
