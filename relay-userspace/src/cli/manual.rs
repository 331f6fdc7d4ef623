//! Man pages, made from the same definitions that parse the arguments.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use super::args::Cli;
use super::relayd::Args;

const FILE_FORMAT: &str = include_str!("../../packaging/relay.toml.5");

/// Writes every page into a folder.
pub fn write_all(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    write(folder, "relayd.8", &page(Args::command(), "8")?)?;
    write(folder, "relay.toml.5", FILE_FORMAT.as_bytes())?;
    clap_mangen::generate_to(Cli::command(), folder).context("cannot write the pages of relayctl")
}

fn page(command: Command, section: &str) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command).section(section).render(&mut text).context("cannot make a man page")?;
    Ok(text)
}

fn write(folder: &Path, name: &str, text: &[u8]) -> anyhow::Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
