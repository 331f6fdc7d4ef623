//! Puts the eBPF objects where `include_bytes!` finds them: those that `cargo xtask build-ebpf` has left in the target
//! folder, or empty ones, so that plain `cargo build` works without a BPF toolchain.

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-env-changed=RELAY_EBPF_DIR");
    // OUT_DIR is target[/triple]/profile/build/package-hash/out; xtask says where the objects are, else look there
    let objects = match env::var_os("RELAY_EBPF_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => match out.ancestors().find(|folder| folder.join("ebpf").is_dir()) {
            Some(target) => target.join("ebpf"),
            None => PathBuf::from("/nonexistent"),
        },
    };
    for name in ["relay.o", "clock.o"] {
        let object = objects.join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        let bytes = fs::read(&object).unwrap_or_default();
        fs::write(out.join(name), bytes).expect("OUT_DIR is writable");
    }
}
