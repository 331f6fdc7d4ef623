//! The daemon.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use relay::cli::Exit;
use relay::cli::relayd::{Args, dump};
use relay::config::Problems;
use relay::{supervisor, telemetry};

fn main() -> ExitCode {
    let args = Args::parse();
    match start(&args) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            let _nowhere_to_say_it = writeln!(std::io::stderr(), "relayd: {error:#}");
            if error.is::<Problems>() { Exit::Invalid.into() } else { Exit::Failed.into() }
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    let launch = args.launch()?;
    if args.check || args.dump {
        let mut out = std::io::stdout().lock();
        if args.dump {
            out.write_all(dump(&launch.config).as_bytes())?;
        } else {
            writeln!(out, "configuration is valid: {} rules", launch.config.rules.len())?;
        }
        return Ok(());
    }
    telemetry::start(launch.config.settings.log_level, launch.config.settings.log_format)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(supervisor::run(launch))
}
