//! Telling how many flows and sessions have ended with their backends' addresses.

use std::collections::HashMap;

use super::shared::Shared;
use super::state::State;
use crate::rule::RuleName;

impl Shared {
    /// Of the kernel plane, by slot.
    pub fn tell_gone(&self, gone: &HashMap<u32, u64>) {
        if gone.is_empty() {
            return;
        }
        let snapshot = self.snapshot();
        for (name, slot) in &snapshot.slots {
            if let Some(&flows) = gone.get(slot) {
                self.tell_lost(name, flows, "of the kernel plane's flows");
            }
        }
    }

    fn tell_lost(&self, name: &RuleName, count: u64, what: &str) {
        if count > 0 {
            let text =
                format!("rule {name}: {count} {what} ended: their backend's address is the rule's no more");
            tracing::info!(RULE = name.as_str(), "{text}");
            self.tell("rule.reset", Some(name), text);
        }
    }
}

impl State {
    /// Of the user plane.
    pub fn tell_lost(&self) {
        let Some(serving) = &self.serving else { return };
        for (name, counters) in &*serving.counters() {
            self.shared.tell_lost(name, counters.take_lost(), "of the user plane's sessions");
        }
    }
}
