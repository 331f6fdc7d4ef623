//! Reading how long the round trips of handshakes with each endpoint take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use aya::maps::{Array, MapData};
use relay_common::names;
use relay_common::net::ipv6_from_wire;
use relay_common::round_trip::RoundTrips;
use relay_common::rule::{EndpointEntry, Numbered};

use super::batch::Walk;
use super::{Unavailable, maps};
use crate::plan::KernelEnd;

/// Handles of a reader's own to the pinned maps.
pub(super) struct RoundTripTable {
    trips: MapData,
    endpoints: Array<MapData, EndpointEntry>,
    numbered: Array<MapData, Numbered>,
}

/// What has been taken of all rules' backends, at one moment.
#[derive(Clone, Debug, Default)]
pub struct RoundTripsByEnd(HashMap<End, RoundTrips>);

/// An endpoint as plans know it: the slot of its rule, its address, and where the rule's first port goes (0: ports stay).
type End = (u32, IpAddr, u16);

impl RoundTripsByEnd {
    /// Those of one of the backends of the rule in a slot. Backends that are the same endpoint share them.
    pub fn of(&self, slot: u32, end: &KernelEnd) -> Option<&RoundTrips> {
        self.0.get(&(slot, end.way.backend, end.first_port.unwrap_or(0)))
    }
}

impl RoundTripTable {
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        Ok(Self {
            trips: maps::open_raw(pins, names::ROUND_TRIPS)?,
            endpoints: maps::open(pins, names::ENDPOINTS)?,
            numbered: maps::open(pins, names::NUMBERED)?,
        })
    }

    /// All endpoints that have any, in one walk. What cannot be read is left out.
    pub fn read(&self) -> RoundTripsByEnd {
        let mut found = HashMap::<End, RoundTrips>::new();
        let fd = self.trips.fd();
        let mut walk = Walk::<_, u32, RoundTrips>::new(fd);
        while let Ok(Some(chunk)) = walk.next_chunk() {
            for (endpoint, trips) in chunk.filter(|(_, trips)| *trips != RoundTrips::default()) {
                if let Some(end) = self.end(endpoint) {
                    found.entry(end).or_default().add(&trips);
                }
            }
        }
        RoundTripsByEnd(found)
    }

    fn end(&self, endpoint: u32) -> Option<End> {
        let entry = self.endpoints.get(&endpoint, 0).ok()?;
        let address = if entry.is_v6() {
            let numbered = self.numbered.get(&entry.address().to_wire(), 0).ok()?;
            ipv6_from_wire(numbered.address).into()
        } else {
            IpAddr::V4(entry.address().into())
        };
        Some((entry.rule, address, entry.port))
    }
}
