//! Running other programs, and saying what happens.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Says something to whoever runs the task.
pub fn say(text: &str) {
    let _nowhere_to_say_it = writeln!(std::io::stderr(), "{text}");
}

/// Prints a result.
pub fn print(text: &str) {
    let _nowhere_to_print = writeln!(std::io::stdout(), "{text}");
}

/// Runs a program to its end; fails if it does.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

/// Runs a program quietly; shows what it said only if it fails.
pub fn run_quietly(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        say(&String::from_utf8_lossy(&output.stdout));
        say(&String::from_utf8_lossy(&output.stderr));
        bail!("{command:?} failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fails with the line to type if we are not root. Cargo itself is never run as root.
pub fn need_root(why: &str, command: &Command) -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    let program = command.get_program().to_string_lossy();
    bail!("{why}, which needs root. Everything is built; run:\n  sudo {program} {}", args.join(" "));
}
