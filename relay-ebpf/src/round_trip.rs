//! Round trips of TCP handshakes, taken from packets that go by anyway: SYN to SYN-ACK at the backend, SYN-ACK to ACK at the
//! client.
//!
//! When the packet that awaits an answer went on lies in the backend half, which has no use for its sequence number until
//! the flow is proven. Of a packet that went twice nobody can tell which one is answered, so such a flow tells nothing (Karn's
//! algorithm).

use aya_ebpf::helpers::bpf_ktime_get_ns;
use relay_common::flow::{FlowEntry, FlowFlags};

use crate::maps;
use crate::slow::Packet;

/// A new flow's SYN goes to the backend.
#[inline(always)]
pub(crate) fn begin(backend: &mut FlowEntry) {
    backend.sequence = now();
    backend.set_flags(backend.flags().with(FlowFlags::TIMED));
}

/// A packet of the handshake has come again.
#[inline(always)]
pub(crate) fn give_up(backend: &mut FlowEntry) {
    backend.set_flags(backend.flags().without(FlowFlags::TIMED));
}

/// The backend has answered the SYN; its answer goes to the client.
#[inline(never)]
pub(crate) fn answered(backend: &mut FlowEntry) {
    let flags = backend.flags();
    if !flags.has(FlowFlags::TIMED) {
        return;
    }
    if flags.has(FlowFlags::REPLIED) {
        return give_up(backend);
    }
    let now = now();
    if let Some(trips) = maps::round_trips(backend.endpoint()) {
        trips.backend.count(now.wrapping_sub(backend.sequence));
    }
    backend.sequence = now;
}

/// The client has answered the SYN-ACK. One that sends data with its answer may have waited for that.
#[inline(never)]
pub(crate) fn proven(packet: &Packet, backend: &FlowEntry) {
    if !backend.flags().has(FlowFlags::TIMED) || packet.length > packet.header_length {
        return;
    }
    if let Some(trips) = maps::round_trips(backend.endpoint()) {
        trips.client.count(now().wrapping_sub(backend.sequence));
    }
}

/// Microseconds of the monotonic clock. They wrap within 72 minutes, of which a handshake may take 20 seconds.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper takes nothing and returns a number.
    (unsafe { bpf_ktime_get_ns() } / 1000) as u32
}
