//! What single ports have carried, brought up to now.

use std::collections::HashMap;
use std::sync::PoisonError;

use super::shared::{Shared, not_found};
use crate::accounting::calendar;
use crate::api::problem::ApiProblem;
use crate::api::view::PortView;
use crate::rule::RuleName;

impl Shared {
    /// Brings the totals of ports that are counted by themselves up to now.
    pub fn read_ports(&self) {
        let Some(snapshot) = self.snapshot.borrow().clone() else { return };
        let is_asked = snapshot.rules.iter().any(|planned| planned.rule.count_ports);
        if self.ledgers.folder().is_none() || !is_asked && self.ledgers.with_ports(|ports| ports.is_empty()) {
            return;
        }
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(meter) = meter.as_ref() else { return };
        // what one reading misses the next has
        let Some(readings) = meter.ports() else { return };
        let owners: HashMap<u32, RuleName> =
            snapshot.slots.iter().map(|(name, slot)| (*slot, name.clone())).collect();
        let minute = calendar::now().saturating_sub(1) / 60;
        self.ledgers
            .with_ports(|ports| ports.observe(&readings, &owners, |slot| self.source(meter, slot), minute));
    }

    /// What the ports of a rule have carried, also of one that is gone.
    ///
    /// # Errors
    ///
    /// Neither is there such a rule, nor has there been one that counted its ports.
    pub fn ports_of(&self, name: &RuleName) -> Result<Vec<PortView>, ApiProblem> {
        self.read_ports();
        let ports = self.ledgers.with_ports(|ports| ports.of_rule(name));
        if ports.is_empty() && !self.snapshot().by_name.contains_key(name) {
            return Err(not_found(name));
        }
        Ok(ports.into_iter().map(|(port, total)| PortView { port, lifetime: total.into() }).collect())
    }

    /// Those of all rules that count theirs.
    pub fn all_ports(&self) -> Vec<(String, Vec<PortView>)> {
        let snapshot = self.snapshot();
        let names = snapshot.rules.iter().map(|planned| &planned.rule).filter(|rule| rule.count_ports);
        names.filter_map(|rule| Some((rule.name.to_string(), self.ports_of(&rule.name).ok()?))).collect()
    }
}
