//! Making and counting packets in the kernel: a socket would be the bottleneck.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::TestRunAttrs;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::xdp::XdpMode;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, TestRun as _, Xdp};
use aya::{Ebpf, EbpfLoader, TestRunOptions, VerifierLogLevel};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use relay_common::lab::Recipe;

use crate::netns::NetNs;

/// Where the built objects are.
pub fn object(name: &str) -> PathBuf {
    let folder = std::env::var_os("RELAY_EBPF_DIR").map_or_else(
        || {
            let own = std::env::current_exe().expect("own path");
            own.ancestors()
                .map(|folder| folder.join("ebpf"))
                .find(|folder| folder.is_dir())
                .expect("target/ebpf")
        },
        PathBuf::from,
    );
    folder.join(format!("{name}.o"))
}

fn load(name: &str) -> Ebpf {
    let path = object(name);
    let bytes = fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run cargo xtask build-ebpf", path.display()));
    EbpfLoader::new().verifier_log_level(VerifierLogLevel::DISABLE).load(&bytes).expect("load")
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program: &mut Xdp = ebpf.program_mut(name).expect(name).try_into().expect("xdp");
    program.load().expect("load");
    program
}

/// An XDP program of the lab on an interface, for as long as it lives.
pub struct Attached {
    ebpf: Ebpf,
}

impl Attached {
    /// `lab_pass`, `lab_count` or `lab_bare_xdp`, in driver mode.
    pub fn xdp(ns: &NetNs, interface: &str, program: &str) -> Self {
        let index = ns.index(interface);
        let mut ebpf = load("lab");
        ns.run(|| {
            xdp(&mut ebpf, program).attach_to_if_index(index, XdpMode::Driver).expect("attach");
        });
        Self { ebpf }
    }

    /// `lab_bare_tc`, sending everything out of another interface.
    pub fn bare_tc(ns: &NetNs, interface: &str, to: &str) -> Self {
        let mut ebpf = load("lab");
        let mut recipe: Array<_, Recipe> = ebpf.map_mut("RECIPE").expect("map").try_into().expect("array");
        let blank = Recipe { frame: [0; Recipe::FRAME / 4], flows: 0, interface: ns.index(to) };
        recipe.set(0, blank, 0).expect("recipe");
        let program: &mut SchedClassifier =
            ebpf.program_mut("lab_bare_tc").expect("program").try_into().expect("classifier");
        program.load().expect("load");
        ns.run(|| {
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            program.attach_with_options(interface, TcAttachType::Ingress, options).expect("attach");
        });
        Self { ebpf }
    }

    /// `lab_bare_tc` as a filter on clsact, where no packet is expected.
    pub fn filter(ns: &NetNs, interface: &str, priority: u16, handle: TcHandle) -> Self {
        let mut ebpf = load("lab");
        let program: &mut SchedClassifier =
            ebpf.program_mut("lab_bare_tc").expect("program").try_into().expect("classifier");
        program.load().expect("load");
        ns.run(|| {
            let _there_already = qdisc_add_clsact(interface);
            let options = NlOptions { priority, handle, ..NlOptions::default() };
            let options = TcAttachOptions::Netlink(options);
            program.attach_with_options(interface, TcAttachType::Ingress, options).expect("attach");
        });
        Self { ebpf }
    }

    /// Packets counted by `lab_count`.
    pub fn arrived(&self) -> u64 {
        let map: PerCpuArray<&MapData, u64> =
            self.ebpf.map("ARRIVED").expect("map").try_into().expect("array");
        map.get(&0, 0).expect("count").iter().sum()
    }
}

/// A flood of UDP packets in the smallest frames, made in a client's namespace.
pub struct Generator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Generator {
    /// Sends a frame, varied over `flows` source ports and addresses, out of `interface`, from one CPU.
    pub fn start(ns: &NetNs, interface: &str, mut frame: Vec<u8>, flows: u32, cpu: usize) -> Self {
        let index = ns.index(interface);
        frame.resize(Recipe::FRAME, 0);
        let mut words = [0; Recipe::FRAME / 4];
        for (word, bytes) in words.iter_mut().zip(frame.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (ready, wait) = std::sync::mpsc::channel();
        let thread = ns.spawn(move || {
            let mut cpus = CpuSet::new();
            cpus.set(cpu).expect("cpu");
            sched_setaffinity(Pid::from_raw(0), &cpus).expect("pin");
            let mut ebpf = load("lab");
            let mut recipe: Array<_, Recipe> =
                ebpf.map_mut("RECIPE").expect("map").try_into().expect("array");
            recipe.set(0, Recipe { frame: words, flows, interface: index }, 0).expect("recipe");
            let program = xdp(&mut ebpf, "lab_generate");
            ready.send(()).expect("ready");
            let data = vec![0; Recipe::FRAME];
            while !stopped.load(Ordering::Relaxed) {
                let options = TestRunOptions {
                    data_in: Some(&data),
                    repeat: 1 << 19,
                    attrs: TestRunAttrs::new().xdp_live_frames(64),
                    ..TestRunOptions::new()
                };
                program.test_run(options).expect("generate");
            }
        });
        wait.recv().expect("generator");
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Packets per second that a counter sees over a stretch of time.
pub fn rate(counter: &Attached, warm_up: Duration, stretch: Duration) -> f64 {
    thread::sleep(warm_up);
    let (before, start) = (counter.arrived(), Instant::now());
    thread::sleep(stretch);
    (counter.arrived() - before) as f64 / start.elapsed().as_secs_f64()
}

/// Lets an interface give GRO-merged packets to its other end's reader, as a real network card does: without it veth
/// has no NAPI, and frames redirected into it are lost.
pub fn enable_gro(ns: &NetNs, interface: &str) {
    ethtool_set(ns, interface, ETHTOOL_SGRO, 1);
}

/// Switches the sender's checksum offload: frames from a veth with it on carry half a checksum.
pub fn set_tx_checksum(ns: &NetNs, interface: &str, on: bool) {
    ethtool_set(ns, interface, ETHTOOL_STXCSUM, u32::from(on));
}

/// Switches an interface's segmentation and merging: without it every packet is one of the wire's.
pub fn set_offloads(ns: &NetNs, interface: &str, on: bool) {
    for command in [ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO] {
        ethtool_set(ns, interface, command, u32::from(on));
    }
}

/// Commands of include/uapi/linux/ethtool.h.
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;

nix::ioctl_readwrite_bad!(siocethtool, nix::libc::SIOCETHTOOL, nix::libc::ifreq);

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn ethtool_set(ns: &NetNs, interface: &str, command: u32, data: u32) {
    ns.run(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
        let mut value = EthtoolValue { command, data };
        // SAFETY: all-zero bytes are a valid `ifreq`.
        let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: a live request that points to a live `ethtool_value`, as these commands want.
        unsafe { siocethtool(socket.as_raw_fd(), &raw mut request) }
            .unwrap_or_else(|error| panic!("ethtool {command:#x} {data} on {interface}: {error}"));
    });
}
