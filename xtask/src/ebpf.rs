//! Building the eBPF objects: stable Rust with build-std, linked by bpf-linker, which is installed on first use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::cargo::{cargo, target_dir};
use crate::root;
use crate::tools::{print, run, run_quietly, say};

/// Later ones want another LLVM than the pinned toolchain's.
const LINKER_VERSION: &str = "0.10.4";
const TARGET: &str = "bpfel-unknown-none";
/// Objects and whether they are part of Relay or of its lab.
const OBJECTS: [&str; 3] = ["relay", "clock", "lab"];

/// Builds all objects into `target/ebpf`; returns them.
pub fn build() -> anyhow::Result<Vec<PathBuf>> {
    let build_dir = target_dir().join("ebpf-build");
    run(&mut cargo_for_bpf("build", &build_dir)?)?;
    let folder = object_dir();
    fs::create_dir_all(&folder)?;
    OBJECTS
        .iter()
        .map(|name| install(&build_dir.join(TARGET).join("release").join(name), &folder, name))
        .collect()
}

/// Where the objects are.
pub fn object_dir() -> PathBuf {
    target_dir().join("ebpf")
}

/// A cargo command for relay-ebpf, with all it takes to compile for the BPF target.
pub fn cargo_for_bpf(command: &str, build_dir: &Path) -> anyhow::Result<Command> {
    need_rust_src()?;
    let linker = need_linker()?;
    let flags = [
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // in order, every memset and memcpy becomes a call that goes byte by byte
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // no path of the building machine in the object
        format!("--remap-path-prefix={}=.", root().display()),
    ];
    let mut cargo = cargo();
    cargo
        .args([command, "--quiet", "--release", "--package", "relay-ebpf", "--target", TARGET])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(build_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        // it would cut the programs into other pieces, which take more of the stack than there is
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        // in other units of code functions take other shares of the stack, of which there is no more
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(cargo)
}

/// Puts an object in its place. One that has not changed is not touched, so that nothing is built again for it.
fn install(built: &Path, folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    let path = folder.join(format!("{name}.o"));
    if fs::read(&path).ok().as_ref() != Some(&bytes) {
        fs::write(&path, bytes)?;
    }
    Ok(path)
}

fn need_rust_src() -> anyhow::Result<()> {
    let sysroot = run_quietly(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    if Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(());
    }
    say("installing the rust-src component");
    run_quietly(Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(root()))
        .map(drop)
        .context("the eBPF programs need rust-src, and rustup could not install it")
}

/// The linker, installed into the target folder if it is not there.
fn need_linker() -> anyhow::Result<PathBuf> {
    let tools = target_dir().join("tools");
    let linker = tools.join("bin/bpf-linker");
    if is_right_version(&linker) {
        return Ok(linker);
    }
    say(&format!("installing bpf-linker {LINKER_VERSION} into {} (some minutes, once)", tools.display()));
    run_quietly(
        cargo()
            .args(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION, "--root"])
            .arg(&tools)
            .env_remove("RUSTFLAGS"),
    )?;
    if !is_right_version(&linker) {
        bail!("{} was installed but does not run", linker.display());
    }
    Ok(linker)
}

fn is_right_version(linker: &Path) -> bool {
    let output = Command::new(linker).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(LINKER_VERSION))
}

/// Prints every program with its number of instructions, subprograms included.
pub fn print_sizes(objects: &[PathBuf]) {
    for path in objects {
        match sizes(path) {
            Ok(programs) => {
                for (name, instructions) in programs {
                    print(&format!("{name:<16} {instructions:>6} instructions  {}", path.display()));
                }
            }
            Err(error) => say(&format!("{}: {error:#}", path.display())),
        }
    }
}

fn sizes(path: &Path) -> anyhow::Result<Vec<(String, usize)>> {
    let bytes = fs::read(path)?;
    let mut object = aya_obj::Object::parse(&bytes)?;
    let text: std::collections::HashSet<usize> =
        object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&text)?;
    let mut sizes: Vec<(String, usize)> = object
        .programs
        .iter()
        .map(|(name, program)| (name.clone(), object.functions[&program.function_key()].instructions.len()))
        .collect();
    sizes.sort();
    Ok(sizes)
}
