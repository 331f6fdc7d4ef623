//! What is attached to an interface, asked of the kernel itself; and taking it off behind relayd's back.

use std::ffi::CString;
use std::path::Path;

use aya::programs::{SchedClassifier, TcAttachType};
use futures_util::TryStreamExt as _;
use netlink_packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};
use nix::libc;

use crate::netns::NetNs;

/// Programs at tc ingress of an interface: through TCX, or on older kernels bpf filters on clsact.
pub fn tc_programs(ns: &NetNs, interface: &str) -> usize {
    let index = ns.index(interface);
    let tcx = ns.run(|| SchedClassifier::query_tcx(interface, TcAttachType::Ingress));
    if let Ok((_, programs)) = tcx {
        return programs.len();
    }
    ns.netlink(async move |handle| {
        let mut filters = handle.traffic_filter(index.cast_signed()).get().ingress().execute();
        let mut found = 0;
        while let Some(filter) = filters.try_next().await? {
            // each filter is preceded by a line about its chain, without a handle
            found += usize::from(u32::from(filter.header.handle) != 0);
        }
        Ok(found)
    })
}

/// Whether an XDP program is in the driver of an interface.
pub fn has_xdp(ns: &NetNs, interface: &str) -> bool {
    let index = ns.index(interface);
    ns.netlink(async move |handle| {
        let mut links = handle.link().get().match_index(index).execute();
        let link = links.try_next().await?;
        Ok(link.into_iter().flat_map(|link| link.attributes).any(|attribute| match attribute {
            LinkAttribute::Xdp(facts) => facts.contains(&LinkXdp::Attached(XdpAttached::Driver)),
            _ => false,
        }))
    })
}

/// Takes relayd's tc program off an interface, as somebody else might: by its link, or with the whole clsact qdisc.
pub fn take_off(ns: &NetNs, interface: &str, bpf_dir: &Path) {
    let index = ns.index(interface);
    let pin = bpf_dir.join(format!("abi1/tcx_{index}"));
    if pin.exists() {
        return detach_link(&pin);
    }
    ns.netlink(async move |handle| {
        let mut request = handle.qdisc().del(index.cast_signed());
        let header = &mut request.message_mut().header;
        header.parent = netlink_packet_route::tc::TcHandle::CLSACT;
        header.handle = netlink_packet_route::tc::TcHandle { major: 0xffff, minor: 0 };
        request.execute().await
    });
}

/// Commands of bpf(2).
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// BPF_LINK_DETACH: what `bpftool link detach` does. aya has no such thing.
fn detach_link(pin: &Path) {
    let path = CString::new(pin.as_os_str().as_encoded_bytes()).expect("path");
    let fd = bpf(BPF_OBJ_GET, path.as_ptr() as u64);
    let code = bpf(BPF_LINK_DETACH, fd as u64);
    assert_eq!(code, 0, "BPF_LINK_DETACH: {}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that BPF_OBJ_GET has just made.
    unsafe { libc::close(fd as i32) };
}

/// bpf(2) with an attribute that begins with one number, the rest zero.
fn bpf(command: libc::c_long, first: u64) -> libc::c_long {
    let attribute = [first, 0, 0];
    // SAFETY: the attribute outlives the call, and its size is given.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(&attribute)) };
    assert!(result >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    result
}
