//! Calling cargo, and where it puts things.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::root;

/// The cargo that runs us, in the root of the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The target folder.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// Where `relayd` and `relayctl` end up.
pub fn release_dir() -> PathBuf {
    target_dir().join("release")
}
