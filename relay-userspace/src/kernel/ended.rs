//! What the programs tell: flows that are over, for the connection log, and all that they see, for those who watch.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{Array, Map, MapData, RingBuf};
use relay_common::ended::{End, EndedFlow};
use relay_common::net::ipv6_from_wire;
use relay_common::settings::Settings;
use relay_common::{names, tick};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::apply::map_error;
use super::load::Dataplane;
use super::observed::{Observed, take_ring};
use super::{KernelError, Unavailable, maps};
use crate::connections::{ConnectionLog, Ended};
use crate::flows::Plane;
use crate::observe::{Event, Lost, Observatory};
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

    /// The rule that a flow of this generation belongs to.
    pub(super) fn get(&self, slot: u32, generation: u32) -> Option<RuleName> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, name) = names.get(&slot)?;
        let is_older = since.is_some_and(|since| generation.wrapping_sub(since) > u32::MAX / 2);
        (!is_older).then(|| name.clone())
    }

    /// The rule that has a slot now, or had it last.
    pub(super) fn last(&self, slot: u32) -> Option<RuleName> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&slot).map(|(_, name)| name.clone())
    }
}

/// Where records come from.
struct Source {
    ring: AsyncFd<RingBuf<MapData>>,
    /// Records that found no room.
    lost: Array<MapData, u64>,
    lost_before: u64,
    observed: Observed,
    names: Arc<SlotNames>,
    hz: u32,
}

impl Dataplane {
    /// Has the programs tell of flows that are over, or not.
    pub fn log_ended(&mut self, on: bool) -> Result<(), KernelError> {
        self.logs_ended = on;
        self.write_tells()
    }

    /// Has the programs tell of all that they see, or not.
    pub fn observe(&mut self, on: bool) -> Result<(), KernelError> {
        self.is_observed = on;
        self.write_tells()
    }

    /// What the programs are to tell.
    pub(super) const fn tells(&self) -> u32 {
        match (self.is_observed, self.logs_ended) {
            (true, _) => Settings::ENDED | Settings::SEEN,
            (false, true) => Settings::ENDED,
            (false, false) => 0,
        }
    }

    fn write_tells(&mut self) -> Result<(), KernelError> {
        let Some(mut settings) = self.shadow.settings else { return Ok(()) };
        settings.tells = self.tells();
        self.maps.settings.set(0, settings, 0).map_err(map_error(names::SETTINGS))?;
        self.shadow.settings = Some(settings);
        Ok(())
    }

    /// Hands flows that are over to the log, and all that is seen to those who watch. Ends when the task is dropped.
    pub fn start_log(
        &mut self,
        log: Arc<ConnectionLog>,
        observatory: Arc<Observatory>,
    ) -> Result<impl Future<Output = ()> + Send + use<>, Unavailable> {
        let failed = |error: &dyn Display| {
            Unavailable(format!("connections of the kernel plane are neither logged nor watched: {error}"))
        };
        let ring = RingBuf::try_from(Map::RingBuf(maps::open_raw(&self.pins, names::ENDED)?));
        let ring = readable(ring.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
        let lost = self.ebpf.take_map(names::ENDED_LOST).ok_or_else(|| failed(&"no such map"))?;
        let lost = Array::try_from(lost).map_err(|error| failed(&error))?;
        let (seen, seen_lost) = take_ring(&mut self.ebpf)?;
        let seen = readable(seen).map_err(|error| failed(&error))?;
        let names = self.slot_names.clone();
        let observed = Observed::new(seen, seen_lost, names.clone());
        let source = Source { ring, lost, lost_before: 0, observed, names, hz: self.hz };
        Ok(source.hand_over(log, observatory))
    }
}

fn readable(ring: RingBuf<MapData>) -> std::io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: a `RingBuf` owns its map's descriptor, open as long as it lives, and always names that one.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    Ok(ring?)
}

impl Source {
    async fn hand_over(mut self, log: Arc<ConnectionLog>, observatory: Arc<Observatory>) {
        loop {
            let is_there = tokio::select! {
                ready = self.ring.readable_mut() => ready.map(|mut ready| ready.clear_ready()),
                ready = self.observed.readable() => ready,
            };
            if is_there.is_err() {
                return;
            }
            // what is over is read first and told last: that it was opened has been written before
            let (ended, unknown) = self.ended();
            self.observed.hand_over(&observatory);
            for ended in ended {
                observatory.tell(|| Event::closed(ended.clone()));
                if log.is_on() {
                    log.ended(|| ended);
                }
            }
            let lost = unknown + self.lost();
            if log.is_on() {
                log.leave_out(lost);
            }
            observatory.lose(Lost { flows: lost, drops: 0 });
            sleep(REST).await;
        }
    }

    /// All that there are, and how many of them are of rules that nobody knows any more.
    fn ended(&mut self) -> (Vec<Ended>, u64) {
        let (mut known, mut unknown) = (Vec::new(), 0);
        while let Some(record) = self.ring.get_mut().next() {
            match read(&record, &self.names, self.hz) {
                Some(ended) => known.push(ended),
                None => unknown += 1,
            }
        }
        (known, unknown)
    }

    /// How many have found no room since the last call.
    fn lost(&mut self) -> u64 {
        let lost = self.lost.get(&0, 0).unwrap_or(self.lost_before);
        lost.wrapping_sub(std::mem::replace(&mut self.lost_before, lost))
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
        plane: Plane::Kernel,
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
        assert_eq!((names.last(3), names.last(4)), (Some(name("new")), None));
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
