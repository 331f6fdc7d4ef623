//! What runs in a guest: Relay and its tests as static programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::cargo::{cargo, target_dir};
use crate::root;
use crate::test::executable;
use crate::tools::{output_of, run_quietly, say};

const TARGET: &str = "x86_64-unknown-linux-musl";
const PROFILE: &str = "guest";
const PROGRAMS: [&str; 3] = ["relayd", "relayctl", "guest"];
const RINGS: [&str; 2] = ["packet", "netns"];

/// Programs by the names they have in the guest.
pub struct Payload {
    pub programs: Vec<(&'static str, PathBuf)>,
}

impl Payload {
    /// Builds all of it at once, so that what they share is built once.
    pub fn build() -> anyhow::Result<Self> {
        need_target()?;
        let mut build = cargo();
        build.args(["build", "--quiet", "--profile", PROFILE, "--target", TARGET, "--message-format=json"]);
        build.args(["--package", "relay-userspace", "--package", "relay-tests"]);
        build.args(PROGRAMS.iter().flat_map(|name| ["--bin", name]));
        build.args(RINGS.iter().flat_map(|name| ["--test", name]));
        // what the C of aws-lc and SQLite calls, musl has too: its own compiler is not needed. Some hosts' compilers turn
        // calls into glibc's checked ones unless they are told not to, and glibc's headers turn SQLite's file calls into its
        // own `open64` and the like, which on 64 bits are the plain ones
        build.env("CC_x86_64_unknown_linux_musl", "cc");
        build.env("CFLAGS_x86_64_unknown_linux_musl", "-U_FORTIFY_SOURCE -DSQLITE_DISABLE_LFS");
        let messages = String::from_utf8_lossy(&output_of(&mut build)?).into_owned();
        let folder = Self::folder();
        let mut programs: Vec<_> = PROGRAMS.iter().map(|name| (*name, folder.join(name))).collect();
        for ring in RINGS {
            let path = executable(&messages, &folder.join("deps").join(ring));
            programs.push((ring, path.with_context(|| format!("cargo built no {ring} test"))?));
        }
        Ok(Self { programs })
    }

    /// The bytes of one program.
    pub fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.programs.iter().find(|(known, _)| *known == name).map(|(_, path)| path);
        let path = path.with_context(|| format!("the payload has no {name}"))?;
        fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Where cargo puts the programs.
    pub fn folder() -> PathBuf {
        target_dir().join(TARGET).join(PROFILE)
    }
}

fn need_target() -> anyhow::Result<()> {
    let libraries = run_quietly(
        Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).current_dir(root()),
    )?;
    if fs::read_dir(Path::new(libraries.trim())).is_ok_and(|mut files| files.next().is_some()) {
        return Ok(());
    }
    say(&format!("installing the target {TARGET}"));
    run_quietly(Command::new("rustup").args(["target", "add", TARGET]).current_dir(root()))
        .map(drop)
        .with_context(|| format!("the guests need {TARGET}, and rustup could not install it"))
}
