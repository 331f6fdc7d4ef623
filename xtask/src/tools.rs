//! Running other programs, and saying what happens.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
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

/// What a program prints, as bytes.
pub fn output_of(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({})", output.status);
    }
    Ok(output.stdout)
}

/// Fails with the packages to install if programs are missing.
pub fn need_programs(programs: &[(&str, &str)]) -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| {
        std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
            .any(|folder| folder.join(name).exists())
    };
    let missing: Vec<_> = programs.iter().filter(|(name, _)| !is_there(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    bail!(
        "not installed: {}; type\n  apt-get install --no-install-recommends {}",
        names.join(", "),
        packages.join(" ")
    );
}

/// Goes on as another program, which then gets the signals and gives the exit code.
pub fn become_program(command: &mut Command) -> anyhow::Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {command:?}"))
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Fails with the line to type if we are not root. Cargo itself is never run as root.
pub fn need_root(why: &str, command: &Command) -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!("{why}, which needs root. Everything is built; run:\n  {}", sudo_line(command));
}

/// What to type to run a built program as root.
pub fn sudo_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    format!("sudo {}", words.join(" "))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,%+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_root_can_be_pasted() {
        let mut command = Command::new("target/release/relayd");
        command.args(["-l", ":80", "-r", "[2001:db8::1]:80", "it's"]);
        assert_eq!(sudo_line(&command), "sudo target/release/relayd -l :80 -r '[2001:db8::1]:80' 'it'\\''s'");
    }
}
