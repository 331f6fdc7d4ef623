//! Rates in the maps: policers that relayd sets and the programs keep.

use std::path::Path;

use relay_common::names;
use relay_common::policer::Policer;

use super::load::Dataplane;
use super::mapped::Mapped;
use super::{KernelError, Unavailable, maps};
use crate::boot::monotonic;
use crate::rule::Rates;

/// All policers, by slot.
#[derive(Debug)]
pub struct PolicerTable(Mapped<Policer>);

impl PolicerTable {
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        Mapped::open(pins, names::POLICERS, maps::RULE_SLOTS).map(Self)
    }

    /// One of them. `None`: no memory to look at it.
    pub fn policer(&self, place: u32) -> Option<&Policer> {
        self.0.stretch(place as usize, 1)?.first()
    }
}

impl Dataplane {
    /// Sets how fast a rule's traffic may be. What it has had of the rate before counts.
    pub(super) fn police(&self, slot: u32, rates: Rates) -> Result<(), KernelError> {
        match self.policers.policer(slot) {
            Some(policer) if rates.is_none() && policer.is_off() => {}
            Some(policer) => policer.set([rates.ingress / 8, rates.egress / 8], monotonic()),
            None if rates.is_none() => {}
            None => return Err(KernelError::NoMemory(names::POLICERS)),
        }
        Ok(())
    }
}
