//! What the tests talk to that no distribution has: kaminari's programs, built once from their published crate.

use std::fs;

use crate::cargo::{cargo, target_dir};
use crate::tools::{run_quietly, say};

/// realm's tunnels by themselves.
const KAMINARI: (&str, &str) = ("kaminari-cmd", "0.6.1");

/// Builds it if it is not there. It wants unstable features of the compiler, and with its usual provider of cryptography
/// libclang, too. The rustls of its own lock file sends empty OCSP responses, which later ones refuse.
pub fn build() -> anyhow::Result<()> {
    let (name, version) = KAMINARI;
    let folder = target_dir().join("tools/kaminari");
    let installed = fs::read_to_string(folder.join(".crates.toml")).unwrap_or_default();
    if installed.contains(&format!("\"{name} {version} ")) {
        return Ok(());
    }
    say(&format!("building {name} {version} to test with (a minute, once)"));
    let mut cargo = cargo();
    cargo.args(["install", name, "--version", version]);
    cargo.args(["--no-default-features", "--features", "tls-ring", "--root"]).arg(&folder);
    run_quietly(cargo.env_remove("RUSTFLAGS").env("RUSTC_BOOTSTRAP", "1")).map(drop)
}
