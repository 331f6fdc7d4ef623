//! Flows that the programs say are over, handed to the connection log.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{Array, Map, MapData, RingBuf};
use relay_common::ended::{End, EndedFlow};
use relay_common::net::ipv6_from_wire;
use relay_common::{names, tick};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::apply::map_error;
use super::load::Dataplane;
use super::{KernelError, Unavailable, maps};
use crate::connections::{ConnectionLog, Ended};
use crate::rule::RuleName;

/// In a flood, records are taken in batches. The ring holds more than 3,000.
const REST: Duration = Duration::from_millis(100);

/// Which rule has had a slot last, and from which generation on (`None`: since before relayd was started). It is known
/// after the rule is gone, since its flows are swept then.
#[derive(Debug, Default)]
pub(super) struct SlotNames(Mutex<HashMap<u32, (Option<u32>, RuleName)>>);

impl SlotNames {
    pub(super) fn set(&self, slot: u32, since: Option<u32>, name: RuleName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, (since, name));
    }

    fn get(&self, slot: u32, generation: u32) -> Option<RuleName> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, name) = names.get(&slot)?;
        let is_older = since.is_some_and(|since| generation.wrapping_sub(since) > u32::MAX / 2);
        (!is_older).then(|| name.clone())
    }
}

/// Where records come from.
struct Source {
    ring: AsyncFd<RingBuf<MapData>>,
    /// Records that found no room.
    lost: Array<MapData, u64>,
    names: Arc<SlotNames>,
    hz: u32,
}

impl Dataplane {
    /// Has the programs tell of flows that are over, or not.
    pub fn log_ended(&mut self, on: bool) -> Result<(), KernelError> {
        self.logs_ended = on;
        let Some(mut settings) = self.shadow.settings else { return Ok(()) };
        settings.log_ended = u32::from(on);
        self.maps.settings.set(0, settings, 0).map_err(map_error(names::SETTINGS))?;
        self.shadow.settings = Some(settings);
        Ok(())
    }

    /// Hands flows that are over to the log. Ends when the task is dropped.
    pub fn start_log(
        &mut self,
        log: Arc<ConnectionLog>,
    ) -> Result<impl Future<Output = ()> + Send + use<>, Unavailable> {
        let failed = |error: &dyn std::fmt::Display| {
            Unavailable(format!("connections of the kernel plane are not logged: {error}"))
        };
        let ring = RingBuf::try_from(Map::RingBuf(maps::open_raw(&self.pins, names::ENDED)?));
        let ring = ring.map_err(|error| failed(&error))?;
        // SAFETY: a `RingBuf` owns its map's descriptor, open as long as it lives, and always names that one.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(|error| failed(&error))?;
        let lost = self.ebpf.take_map(names::ENDED_LOST).ok_or_else(|| failed(&"no such map"))?;
        let lost = Array::try_from(lost).map_err(|error| failed(&error))?;
        let source = Source { ring, lost, names: self.slot_names.clone(), hz: self.hz };
        Ok(source.hand_over(log))
    }
}

impl Source {
    async fn hand_over(mut self, log: Arc<ConnectionLog>) {
        let mut lost_before = 0;
        loop {
            let Ok(mut ready) = self.ring.readable_mut().await else { return };
            while let Some(record) = ready.get_inner_mut().next() {
                if !log.is_on() {
                    continue;
                }
                match read(&record, &self.names, self.hz) {
                    Some(ended) => log.ended(|| ended),
                    None => log.leave_out(1),
                }
            }
            ready.clear_ready();
            let lost = self.lost.get(&0, 0).unwrap_or(lost_before);
            log.leave_out(lost.wrapping_sub(lost_before));
            lost_before = lost;
            sleep(REST).await;
        }
    }
}

/// A record in relayd's terms; `None` for a rule that nobody knows any more.
fn read(bytes: &[u8], names: &SlotNames, hz: u32) -> Option<Ended> {
    // SAFETY: the programs write whole records, every byte pattern of which is a value; they need not be aligned.
    let flow: EndedFlow = (bytes.len() == size_of::<EndedFlow>())
        .then(|| unsafe { bytes.as_ptr().cast::<EndedFlow>().read_unaligned() })?;
    let client = ipv6_from_wire(flow.client).to_canonical();
    let backend = ipv6_from_wire(flow.backend).to_canonical();
    Some(Ended {
        rule: names.get(flow.rule, flow.generation)?,
        plane: "kernel",
        protocol: flow.key.protocol()?,
        client: SocketAddr::new(client, flow.key.ports().source().number()),
        backend: Some((backend, flow.backend_ports().destination().number()).into()),
        bytes: flow.bytes,
        lasted: Duration::from_millis(tick::milliseconds(flow.ticks, hz)),
        reason: End::from_number(flow.end)?.as_str(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_the_name_of_its_last_rule() {
        let name = |text| RuleName::parse(text).expect(text);
        let names = SlotNames::default();
        names.set(3, None, name("old"));
        assert_eq!((names.get(3, 7), names.get(4, 7)), (Some(name("old")), None));
        names.set(3, Some(8), name("new"));
        assert_eq!(
            [7, 8, 9].map(|generation| names.get(3, generation)),
            [None, Some(name("new")), Some(name("new"))]
        );
    }

    #[test]
    fn what_is_no_record_is_not_read() {
        let names = SlotNames::default();
        names.set(0, None, RuleName::parse("web").expect("name"));
        for length in [0, 8, 87, 89] {
            assert_eq!(read(&vec![0; length], &names, 250), None);
        }
        assert_eq!(read(&[0; 88], &names, 250), None, "protocol 0");
    }
}
