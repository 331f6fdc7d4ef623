//! Building and running the benchmark.

use std::process::Command;

use crate::build;
use crate::cargo::{cargo, release_dir};
use crate::tools::{need_root, run as run_program};

pub fn run(args: &[String]) -> anyhow::Result<()> {
    build::release()?;
    run_program(cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "relay-tests",
        "--bin",
        "bench",
    ]))?;
    let mut bench = Command::new(release_dir().join("bench"));
    bench.args(args);
    need_root("the benchmark makes network namespaces", &bench)?;
    run_program(&mut bench)
}
