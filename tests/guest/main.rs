//! The first process of a virtual machine: makes it habitable, runs the steps that it finds in a file, and says in its
//! last line whether all of them passed.

mod attach;
mod paced;
mod systemd;

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, ExitStatus};
use std::time::Instant;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

/// Programs, modules and lists.
const FOLDER: &str = "/relay";
/// How many times slower than a machine an emulated one is, at most.
const SLOWNESS: &str = "10";
/// Packets that the packet ring makes up; on the machine itself it makes a million.
const RANDOM_PACKETS: &str = "20000";
/// What `cargo xtask vm` looks for; printed in one place only.
const PASSED: &str = "relay guest: every step passed";

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("attach") => attach::check(),
        Some("paced") => paced::check(),
        // a unit of the guest's systemd
        Some("systemd") => {
            load_modules().expect("modules");
            systemd::check();
            say(PASSED);
        }
        _ => init(),
    }
}

fn init() {
    let passed = match prepare() {
        Ok(()) => steps(),
        Err(error) => {
            say(&format!("the guest cannot be prepared: {error}"));
            false
        }
    };
    if passed {
        say(PASSED);
    }
    let _never_returns = reboot(RebootMode::RB_POWER_OFF);
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _no_console = writeln!(out, "{text}");
    let _no_console = out.flush();
}

/// Filesystems, names, modules.
fn prepare() -> std::io::Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("bpf", "/sys/fs/bpf"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        fs::create_dir_all(place)?;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    fs::create_dir_all("/etc")?;
    fs::write("/etc/hosts", "127.0.0.1 localhost\n")?;
    load_modules()
}

fn load_modules() -> std::io::Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    // firmware and kernel leave the line begun
    say(&format!("\nkernel {}", release.trim()));
    let modules = fs::read_to_string(format!("{FOLDER}/modules"))?;
    for name in modules.lines() {
        let file = File::open(format!("{FOLDER}/{name}.ko"))?;
        match finit_module(file, <&CStr>::default(), ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(std::io::Error::other(format!("module {name}: {error}"))),
        }
    }
    Ok(())
}

/// Runs every step, also after one that failed. A step is a line: a program of the folder and its arguments.
fn steps() -> bool {
    let Ok(steps) = fs::read_to_string(format!("{FOLDER}/steps")) else { return false };
    let mut passed = 0;
    let all = steps.lines().count();
    for step in steps.lines() {
        let start = Instant::now();
        let ended = run(step);
        let seconds = start.elapsed().as_secs_f32();
        match ended {
            Ok(status) if status.success() => {
                passed += 1;
                say(&format!("step passed ({seconds:.1} s): {step}"));
            }
            Ok(status) => say(&format!("step FAILED ({status}): {step}")),
            Err(error) => say(&format!("step FAILED ({error}): {step}")),
        }
    }
    all > 0 && passed == all
}

fn run(step: &str) -> std::io::Result<ExitStatus> {
    let mut words = step.split_whitespace();
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(format!("{FOLDER}/{program}"));
    command.args(words).current_dir("/tmp").env("RELAY_BIN_DIR", FOLDER);
    command.env("RELAY_SLOWNESS", SLOWNESS).env("RELAY_PACKETS", RANDOM_PACKETS);
    command.status()
}
