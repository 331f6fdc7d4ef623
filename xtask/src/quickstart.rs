//! `cargo xtask run`: everything built, then Relay at work.

use std::process::Command;

use crate::build;
use crate::cargo::{cargo, release_dir};
use crate::tools::run as run_program;

/// Without arguments the quickstart, with arguments relayd.
pub fn run(relayd: &[String]) -> anyhow::Result<()> {
    build::release()?;
    if !relayd.is_empty() {
        return run_program(Command::new(release_dir().join("relayd")).args(relayd));
    }
    run_program(cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "relay-tests",
        "--bin",
        "quickstart",
    ]))?;
    run_program(&mut Command::new(release_dir().join("quickstart")))
}
