//! Keeping what is known for the next relayd.

use std::collections::BTreeMap;

use super::Backends;
use crate::health::saved::{EndpointKey, RuleMemory, Saved};
use crate::health::weigh::RuleHealth;
use crate::rule::RuleName;

impl Backends {
    /// Writes it down if there is anything new. That takes a moment, so a thread of its own does it.
    pub fn save_later(&mut self) {
        if let Some((saved, file)) = self.unsaved() {
            let save = move || write(&saved, &file);
            tokio::task::spawn_blocking(save);
        }
    }

    /// The same, now: relayd stops.
    pub fn save(&mut self) {
        if let Some((saved, file)) = self.unsaved() {
            write(&saved, &file);
        }
    }

    fn unsaved(&mut self) -> Option<(Saved, std::path::PathBuf)> {
        if !std::mem::take(&mut self.is_unsaved) {
            return None;
        }
        let mut standings = self.prober.as_ref().map(crate::health::Prober::standings).unwrap_or_default();
        let mut endpoints = self.saved.clone();
        for (name, watched) in &self.watched {
            for ((protocol, backend), end) in &watched.ends {
                let Some(standing) = standings.remove(&end.id) else { continue };
                let (rule, backend, address) = (name.clone(), backend.clone(), end.probe.address);
                endpoints.insert(EndpointKey { rule, backend, address, protocol: *protocol }, standing);
            }
        }
        Some((Saved { endpoints, rules: memories(&self.health) }, self.file.clone()))
    }
}

fn memories<'a>(
    health: impl IntoIterator<Item = (&'a RuleName, &'a RuleHealth)>,
) -> BTreeMap<RuleName, RuleMemory> {
    let memory =
        |health: &RuleHealth| RuleMemory { held: health.held.clone(), orders: health.orders.clone() };
    let is_worth_it = |health: &RuleHealth| !health.held.is_empty() || !health.orders.is_empty();
    let worth = health.into_iter().filter(|(_, health)| is_worth_it(health));
    worth.map(|(name, health)| (name.clone(), memory(health))).collect()
}

fn write(saved: &Saved, file: &std::path::Path) {
    if let Err(error) = saved.save(file) {
        tracing::warn!("{}: {error}; the next relayd finds out anew how backends are", file.display());
    }
}
