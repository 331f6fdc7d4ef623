//! Development tasks: building the eBPF objects, the binaries, running the quickstart, the tests, the benchmark.

mod build;
mod cargo;
mod ebpf;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Relay's development tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the eBPF objects and print each program with its size
    BuildEbpf,
    /// Build everything: the objects, then relayd and relayctl in target/release
    Build,
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::BuildEbpf => ebpf::build().map(|objects| ebpf::print_sizes(&objects)),
        Task::Build => build::release(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tools::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}
