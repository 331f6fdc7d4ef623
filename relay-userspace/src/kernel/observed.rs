//! What the programs have seen while somebody watches: flows that begin, packets that are refused.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use aya::Ebpf;
use aya::maps::{Array, MapData, RingBuf};
use relay_common::counters::DropReason;
use relay_common::names;
use relay_common::net::{Port, ipv6_from_wire};
use relay_common::observe::{LOST_FLOWS, LOST_PACKETS, Seen, Sight};
use tokio::io::unix::AsyncFd;

use super::Unavailable;
use super::ended::SlotNames;
use super::load::take;
use crate::flows::Plane;
use crate::observe::{Event, Lost, Observatory, What};

/// The programs' records, and how many they have left out.
pub(super) struct Observed {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: Array<MapData, u64>,
    lost_before: Lost,
    names: Arc<SlotNames>,
}

/// The ring, and the counts of what was left out, of programs that have just been loaded.
///
/// # Errors
///
/// The object has no such maps, or they are taken.
pub(super) fn take_ring(ebpf: &mut Ebpf) -> Result<(RingBuf<MapData>, Array<MapData, u64>), Unavailable> {
    Ok((take(ebpf, names::OBSERVED)?, take(ebpf, names::OBSERVED_LOST)?))
}

impl Observed {
    pub fn new(ring: AsyncFd<RingBuf<MapData>>, lost: Array<MapData, u64>, names: Arc<SlotNames>) -> Self {
        Self { ring, lost, lost_before: Lost::default(), names }
    }

    /// Returns when there is something.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.ring.readable_mut().await.map(|mut ready| ready.clear_ready())
    }

    /// Hands over all that there is.
    pub fn hand_over(&mut self, observatory: &Observatory) {
        let mut unknown = Lost::default();
        while let Some(record) = self.ring.get_mut().next() {
            let Some(seen) = record_of(&record) else { continue };
            match event(&seen, &self.names) {
                Some(event) => observatory.tell(|| event),
                None if seen.sight == Sight::Refused as u32 => unknown.drops += 1,
                None => unknown.flows += 1,
            }
        }
        observatory.lose(unknown);
        observatory.lose(self.lost());
    }

    /// How many were left out since the last call.
    fn lost(&mut self) -> Lost {
        let before = self.lost_before;
        let count = |index: u32, before: u64| self.lost.get(&index, 0).unwrap_or(before);
        let now = Lost { flows: count(LOST_FLOWS, before.flows), drops: count(LOST_PACKETS, before.drops) };
        self.lost_before = now;
        Lost { flows: now.flows.wrapping_sub(before.flows), drops: now.drops.wrapping_sub(before.drops) }
    }
}

/// A record as the programs have written it.
pub fn record_of(bytes: &[u8]) -> Option<Seen> {
    // SAFETY: the programs write whole records, every byte pattern of which is a value; they need not be aligned.
    (bytes.len() == size_of::<Seen>()).then(|| unsafe { bytes.as_ptr().cast::<Seen>().read_unaligned() })
}

/// A record in relayd's terms; `None` for a rule that nobody knows any more.
fn event(seen: &Seen, names: &SlotNames) -> Option<Event> {
    let sight = Sight::from_number(seen.sight)?;
    let protocol = seen.protocol();
    let (ports, is_known) = (seen.ports(), seen.source != [0; 4]);
    let source = is_known.then(|| address(seen.source, ports.source()));
    let destination = is_known.then(|| address(seen.destination, ports.destination()));
    let event = |rule, what| Event {
        at: SystemTime::now(),
        rule,
        plane: Plane::Kernel,
        protocol,
        client: source,
        listen: destination,
        backend: None,
        what,
    };
    let what = match sight {
        Sight::Opened => What::Opened,
        Sight::Proven => What::Proven,
        Sight::Refused => {
            let reason = DropReason::from_number(seen.reason)?;
            return Some(event(names.last(seen.rule), refusal(reason)));
        }
    };
    let rule = names.get(seen.rule, seen.generation)?;
    let backend = Some(address(seen.backend, seen.backend_ports().destination()));
    Some(Event { backend, ..event(Some(rule), what) })
}

fn address(wire: [u32; 4], port: Port) -> SocketAddr {
    SocketAddr::new(ipv6_from_wire(wire).to_canonical(), port.number())
}

/// A new flow that is not let in, or a packet that goes nowhere.
const fn refusal(reason: DropReason) -> What {
    let text = reason.as_str();
    match reason {
        DropReason::PortsExhausted
        | DropReason::TableFull
        | DropReason::Draining
        | DropReason::BadSource
        | DropReason::NotAllowed
        | DropReason::LimitConnections
        | DropReason::LimitConnectionsPerIp
        | DropReason::LimitNewFlows
        | DropReason::LimitNewFlowsPerIp
        | DropReason::NoBackend => What::Refused { reason: text },
        DropReason::NoRoute
        | DropReason::TtlExceeded
        | DropReason::TooBig
        | DropReason::IcmpLimited
        | DropReason::NotProven
        | DropReason::BadHeader
        | DropReason::Unwritable
        | DropReason::DeviceGone
        | DropReason::UdpGso
        | DropReason::Rate
        | DropReason::Quota
        | DropReason::Expired
        | DropReason::RatePerClient => What::Dropped { reason: text, packets: 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RuleName;
    use relay_common::net::{Ports, Protocol, ipv6_to_wire};

    fn names() -> SlotNames {
        let names = SlotNames::default();
        names.set(3, Some(8), RuleName::parse("web").expect("name"));
        names
    }

    fn wire(text: &str) -> [u32; 4] {
        ipv6_to_wire(text.parse().expect(text))
    }

    fn seen(sight: Sight) -> Seen {
        Seen {
            source: wire("::ffff:198.51.100.7"),
            destination: wire("2001:db8::1"),
            backend: wire("::ffff:203.0.113.10"),
            ports: Ports::new(Port::new(4000), Port::new(80)).to_wire(),
            backend_ports: Ports::new(Port::new(1500), Port::new(8080)).to_wire(),
            rule: 3,
            generation: 9,
            sight: sight as u32,
            reason: 0,
            protocol: Protocol::Tcp.number().into(),
            length: 60,
        }
    }

    #[test]
    fn records_become_events() {
        let opened = event(&seen(Sight::Opened), &names()).expect("event");
        let address = |text: &str| Some(text.parse::<SocketAddr>().expect(text));
        assert_eq!(opened.rule.as_ref().map(RuleName::as_str), Some("web"));
        assert_eq!((opened.plane, opened.protocol), (Plane::Kernel, Some(Protocol::Tcp)));
        assert_eq!(
            [opened.client, opened.listen, opened.backend],
            [address("198.51.100.7:4000"), address("[2001:db8::1]:80"), address("203.0.113.10:8080")]
        );
        assert_eq!(opened.what, What::Opened);
        let older = Seen { generation: 7, ..seen(Sight::Proven) };
        assert_eq!(event(&older, &names()), None, "of a rule that had the slot before");
    }

    #[test]
    fn refusals_are_told_by_their_reasons() {
        let refused = |reason, rule| {
            let seen = Seen { reason, rule, source: [0; 4], protocol: 1, ..seen(Sight::Refused) };
            event(&seen, &names())
        };
        let limited = refused(DropReason::LimitNewFlows as u32, 3).expect("event");
        assert_eq!(limited.what, What::Refused { reason: "limit_new_flows" });
        assert_eq!((limited.client, limited.listen, limited.protocol), (None, None, None));
        let nobodys = refused(DropReason::TooBig as u32, u32::MAX).expect("event");
        assert_eq!((nobodys.rule, nobodys.what), (None, What::Dropped { reason: "too_big", packets: 1 }));
        assert_eq!(refused(999, 3), None);
    }

    #[test]
    fn what_is_no_record_is_not_read() {
        assert_eq!([0, 79, 81].map(|length| record_of(&vec![0; length])), [None; 3]);
        assert_eq!(record_of(&[0; 80]), Some(Seen::default()));
    }
}
