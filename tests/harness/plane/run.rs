//! Running one program on one packet, and what came out.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{MapData, MapInfo};
use aya::programs::{ProgramFd, ProgramInfo};
use nix::libc;
use relay::kernel::Dataplane;
use relay_common::names;

use super::Side;

/// What a program wants done with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Pass,
    Redirect,
    Drop,
    /// A number that none of the programs may return.
    Other(u32),
}

impl Verdict {
    /// `TC_ACT_*` of include/uapi/linux/pkt_cls.h.
    const fn of_tc(code: u32) -> Self {
        match code.cast_signed() {
            -1 => Self::Pass,
            7 => Self::Redirect,
            2 => Self::Drop,
            _ => Self::Other(code),
        }
    }

    /// `XDP_*` of include/uapi/linux/bpf.h.
    const fn of_xdp(code: u32) -> Self {
        match code {
            2 => Self::Pass,
            4 => Self::Redirect,
            1 => Self::Drop,
            _ => Self::Other(code),
        }
    }
}

/// One run: the verdict, and the frame as the program left it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ran {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
}

/// Larger than any test packet, whose linear part is less than a page, and what a program adds to it.
const OUT: usize = 8192;

/// Handles to the loaded programs.
pub struct Programs {
    tc: ProgramFd,
    tc_l3: ProgramFd,
    egress: ProgramFd,
    egress_l3: ProgramFd,
    xdp: ProgramFd,
    /// Maps of the tc program.
    maps: Vec<u32>,
    /// Whether the interface of an XDP test run can be chosen (5.15 and later); it is the loopback otherwise.
    pub xdp_knows_interfaces: bool,
}

impl Programs {
    /// The programs that a plane has loaded, found by the counters that they use: other planes may be loaded too.
    pub fn of(dataplane: &Dataplane) -> Self {
        let table = MapInfo::from_pin(dataplane.pins().join(names::COUNTERS)).expect("pinned map").id();
        let find = |name: &str| {
            aya::programs::loaded_programs()
                // one that is unloaded between two system calls is none of ours
                .filter_map(Result::ok)
                .find(|info| info.name() == name.as_bytes() && uses(info, table))
                .unwrap_or_else(|| panic!("{name} is not loaded"))
        };
        let fd = |info: &ProgramInfo| info.fd().expect("program");
        let tc = find(names::TC);
        let maps = tc.map_ids().expect("map ids").unwrap_or_default();
        let (tc, tc_l3, xdp) = (fd(&tc), fd(&find(names::TC_L3)), fd(&find(names::XDP)));
        let (egress, egress_l3) = (fd(&find(names::EGRESS)), fd(&find(names::EGRESS_L3)));
        let mut programs = Self { tc, tc_l3, egress, egress_l3, xdp, maps, xdp_knows_interfaces: true };
        let loopback = Side { interface: 1, mac: [0; 6] };
        programs.xdp_knows_interfaces = match programs.xdp(loopback, &[0; 64]) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => false,
            Err(error) => panic!("TEST_RUN of XDP: {error}"),
        };
        programs
    }

    /// A map of the tc program that is not pinned.
    pub(super) fn unpinned(&self, name: &str) -> MapData {
        let has_name = |id: u32| MapInfo::from_id(id).is_ok_and(|info| info.name() == name.as_bytes());
        let id = self.maps.iter().copied().find(|&id| has_name(id));
        MapData::from_id(id.unwrap_or_else(|| panic!("there is no map {name}"))).expect(name)
    }

    /// The program for interfaces with an Ethernet header. `segment`: payload bytes per segment of a super-packet, 0
    /// for a plain one.
    pub fn tc(&self, side: Side, frame: &[u8], segment: u32) -> io::Result<Ran> {
        let (code, frame, _) = test_run(&self.tc, frame, &sk_buff(side.interface, segment), 1)?;
        Ok(Ran { verdict: Verdict::of_tc(code), frame })
    }

    /// Runs the program again and again on what it has made of the frame; returns the last verdict and the mean
    /// nanoseconds.
    pub fn time_tc(&self, side: Side, frame: &[u8], times: u32) -> io::Result<(Verdict, u32)> {
        let (code, _, time) = test_run(&self.tc, frame, &sk_buff(side.interface, 0), times)?;
        Ok((Verdict::of_tc(code), time))
    }

    /// The same for XDP, where the kernel lets its interface be chosen.
    pub fn time_xdp(&self, side: Side, frame: &[u8], times: u32) -> io::Result<(Verdict, u32)> {
        let (code, _, time) = test_run(&self.xdp, frame, &xdp_md(side.interface, frame.len()), times)?;
        Ok((Verdict::of_xdp(code), time))
    }

    /// The program for interfaces without one. The kernel reads the first 14 bytes as an Ethernet header all the same.
    pub fn tc_l3(&self, side: Side, packet: &[u8]) -> io::Result<Ran> {
        let (code, frame, _) = test_run(&self.tc_l3, packet, &sk_buff(side.interface, 0), 1)?;
        Ok(Ran { verdict: Verdict::of_tc(code), frame })
    }

    /// The program at egress of an interface with an Ethernet header. `received`: where the packet came in; 0: nowhere.
    pub fn egress(&self, side: Side, frame: &[u8], segment: u32, received: u32) -> io::Result<Ran> {
        let mut context = sk_buff(side.interface, segment);
        context[36..40].copy_from_slice(&received.to_ne_bytes());
        let (code, frame, _) = test_run(&self.egress, frame, &context, 1)?;
        Ok(Ran { verdict: Verdict::of_tc(code), frame })
    }

    /// The same without one. The kernel reads the first 14 bytes as an Ethernet header all the same.
    pub fn egress_l3(&self, side: Side, packet: &[u8]) -> io::Result<Ran> {
        let (code, frame, _) = test_run(&self.egress_l3, packet, &sk_buff(side.interface, 0), 1)?;
        Ok(Ran { verdict: Verdict::of_tc(code), frame })
    }

    pub fn xdp(&self, side: Side, frame: &[u8]) -> io::Result<Ran> {
        let context = xdp_md(side.interface, frame.len());
        let context: &[u8] = if self.xdp_knows_interfaces { &context } else { &[] };
        let (code, frame, _) = test_run(&self.xdp, frame, context, 1)?;
        Ok(Ran { verdict: Verdict::of_xdp(code), frame })
    }
}

fn uses(info: &ProgramInfo, map: u32) -> bool {
    matches!(info.map_ids(), Ok(Some(ids)) if ids.contains(&map))
}

/// `struct { ... } test` of `union bpf_attr` as of Linux 5.10 (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct TestAttr {
    program: u32,
    returned: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

const PROG_TEST_RUN: libc::c_long = 10;

/// Runs a program; returns its last verdict, the packet, and the mean nanoseconds of a run. aya's own asks for the type of program, which cannot be
/// named for XDP.
fn test_run(program: &ProgramFd, data: &[u8], context: &[u8], times: u32) -> io::Result<(u32, Vec<u8>, u32)> {
    let mut out = vec![0; OUT];
    let mut attr = TestAttr {
        program: program.as_fd().as_raw_fd().cast_unsigned(),
        data_size_in: data.len() as u32,
        data_size_out: OUT as u32,
        data_in: data.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: times,
        context_size_in: context.len() as u32,
        context_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        ..TestAttr::default()
    };
    // SAFETY: a live, initialised prefix of `union bpf_attr` of the size given; its addresses point to live buffers
    // of the sizes given, of which the kernel writes `out` only.
    let code = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, std::ptr::from_mut(&mut attr), size_of::<TestAttr>())
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    out.truncate(attr.data_size_out as usize);
    Ok((attr.returned, out, attr.duration))
}

/// `struct __sk_buff` of include/uapi/linux/bpf.h up to `gso_size`, with the fields that a test run may set.
fn sk_buff(interface: u32, segment: u32) -> [u8; 180] {
    let mut context = [0; 180];
    context[40..44].copy_from_slice(&interface.to_ne_bytes());
    context[176..180].copy_from_slice(&segment.to_ne_bytes());
    context
}

/// `struct xdp_md` up to `rx_queue_index`: the frame's end and the interface.
fn xdp_md(interface: u32, length: usize) -> [u8; 20] {
    let mut context = [0; 20];
    context[4..8].copy_from_slice(&(length as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&interface.to_ne_bytes());
    context
}
