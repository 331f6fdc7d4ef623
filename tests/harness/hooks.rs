//! What is attached to an interface, asked of the kernel itself; and taking it off behind relayd's back.

use std::path::Path;

use aya::programs::{SchedClassifier, TcAttachType};
use futures_util::TryStreamExt as _;
use netlink_packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};

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

/// Programs at tc egress of an interface, where there is TCX; otherwise `None`.
pub fn tcx_at_egress(ns: &NetNs, interface: &str) -> Option<usize> {
    let tcx = ns.run(|| SchedClassifier::query_tcx(interface, TcAttachType::Egress));
    tcx.ok().map(|(_, programs)| programs.len())
}

/// Takes relayd's tc program off an interface, as somebody else might: by its link, or with the whole clsact qdisc.
pub fn take_off(ns: &NetNs, interface: &str, bpf_dir: &Path) {
    let index = ns.index(interface);
    let pin = bpf_dir.join(format!("abi1/tcx_{index}"));
    if pin.exists() {
        return relay::kernel::links::detach(&pin).expect("detach");
    }
    ns.netlink(async move |handle| {
        let mut request = handle.qdisc().del(index.cast_signed());
        let header = &mut request.message_mut().header;
        header.parent = netlink_packet_route::tc::TcHandle::CLSACT;
        header.handle = netlink_packet_route::tc::TcHandle { major: 0xffff, minor: 0 };
        request.execute().await
    });
}
