//! Namespaces for one run, which end with it whatever ends it: nothing is left behind, not even after kill -9.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, exit};
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};

use crate::say;

/// What the second process is told to do.
pub const SHOW: &str = "--show";
pub const SHOW_LIMITED: &str = "--show-limited";

/// relayd's log, for when something fails.
pub static LOG: OnceLock<PathBuf> = OnceLock::new();

/// Lines of the log that a failure shows.
const LOG_LINES: usize = 12;

/// Namespaces that the next process will be born into.
pub struct Stage {
    /// This program.
    own: PathBuf,
    /// A folder that only they see.
    folder: PathBuf,
}

impl Stage {
    /// New namespaces, for root.
    pub fn raise() -> io::Result<Self> {
        let own = std::env::current_exe()?;
        // the network namespace is not used, but where it cannot be had, those of the show cannot either
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let folder = folder_without(&own);
        mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        Ok(Self { own, folder })
    }

    /// The same within a user namespace, whose root the caller is.
    pub fn raise_as_user() -> io::Result<Self> {
        let (user, group) = (geteuid(), getegid());
        unshare(CloneFlags::CLONE_NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
        Self::raise()
    }

    /// Starts this program again on the stage; returns how it went. As the first process of its namespace it takes
    /// everything that it has started with it when it ends.
    pub fn play(&self, part: &str) -> io::Result<ExitCode> {
        let status = Command::new(&self.own).arg(part).env("TMPDIR", &self.folder).status()?;
        if let Some(signal) = status.signal() {
            say::problem(&format!("the quickstart was ended by signal {signal}"));
        }
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
    }
}

/// A folder to hide under an empty one: any that the programs are not in.
fn folder_without(program: &Path) -> PathBuf {
    let folder = if program.starts_with("/run") { "/tmp" } else { "/run" };
    folder.into()
}

/// To be called first by the second process: it ends with the first, and any failure is reported and ends it.
pub fn enter() {
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        say::problem(&format!("cannot tie this process to its parent: {error}"));
        exit(1);
    }
    panic::set_hook(Box::new(|failure| {
        let what = failure.payload_as_str().unwrap_or("something went wrong");
        let at =
            failure.location().map(|at| format!("\n(at {}:{})", at.file(), at.line())).unwrap_or_default();
        fail(&format!("{what}{at}"));
    }));
}

/// Says what failed, shows the end of relayd's log, and ends the run.
pub fn fail(what: &str) -> ! {
    let log = LOG.get().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let mut text = format!("the quickstart failed: {what}");
    if !lines.is_empty() {
        text += "\n\nrelayd's log ends with:\n  ";
        text += &lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
    }
    say::problem(&text);
    exit(1);
}
