//! Formatting, lints and the shape of the tree.

use crate::cargo::{cargo, target_dir};
use crate::tools::{run_quietly, say};
use crate::{ebpf, root};

pub fn run() -> anyhow::Result<()> {
    run_quietly(cargo().args(["fmt", "--all", "--check"]))?;
    ebpf::build()?;
    let hosted = ["clippy", "--quiet", "--workspace", "--exclude", "relay-ebpf", "--all-targets"];
    run_quietly(cargo().args(hosted).args(["--", "-D", "warnings"]))?;
    run_quietly(
        ebpf::cargo_for_bpf("clippy", &target_dir().join("ebpf-build"))?.args(["--", "-D", "warnings"]),
    )?;
    crate::tidy::check(&root())?;
    say("formatting, lints and layers are in order");
    Ok(())
}
