//! The shape of the tree: what may know what, and how long a file may be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;

/// Lines of a file, its tests not counted.
const MOST_LINES: usize = 500;

/// Words that only stand where they belong: the word, the folder it is looked for in, the places it may stand.
const LAYERS: &[(&str, &str, &[&str])] = &[
    ("use aya", "relay-userspace/src", &["kernel.rs", "kernel/"]),
    ("aya::", "relay-userspace/src", &["kernel.rs", "kernel/"]),
    ("rtnetlink::", "relay-userspace/src", &["net.rs", "net/", "supervisor/facts.rs"]),
    (
        "use tokio",
        "relay-userspace/src",
        &[
            "accounting/lock.rs",
            "alert/courier.rs",
            "alert/desk.rs",
            "alert/http.rs",
            "alert/outbox.rs",
            "api",
            "cli",
            "health/prober",
            "kernel/ended.rs",
            "kernel/observed.rs",
            "kernel/trace.rs",
            "net/",
            "observe",
            "proxy",
            "supervisor",
            "bin/",
        ],
    ),
    ("#[derive(Deserialize", "relay-userspace/src", &["api/"]),
    ("crate::kernel", "relay-userspace/src/net", &[]),
    ("crate::kernel", "relay-userspace/src/config", &[]),
    ("crate::kernel", "relay-userspace/src/plan", &[]),
    ("crate::kernel", "relay-userspace/src/host.rs", &[]),
    ("crate::api", "relay-userspace/src/kernel", &[]),
    ("crate::kernel", "relay-userspace/src/proxy", &[]),
    ("crate::supervisor", "relay-userspace/src/proxy", &[]),
    ("crate::api", "relay-userspace/src/proxy", &[]),
    ("crate::supervisor", "relay-userspace/src/plan", &[]),
    ("crate::kernel", "relay-userspace/src/health", &[]),
    ("crate::supervisor", "relay-userspace/src/health", &[]),
    ("crate::api", "relay-userspace/src/health", &[]),
    ("crate::proxy", "relay-userspace/src/health", &["probe"]),
    ("crate::net", "relay-userspace/src/health", &["probe"]),
    ("Instant::now", "relay-userspace/src/health/judge.rs", &[]),
    ("Instant::now", "relay-userspace/src/health/tiers.rs", &[]),
    ("Instant::now", "relay-userspace/src/health/weigh.rs", &[]),
    ("crate::kernel", "relay-userspace/src/alert", &[]),
    ("crate::supervisor", "relay-userspace/src/alert", &[]),
    ("crate::net", "relay-userspace/src/alert", &[]),
    ("crate::kernel", "relay-userspace/src/balance", &[]),
    ("crate::proxy", "relay-userspace/src/balance", &[]),
    ("crate::health", "relay-userspace/src/balance", &[]),
    ("crate::supervisor", "relay-userspace/src/balance", &[]),
    ("axum::", "relay-userspace/src", &["api/"]),
    ("crate::net", "relay-userspace/src/kernel", &[]),
    ("crate::supervisor", "relay-userspace/src/kernel", &[]),
    ("crate::supervisor", "relay-userspace/src/net", &[]),
    ("unsafe impl aya::Pod", "relay-common/src", &["pod.rs"]),
    ("as *mut", "relay-ebpf/src", &["packet.rs", "bin/"]),
];

/// Fails with every rule that is broken.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for folder in ["relay-common", "relay-ebpf", "relay-userspace", "tests", "xtask"] {
        for file in rust_files(&root.join(folder)) {
            let text = fs::read_to_string(&file)?;
            let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            if !text.starts_with("//! ") {
                broken.push(format!("{shown}: the first line does not say what the file is for"));
            }
            let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or("").lines().count();
            if code > MOST_LINES {
                broken.push(format!("{shown}: {code} lines; would it be clearer as two files?"));
            }
            for (word, under, allowed) in LAYERS {
                let Some(inside) = shown.strip_prefix(under).map(|rest| rest.trim_start_matches('/')) else {
                    continue;
                };
                if text.contains(word) && !allowed.iter().any(|place| inside.starts_with(place)) {
                    broken.push(format!("{shown}: `{word}` does not belong here"));
                }
            }
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{}", broken.join("\n"));
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
