//! The daemon.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use relay::cli::Exit;
use relay::cli::relayd::{Args, dump};
use relay::config::Config;
use relay::{memory, supervisor, telemetry};

fn main() -> ExitCode {
    let args = Args::parse();
    match start(&args) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            let _nowhere_to_say_it = writeln!(std::io::stderr(), "relayd: {error:#}");
            Exit::of(&error).into()
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    let launch = args.launch()?;
    if args.check || args.dump {
        return show(args, &launch.config);
    }
    memory::keep_apart();
    telemetry::start(launch.config.settings.log_level, launch.config.settings.log_format)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(supervisor::run(launch));
    // a resolver that still waits for its name server would hold up the end
    runtime.shutdown_background();
    result
}

/// What `--check` and `--dump` print. A reader that has gone is no failure.
fn show(args: &Args, config: &Config) -> anyhow::Result<()> {
    let text = if args.dump {
        dump(config)
    } else {
        let count = config.rules.len();
        format!("configuration is valid: {count} {}\n", if count == 1 { "rule" } else { "rules" })
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
        _ => Ok(()),
    }
}
