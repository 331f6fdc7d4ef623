//! One boot of a guest: its console, read until it ends or its time is up.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

const QEMU: &str = "qemu-system-x86_64";
/// QEMU 7.2's cmpxchg16b corrupts registers now and then; without it kernels use something else.
const EMULATED_PROCESSOR: &str = "max,-cx16";

/// An instruction takes a nanosecond of the guest's time, and waiting takes none of ours: nothing in a guest depends on
/// how busy this machine is.
const CLOCK: &str = "shift=0,sleep=off";

/// A guest's last words if all went well; it has no other line like this.
const PASSED: &str = "relay guest: every step passed";

/// What to boot.
pub struct Guest<'a> {
    pub image: &'a Path,
    pub initramfs: &'a Path,
    pub memory_mib: u32,
    /// Further words for the kernel; those of the form NAME=value end up in the environment of init.
    pub words: String,
    pub kvm: bool,
    pub limit: Duration,
}

/// How it went.
pub struct Boot {
    pub console: Vec<String>,
    pub took: Duration,
    pub in_time: bool,
}

impl Boot {
    /// Whether the guest came to its end and every step before had passed.
    pub fn passed(&self) -> bool {
        self.in_time && self.console.iter().any(|line| line == PASSED)
    }

    pub fn outcome(&self) -> &'static str {
        match (self.passed(), self.in_time) {
            (true, _) => "passed",
            (false, true) => "FAILED",
            (false, false) => "FAILED (not done in time)",
        }
    }

    /// The kernel, as it calls itself.
    pub fn release(&self) -> &str {
        self.console.iter().find_map(|line| line.strip_prefix("kernel ")).unwrap_or("never started")
    }
}

impl Guest<'_> {
    /// Boots it and waits for its end. The console goes into a file too, with the time of each line.
    pub fn boot(&self, log: &Path) -> anyhow::Result<Boot> {
        let start = Instant::now();
        let mut child = self.command().spawn().with_context(|| {
            format!("cannot start {QEMU}: apt-get install --no-install-recommends qemu-system-x86")
        })?;
        let lines = lines_of(&mut child).context("qemu has no output")?;
        let mut file = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut console = Vec::new();
        let in_time = loop {
            match lines.recv_timeout(self.limit.saturating_sub(start.elapsed())) {
                Ok(line) => {
                    writeln!(file, "{:7.2} {line}", start.elapsed().as_secs_f32())?;
                    console.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => {
                    child.kill()?;
                    break false;
                }
            }
        };
        child.wait()?;
        Ok(Boot { console, took: start.elapsed(), in_time })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(QEMU);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-nic", "none"]);
        command.args(["-serial", "stdio", "-monitor", "none", "-smp", "1"]);
        command.args(["-m", &self.memory_mib.to_string()]);
        if self.kvm {
            command.args(["-accel", "kvm", "-cpu", "host"]);
        } else {
            command.args(["-accel", "tcg,thread=single", "-cpu", EMULATED_PROCESSOR, "-icount", CLOCK]);
        }
        command.arg("-kernel").arg(self.image).arg("-initrd").arg(self.initramfs);
        let words = "console=ttyS0 panic=-1 oops=panic quiet mitigations=off tsc=unstable nowatchdog";
        command.args(["-append", &format!("{words} {}", self.words)]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command
    }
}

/// The lines of a guest's console, as they come.
fn lines_of(child: &mut Child) -> Option<mpsc::Receiver<String>> {
    let mut output = BufReader::new(child.stdout.take()?);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    Some(receiver)
}
