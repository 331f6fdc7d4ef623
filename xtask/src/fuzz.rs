//! Feeding what reads strangers' bytes with what is nearly right, for as long as somebody likes.

use crate::cargo::cargo;
use crate::tools::run as run_program;

/// Runs each reader for so many seconds. What fails says its seed, which `RELAY_FUZZ_SEED` takes.
pub fn run(seconds: u64) -> anyhow::Result<()> {
    let mut fuzz = cargo();
    fuzz.args(["test", "--quiet", "--release", "--package", "relay-userspace", "--lib", "fuzz::"]);
    run_program(fuzz.env("RELAY_FUZZ_SECONDS", seconds.to_string()))
}
