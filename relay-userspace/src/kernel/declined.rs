//! Telling the programs which UDP clients have a session of the user plane.

use aya::maps::{HashMap, MapData};
use relay_common::flow::FlowKey;
use relay_common::names;

use super::apply::{absent_is_fine, map_error};
use super::load::{Dataplane, take};
use super::{KernelError, Unavailable};

/// Clients whose packets are left to the user plane for as long as it has their sessions, whoever carries the rule.
pub struct Declined(HashMap<MapData, FlowKey, u32>);

impl Declined {
    pub(super) fn open(ebpf: &mut aya::Ebpf) -> Result<Self, Unavailable> {
        take(ebpf, names::DECLINED).map(Self)
    }

    /// A client's session is there, or is not any more.
    pub fn set(&mut self, client: &FlowKey, there: bool) -> Result<(), KernelError> {
        let done = if there { self.0.insert(client, 0, 0) } else { absent_is_fine(self.0.remove(client)) };
        done.map_err(map_error(names::DECLINED))
    }
}

impl Dataplane {
    /// To be had once.
    pub const fn declined(&mut self) -> Option<Declined> {
        self.declined.take()
    }
}
