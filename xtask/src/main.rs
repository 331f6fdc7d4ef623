//! Development tasks: building the eBPF objects and the binaries, installing them, the quickstart, the tests, the benchmark.

mod bench;
mod build;
mod cargo;
mod ebpf;
mod fuzz;
mod install;
mod lint;
mod peers;
mod quickstart;
mod test;
mod tidy;
mod tools;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Relay's development tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
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
    /// Show Relay at work in network namespaces; with arguments, run relayd with them
    Run {
        /// Arguments for relayd
        #[arg(last = true)]
        relayd: Vec<String>,
    },
    /// Build everything and install it: programs, systemd units, user, man pages, completions
    Install(install::Options),
    /// Run the tests: units, packets, namespaces
    Test {
        /// Only what is fast: units and packets
        #[arg(long)]
        quick: bool,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Run Relay on older kernels under qemu: cargo xtask vm [5.10|6.1|6.12]...
    Vm(vm::Options),
    /// Feed what reads frames, heads, records, headers and files with what is nearly right
    Fuzz {
        /// For how long, each
        #[arg(default_value_t = 60)]
        seconds: u64,
    },
    /// Check formatting, lints and the shape of the tree
    Lint,
    /// Measure Relay beside what users run today: cargo xtask bench -- [--rounds N] [PART...]
    Bench {
        /// Arguments for the benchmark
        #[arg(last = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::BuildEbpf => ebpf::build().map(|objects| ebpf::print_sizes(&objects)),
        Task::Build => build::release(),
        Task::Run { relayd } => quickstart::run(&relayd),
        Task::Install(options) => install::run(&options),
        Task::Test { quick, filter } => test::run(quick, filter.as_deref()),
        Task::Vm(options) => vm::run(&options),
        Task::Fuzz { seconds } => fuzz::run(seconds),
        Task::Lint => lint::run(),
        Task::Bench { args } => bench::run(&args),
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
