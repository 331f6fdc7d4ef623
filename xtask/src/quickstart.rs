//! `cargo xtask run`: everything built, then Relay at work.

use std::process::Command;

use crate::build;
use crate::cargo::release_dir;
use crate::tools::{become_program, is_root, say, sudo_line};

/// What relayd does without touching the host.
const HARMLESS: [&str; 8] = ["-t", "--check", "-T", "--dump", "-h", "--help", "-V", "--version"];

/// Without arguments the quickstart, with arguments relayd. Both run as the caller, with the line for root.
pub fn run(args: &[String]) -> anyhow::Result<()> {
    build::release()?;
    if args.is_empty() {
        build::quickstart()?;
        return become_program(&mut Command::new(release_dir().join("quickstart")));
    }
    let mut relayd = Command::new(release_dir().join("relayd"));
    relayd.args(args);
    if !is_root() && !args.iter().any(|arg| HARMLESS.contains(&arg.as_str())) {
        say(&format!("relayd needs root to forward in the kernel; as root:\n\n  {}\n", sudo_line(&relayd)));
    }
    become_program(&mut relayd)
}
