//! What was ordered for backends that an apply has taken away: it may come to nothing.

use std::collections::BTreeMap;

use crate::health::saved::RuleMemory;
use crate::health::weigh::RuleHealth;
use crate::rule::RuleName;

impl super::Backends {
    /// What is to be remembered of rules: their own, and what an apply that waits for its confirmation has taken away.
    pub(in crate::supervisor) fn memories(&self) -> BTreeMap<RuleName, RuleMemory> {
        let is_worth_it = |health: &&RuleHealth| !health.held.is_empty() || !health.orders.is_empty();
        let memory =
            |health: &RuleHealth| RuleMemory { held: health.held.clone(), orders: health.orders.clone() };
        let known = self.health.iter().filter(|(_, health)| is_worth_it(health));
        let mut memories: BTreeMap<_, _> =
            known.map(|(name, health)| (name.clone(), memory(health))).collect();
        for (name, before) in &self.aside {
            if self.health.contains_key(name) {
                let orders = &mut memories.entry(name.clone()).or_default().orders;
                for (backend, order) in &before.orders {
                    orders.entry(backend.clone()).or_insert(*order);
                }
            } else {
                memories.insert(name.clone(), before.clone());
            }
        }
        memories
    }

    /// An apply waits for its confirmation. `before`: the memories before it.
    pub(in crate::supervisor) fn set_aside(&mut self, before: BTreeMap<RuleName, RuleMemory>) {
        self.aside = before;
    }

    /// It is there to stay.
    pub(in crate::supervisor) fn forget_aside(&mut self) {
        self.is_unsaved |= !self.aside.is_empty();
        self.aside.clear();
    }

    /// It is undone, the rules of before are about to be back. What has been ordered meanwhile stays.
    pub(in crate::supervisor) fn recall(&mut self) {
        for (name, memory) in self.memories() {
            let health = self.health.entry(name).or_default();
            (health.held, health.orders) = (memory.held, memory.orders);
        }
        self.forget_aside();
    }

    /// Somebody orders otherwise.
    pub(super) fn overrule(&mut self, rule: &RuleName, backend: &str) {
        if let Some(before) = self.aside.get_mut(rule) {
            before.orders.remove(backend);
        }
    }
}
