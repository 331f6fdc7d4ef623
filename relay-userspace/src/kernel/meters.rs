//! Rates, quotas and what has ended in the maps: meters that relayd sets and the programs keep, of rules and of groups.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use relay_common::meter::{Closed, FIRST_GROUP, GROUPS, METERS, Meter, Quota, Terms};
use relay_common::names;

use super::load::Dataplane;
use super::mapped::Mapped;
use super::{Desired, DesiredRule, KernelError, Unavailable};
use crate::boot::monotonic;
use crate::rule::quota::{Counted, Over};
use crate::rule::usual::Standard;
use crate::rule::{GroupName, Rates, RuleName};

/// All meters, by slot, and behind them those of groups.
#[derive(Debug)]
pub struct MeterTable(Mapped<Meter>);

impl MeterTable {
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        Mapped::open(pins, names::METERS, METERS).map(Self)
    }

    /// One of them. `None`: no memory to look at it.
    pub fn meter(&self, place: u32) -> Option<&Meter> {
        self.0.stretch(place as usize, 1)?.first()
    }
}

/// One of the meters, wherever it is held.
#[derive(Clone, Debug)]
pub struct MeterPlace {
    table: Arc<MeterTable>,
    place: u32,
}

impl MeterPlace {
    /// `None`: no memory to look at it.
    pub fn meter(&self) -> Option<&Meter> {
        self.table.meter(self.place)
    }
}

/// What a rule or group asks of its traffic.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DesiredTerms {
    pub rates: Rates,
    pub quota: Option<(Counted, Over)>,
    pub closed: Option<Closed>,
    /// Each port is counted by itself, too.
    pub counts_ports: bool,
}

impl Standard for DesiredTerms {
    fn standard() -> &'static Self {
        static STANDARD: LazyLock<DesiredTerms> = LazyLock::new(DesiredTerms::default);
        &STANDARD
    }
}

impl DesiredTerms {
    pub fn new(rates: Rates, quota: Option<&crate::rule::Quota>, closed: Option<Closed>) -> Self {
        Self { rates, quota: quota.map(|quota| (quota.count, quota.over)), closed, counts_ports: false }
    }

    fn terms(&self, group: u32) -> Terms {
        Terms {
            rates: [self.rates.ingress / 8, self.rates.egress / 8],
            per_client: self.rates.per_client / 8,
            quota: self.quota.map(|(counted, over)| Quota {
                counted: match counted {
                    Counted::In => relay_common::meter::Counted::Ingress,
                    Counted::Out => relay_common::meter::Counted::Egress,
                    Counted::Both => relay_common::meter::Counted::Both,
                    Counted::Max => relay_common::meter::Counted::Each,
                },
                throttle: match over {
                    Over::Block => 0,
                    Over::Throttle(rate) => rate / 8,
                },
            }),
            closed: self.closed,
            counts_ports: self.counts_ports,
            group,
        }
    }
}

/// The places of groups.
#[derive(Debug, Default)]
pub struct GroupPlaces(BTreeMap<GroupName, u32>);

impl GroupPlaces {
    fn take(&mut self, name: &GroupName) -> Option<u32> {
        if let Some(&place) = self.0.get(name) {
            return Some(place);
        }
        let taken: std::collections::HashSet<u32> = self.0.values().copied().collect();
        let place = (FIRST_GROUP + 1..FIRST_GROUP + GROUPS).find(|place| !taken.contains(place))?;
        self.0.insert(name.clone(), place);
        Some(place)
    }
}

impl Dataplane {
    /// What a rule's traffic may be. What it has had before counts.
    pub(super) fn meter_rule(&self, slot: u32, rule: &DesiredRule) -> Result<(), KernelError> {
        let group = rule.group.as_ref().and_then(|group| self.groups.0.get(group)).copied();
        self.set_meter(slot, &rule.terms.terms(group.unwrap_or(0)))
    }

    /// Nothing is asked of a slot's traffic.
    pub(super) fn clear_meter(&self, slot: u32) -> Result<(), KernelError> {
        self.set_meter(slot, &Terms::default())
    }

    fn set_meter(&self, place: u32, terms: &Terms) -> Result<(), KernelError> {
        let asks_nothing = *terms == Terms::default();
        match self.meters.meter(place) {
            Some(meter) if asks_nothing && meter.is_off() => {}
            Some(meter) => meter.set(terms, monotonic()),
            None if asks_nothing => {}
            None => return Err(KernelError::NoMemory(names::METERS)),
        }
        Ok(())
    }

    /// Groups have meters from now on. One that is new begins with plenty.
    pub(super) fn write_groups(&mut self, desired: &Desired) -> Result<(), KernelError> {
        for (name, terms) in &*desired.groups {
            let is_new = !self.groups.0.contains_key(name);
            let Some(place) = self.groups.take(name) else { return Err(KernelError::TooManyGroups) };
            if is_new {
                // a relayd before this one may have had another group there
                self.clear_meter(place)?;
            }
            self.set_meter(place, &terms.terms(0))?;
        }
        Ok(())
    }

    /// Groups that are no more have none, once no rule leads there.
    pub(super) fn end_groups(&mut self, desired: &Desired) -> Result<(), KernelError> {
        let gone: Vec<u32> = self
            .groups
            .0
            .extract_if(.., |name, _| !desired.groups.contains_key(name))
            .map(|(_, place)| place)
            .collect();
        gone.into_iter().try_for_each(|place| self.clear_meter(place))
    }

    /// A rule's meter; `None`: it has no slot.
    pub fn meter_of_rule(&self, name: &RuleName) -> Option<MeterPlace> {
        let place = self.shadow.slots.get(name)?;
        Some(MeterPlace { table: self.meters.clone(), place })
    }

    pub fn meter_of_group(&self, name: &GroupName) -> Option<MeterPlace> {
        let place = *self.groups.0.get(name)?;
        Some(MeterPlace { table: self.meters.clone(), place })
    }
}
