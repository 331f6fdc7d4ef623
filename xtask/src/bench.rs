//! Building and running the benchmark.

use std::process::Command;

use crate::build;
use crate::cargo::{cargo, release_dir, target_dir};
use crate::tools::{need_programs, need_root, run as run_program, say};

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
    if needs_peers(args) {
        // the last for realm's TLS as it is released
        need_programs(&[
            ("haproxy", "haproxy"),
            ("nginx", "nginx-light libnginx-mod-stream"),
            ("cmake", "cmake libclang-dev"),
        ])?;
        build_realm()?;
    }
    let mut bench = Command::new(release_dir().join("bench"));
    bench.args(args);
    need_root("the benchmark makes network namespaces", &bench)?;
    run_program(&mut bench)
}

/// Whether a part is asked for that compares with other programs.
fn needs_peers(args: &[String]) -> bool {
    let mut parts = args.iter().filter(|arg| PARTS.contains(&arg.as_str())).peekable();
    parts.peek().is_none()
        || parts.any(|part| matches!(part.as_str(), "tcp" | "udp" | "memory" | "tunnels" | "families"))
}

const PARTS: [&str; 14] = [
    "packets", "bulk", "programs", "choice", "cost", "tcp", "udp", "memory", "tunnels", "families",
    "failover", "health", "scale", "limits",
];

/// realm's engine from its published crates, which want unstable features of the compiler.
fn build_realm() -> anyhow::Result<()> {
    let folder = target_dir().join("realm");
    if !folder.exists() {
        say("building realm's engine to compare with");
    }
    let manifest = ["--manifest-path", "tests/bench/realm/Cargo.toml"];
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--release", "--locked"]).args(manifest).arg("--target-dir").arg(folder);
    run_program(cargo.env("RUSTC_BOOTSTRAP", "1"))
}
