//! `cargo xtask vm`: Relay on Debian's kernels, each booted under qemu with a static payload and nothing else.

mod apt;
mod cpio;
mod kernel;
mod payload;
mod qemu;
mod systemd;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use self::cpio::Cpio;
use self::kernel::Kernel;
use self::payload::Payload;
use self::qemu::{Boot, Guest};
use crate::cargo::target_dir;
use crate::ebpf;
use crate::tools::{need_programs, print, say};

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Kernels; all of them if none is named
    #[arg(value_parser = ["5.10", "6.1", "6.12"])]
    kernels: Vec<String>,
    /// Install into Debian 11, 12, 13 and run the unit under each one's own systemd, instead of the tests
    #[arg(long)]
    systemd: bool,
    /// Use the processor's virtualisation instead of emulating one
    #[arg(long)]
    kvm: bool,
    /// Show every console, not only of guests that failed
    #[arg(long)]
    console: bool,
}

/// A kernel series and the Debian release that has it.
#[derive(Debug)]
pub struct Series {
    pub kernel: &'static str,
    /// The suite with today's kernel of the series.
    pub kernel_suite: &'static str,
    pub debian: u8,
    pub suite: &'static str,
    /// What tc programs hang on.
    pub tc: &'static str,
    steps: &'static str,
}

const SERIES: [Series; 3] = [
    Series {
        kernel: "5.10",
        kernel_suite: "bullseye-security",
        debian: 11,
        suite: "bullseye",
        tc: "clsact",
        steps: MOST_STEPS,
    },
    Series {
        kernel: "6.1",
        kernel_suite: "bookworm-security",
        debian: 12,
        suite: "bookworm",
        tc: "clsact",
        steps: STEPS,
    },
    Series { kernel: "6.12", kernel_suite: "trixie", debian: 13, suite: "trixie", tc: "tcx", steps: STEPS },
];

/// What the tests and relayd need that Debian builds as modules; nothing in a guest loads them on demand.
const MODULES: [&str; 10] = [
    "veth",
    "dummy",
    "bridge",
    "tun",
    "sch_ingress",
    "sch_fq",
    "cls_bpf",
    "tcp_diag",
    "udp_diag",
    "crc32c_generic",
];

/// Programs and the packages they come in.
const PROGRAMS: [(&str, &str); 4] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("xz", "xz-utils"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")];

/// Steps of a guest: what shows that the programs load, attach, translate and survive there. An emulated processor is
/// slow, and everything else runs on the machine itself.
const STEPS: &str = "\
guest attach
guest paced
packet --test-threads=1 --skip one_of_many_is_swapped --skip after_a_restart --skip random:: --skip translate::lives
netns --test-threads=1 translate::tcp_both_ways lifecycle::programs_that_were_detached ranges::a_program_that
";
/// The oldest kernel's: what its helpers do is what the others' do.
const MOST_STEPS: &str = "\
guest attach
guest paced
packet --test-threads=1 --skip one_of_many_is_swapped --skip after_a_restart
netns --test-threads=1 translate::tcp_both_ways lifecycle::programs_that_were_detached trace:: xdp::both_hooks ranges::sixty_thousand ranges::a_program_that ranges::datagrams_of
";
const LIMIT: Duration = Duration::from_secs(1800);
const MEMORY_MIB: u32 = 1024;

/// How a guest did, in a line.
struct Verdict {
    passed: bool,
    line: String,
    console: Vec<String>,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    need_programs(&PROGRAMS)?;
    if options.systemd {
        need_programs(&[("mmdebstrap", "mmdebstrap"), ("systemd-sysusers", "systemd")])?;
        anyhow::ensure!(nix::unistd::geteuid().is_root(), "making a Debian needs root");
    }
    let chosen: Vec<&Series> = SERIES
        .iter()
        .filter(|series| {
            options.kernels.is_empty() || options.kernels.iter().any(|name| name == series.kernel)
        })
        .collect();
    let work = target_dir().join("vm");
    fs::create_dir_all(&work)?;
    ebpf::build()?;
    let payload = Payload::build()?;
    let kernels: Vec<Kernel> =
        chosen.iter().map(|series| Kernel::fetch(series, &work)).collect::<anyhow::Result<_>>()?;
    let verdicts = side_by_side(chosen.len(), &|index| {
        let (series, kernel) = (chosen[index], &kernels[index]);
        if options.systemd {
            systemd::check(series, kernel, &payload, &work, options.kvm)
        } else {
            check(series, kernel, &payload, &work, options.kvm)
        }
    });
    report(&chosen, verdicts, options.console)
}

/// Does something for each index, as many at once as there are processors.
fn side_by_side<T: Send>(count: usize, work: &(dyn Fn(usize) -> T + Sync)) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from).min(count);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let result = work(index);
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn report(chosen: &[&Series], verdicts: Vec<anyhow::Result<Verdict>>, console: bool) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for (series, verdict) in chosen.iter().zip(verdicts) {
        let verdict = verdict.with_context(|| format!("the guest with kernel {}", series.kernel))?;
        if console || !verdict.passed {
            say(&format!("--- console of kernel {}\n{}", series.kernel, verdict.console.join("\n")));
        }
        if !verdict.passed {
            failed.push(series.kernel);
        }
        print(&verdict.line);
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed on {}", failed.join(", "));
}

/// Boots one guest with the payload.
fn check(
    series: &Series,
    kernel: &Kernel,
    payload: &Payload,
    work: &Path,
    kvm: bool,
) -> anyhow::Result<Verdict> {
    let initramfs = work.join(format!("{}.cpio", series.kernel));
    write_initramfs(&initramfs, series, kernel, payload)?;
    let guest = Guest {
        image: &kernel.image,
        initramfs: &initramfs,
        memory_mib: MEMORY_MIB,
        words: format!("RELAY_TC={}", series.tc),
        kvm,
        limit: LIMIT,
    };
    let boot = guest.boot(&work.join(format!("{}.log", series.kernel)))?;
    let line = summary(series, &boot);
    Ok(Verdict { passed: boot.passed(), line, console: boot.console })
}

/// A root with the payload, the modules and the steps; the guest program is init.
fn write_initramfs(path: &Path, series: &Series, kernel: &Kernel, payload: &Payload) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Cpio::new(BufWriter::new(file));
    archive.folder("relay")?;
    for (name, _) in &payload.programs {
        archive.program(&format!("relay/{name}"), &payload.read(name)?)?;
    }
    archive.program("init", &payload.read("guest")?)?;
    add_modules(&mut archive, kernel, &MODULES)?;
    archive.program("relay/steps", series.steps.as_bytes())?;
    Ok(archive.finish()?)
}

/// Modules, and the list of them that the guest goes by.
fn add_modules(archive: &mut Cpio<impl Write>, kernel: &Kernel, names: &[&str]) -> anyhow::Result<()> {
    let mut list = String::new();
    for module in kernel.modules(names)? {
        archive.program(&format!("relay/{}.ko", module.name), &module.bytes)?;
        list += &format!("{}\n", module.name);
    }
    Ok(archive.program("relay/modules", list.as_bytes())?)
}

fn summary(series: &Series, boot: &Boot) -> String {
    let attached =
        boot.console.iter().any(|line| line.starts_with("step passed") && line.ends_with("guest attach"));
    let counts = boot.console.iter().filter_map(|line| line.strip_prefix("test result: ok. "));
    let tests: u32 = counts.filter_map(|rest| rest.split(' ').next()?.parse::<u32>().ok()).sum();
    let attached = if attached {
        format!("all programs load, {} and native XDP", series.tc)
    } else {
        "not attached".to_owned()
    };
    format!(
        "kernel {} {}: {}; {attached}; {tests} tests passed; {:.0} s",
        series.kernel,
        boot.outcome(),
        boot.release(),
        boot.took.as_secs_f32()
    )
}
