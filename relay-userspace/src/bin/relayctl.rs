//! The command that operators type.

use std::process::ExitCode;

use clap::Parser as _;
use relay::cli::{Exit, args::Cli, commands};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match commands::run(cli).await {
        Ok(exit) => exit.into(),
        Err(error) => {
            commands::report(&error);
            Exit::of(&error).into()
        }
    }
}
