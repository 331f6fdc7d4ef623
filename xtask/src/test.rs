//! The tests, in rings: units, packets through the programs, namespaces with real traffic.

mod again;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::cargo::{cargo, target_dir};
use crate::tools::{run as run_program, say};
use crate::{ebpf, peers, root};

/// Rings that need root.
const RINGS: [&str; 3] = ["packet", "cli", "netns"];
/// The one whose tests do not depend on how fast the machine is.
const TIMELESS: &str = "packet";

/// Runs the tests. `quick`: the first two rings.
pub fn run(quick: bool, filter: Option<&str>) -> anyhow::Result<()> {
    ebpf::build()?;
    let filter: Vec<&str> = filter.into_iter().collect();
    say("ring 1: units");
    // relayd and relayctl have no units: theirs are the library's
    run_program(cargo().args(["test", "--quiet", "--lib", "--bin", "xtask"]).args(&filter))?;
    build_programs()?;
    let rings: &[&str] = if quick { &RINGS[..1] } else { &RINGS };
    let programs = built_rings(rings)?;
    if !quick {
        peers::build()?;
    }
    if !nix::unistd::geteuid().is_root() {
        return not_root(rings, &programs);
    }
    let mut failed = Vec::new();
    for (ring, program) in rings.iter().zip(&programs) {
        say(&format!("ring: {ring}"));
        let result = if *ring == TIMELESS {
            run_program(Command::new(program).args(&filter).current_dir(root()))
        } else {
            again::run(program, &filter)
        };
        // the next ring may say more about it
        failed.extend(result.err().map(|error| format!("ring {ring}: {error:#}")));
    }
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Builds what the rings run. With their package named, too, dependencies have the features that they want, and nothing
/// is built twice.
fn build_programs() -> anyhow::Result<()> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "relay-userspace", "--package", "relay-tests"]);
    run_program(build.args(["--bin", "relayd", "--bin", "relayctl"]))
}

/// Builds the test programs of the rings; returns their paths.
fn built_rings(rings: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut build = cargo();
    build.args(["test", "--no-run", "--quiet", "--package", "relay-tests", "--message-format=json"]);
    for ring in rings {
        build.args(["--test", ring]);
    }
    let output = build.stderr(std::process::Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let folder = target_dir().join("debug/deps");
    rings
        .iter()
        .map(|ring| {
            executable(&text, &folder.join(ring)).with_context(|| format!("cargo built no {ring} test"))
        })
        .collect()
}

/// The path of a test program among cargo's messages, by how it begins.
pub fn executable(messages: &str, beginning: &Path) -> Option<PathBuf> {
    let prefix = beginning.display().to_string();
    messages.lines().find_map(|line| {
        let path = line.split("\"executable\":\"").nth(1)?.split('"').next()?;
        (path.starts_with(&format!("{prefix}-")) && fs::metadata(path).is_ok()).then(|| path.into())
    })
}

/// In CI a missing right is a failure; elsewhere what was left out is said aloud.
fn not_root(rings: &[&str], programs: &[PathBuf]) -> anyhow::Result<()> {
    let lines: Vec<String> = programs.iter().map(|program| format!("  sudo {}", program.display())).collect();
    let text = format!("not run, since they need root: {}\n{}", rings.join(", "), lines.join("\n"));
    if std::env::var_os("CI").is_some() {
        bail!("{text}");
    }
    say(&text);
    Ok(())
}
