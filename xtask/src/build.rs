//! Building what users run.

use crate::cargo::{cargo, release_dir};
use crate::ebpf;
use crate::tools::{run, say};

/// The objects, then relayd and relayctl with the objects inside.
pub fn release() -> anyhow::Result<()> {
    ebpf::build()?;
    run(cargo().args(["build", "--quiet", "--release", "--package", "relay-userspace"]))?;
    let folder = release_dir();
    say(&format!("built {0}/relayd and {0}/relayctl", folder.display()));
    Ok(())
}
