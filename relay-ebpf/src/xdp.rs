//! The XDP hook: small packets of live flows, rewritten and sent before the kernel allocates anything for them.
//!
//! Nothing is touched before everything is decided; what cannot be finished here is passed to tc as it came.

use aya_ebpf::bindings::xdp_md;
use relay_common::counters::DropReason;
use relay_common::flow::{FlowEntry, FlowFlags};
use relay_common::net::Protocol;

use crate::established::{self, Frame, Hit};
use crate::neighbour::{self, Macs};
use crate::packet::{self, Bytes, ETHERNET, Ethernet, Ipv4Tcp};
use crate::{Outcome, count, maps, observe, police, rewrite, trace};

#[derive(Clone, Copy)]
struct XdpFrame {
    md: *mut xdp_md,
}

impl XdpFrame {
    #[inline(always)]
    fn data(self) -> u32 {
        // SAFETY: the context pointer of the running program.
        unsafe { (*self.md).data }
    }

    #[inline(always)]
    fn data_end(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.md).data_end }
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn bytes(&self) -> Bytes {
        Bytes::new(self.data() as usize, self.data_end() as usize)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        // SAFETY: the context pointer of the running program.
        unsafe { (*self.md).ingress_ifindex }
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        0
    }

    /// A card in promiscuous mode hands in frames for others, too. tc knows them by the packet type, and notes the address
    /// of those that are ours.
    #[inline(always)]
    fn is_addressed(&self, flow: &FlowEntry) -> bool {
        self.bytes().at::<Ethernet>(0).is_some_and(|ethernet| ethernet.link() == flow.link)
    }

    #[inline(always)]
    fn refresh<const L2: usize>(&self, _flow: &mut FlowEntry) {}
}

/// One frame at the driver.
#[inline(always)]
pub(crate) fn run(md: *mut xdp_md) -> Outcome {
    let frame = XdpFrame { md };
    let bytes = frame.bytes();
    let Some(ethernet) = bytes.at::<Ethernet>(0) else { return Outcome::Miss };
    if ethernet.kind != packet::IPV4 || ethernet.is_for_many() {
        return Outcome::Miss;
    }
    let Ok(hit) = established::find::<XdpFrame, ETHERNET>(&frame) else { return Outcome::Miss };
    let to_v6 = hit.flow.flags().has(FlowFlags::TO_V6);
    if to_v6 || hit.next_hop.device == 0 || trace::is_traced(hit.flow.rule()) {
        return Outcome::Miss;
    }
    // what is refused is refused where everything else comes by
    if police::is_on(hit.flow.rule()) {
        return Outcome::Miss;
    }
    let Some(macs) = neighbour::find(md, frame.interface(), &hit) else { return Outcome::Miss };
    forward(bytes, ethernet, hit, macs)
}

#[inline(always)]
fn forward(bytes: Bytes, ethernet: &mut Ethernet, hit: Hit, macs: Macs) -> Outcome {
    let Hit { flow, next_hop, headers, protocol, length, .. } = hit;
    match protocol {
        Protocol::Tcp => {
            let Some(headers) = bytes.at::<Ipv4Tcp>(ETHERNET) else { return Outcome::Miss };
            headers.checksum = transport_delta(flow).apply(headers.checksum);
        }
        Protocol::Udp => headers.checksum = transport_delta(flow).apply_udp(headers.checksum),
    }
    rewrite::headers(headers, flow);
    ethernet.destination = macs.destination;
    ethernet.source = macs.source;
    count::tally(flow.rule(), flow.flags().has(FlowFlags::EGRESS), 1, length.into());
    flow.bytes += u64::from(length);
    if maps::redirect_to_device(u32::from(next_hop.device - 1)) {
        Outcome::Sent
    } else {
        let outcome = count::refuse(flow.rule(), DropReason::DeviceGone);
        observe::end();
        outcome
    }
}

#[inline(always)]
fn transport_delta(flow: &FlowEntry) -> relay_common::checksum::Delta {
    flow.address_delta().and(flow.port_delta())
}
