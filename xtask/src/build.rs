//! Building what users run.

use crate::cargo::{cargo, release_dir};
use crate::ebpf;
use crate::tools::{run, say};

/// The objects, then relayd and relayctl with the objects inside.
pub fn release() -> anyhow::Result<()> {
    if !ebpf::object_dir().is_dir() {
        say("building the eBPF programs");
    }
    ebpf::build()?;
    build("relayd", &["--package", "relay-userspace"])?;
    let folder = release_dir();
    say(&format!("built {0}/relayd and {0}/relayctl", folder.display()));
    Ok(())
}

/// The program that shows Relay at work.
pub fn quickstart() -> anyhow::Result<()> {
    build("quickstart", &["--package", "relay-tests", "--bin", "quickstart"])
}

/// Builds for release. Cargo shows its progress when it is the first time and takes minutes.
fn build(program: &str, what: &[&str]) -> anyhow::Result<()> {
    let mut cargo = cargo();
    cargo.args(["build", "--release"]).args(what);
    if release_dir().join(program).exists() {
        cargo.arg("--quiet");
    } else {
        say(&format!("building {program}, which takes a few minutes the first time"));
    }
    run(&mut cargo)
}
