//! Bringing the maps to what is desired, by difference.
//!
//! Order matters, since packets keep flowing: what is pointed at is written before what points to it, and removed after.
//! Every step is recorded in the shadow as it succeeds, so applying the former state again undoes a change that failed
//! half-way.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::MapError;
use relay_common::choice::Place;
use relay_common::counters::{DropKey, DropReason, PortKey, RuleCounters};
use relay_common::net::Protocol;
use relay_common::rule::{Limits, RuleEntry, RuleState};
use relay_common::settings::Settings;
use relay_common::usage::Pace;
use relay_common::{names, tick};

use super::load::Dataplane;
use super::shortage::Shortage;
use super::slots::encode_name;
use super::{Carried, Desired, DesiredRule, KernelError, guard, maps};

const HANDSHAKE: Duration = Duration::from_secs(20);
const UDP_UNANSWERED: Duration = Duration::from_secs(30);
const CLOSED: Duration = Duration::from_secs(2);
const RESET: Duration = Duration::from_secs(10);
const FRAGMENTS: Duration = Duration::from_secs(30);
/// ICMP errors per CPU and tick.
const ICMP_BUDGET: u32 = 200;

/// What an apply has left to do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Applied {
    /// Rules ended, or are to end flows, so these must be swept.
    pub orphans: bool,
    /// There is no room for a table by which new flows choose their backend: they go as before, for now.
    pub is_short: bool,
}

pub(super) fn map_error(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { map, source }
}

impl Dataplane {
    /// Makes the kernel plane do what is desired. On error some of it may be done: apply the former state again.
    pub fn apply(&mut self, desired: &Desired) -> Result<Applied, KernelError> {
        if desired.rules.len() > maps::RULE_SLOTS as usize {
            let (wanted, most) = (desired.rules.len(), maps::RULE_SLOTS as usize);
            return Err(KernelError::TooManyRules { wanted, most });
        }
        guard::check_room(desired)?;
        let mut applied = Applied::default();
        let result = match self.kept(desired) {
            Some(kept) => self.add_rules(desired, kept, &mut applied),
            None => self.apply_all(desired, &mut applied),
        };
        self.applied = result.is_ok().then(|| desired.clone());
        result.map(|()| applied)
    }

    /// How many rules at the start of the list the maps hold already, if all that is desired are these and more.
    fn kept(&self, desired: &Desired) -> Option<usize> {
        let applied = self.applied.as_ref()?;
        let kept = applied.rules.len();
        let same_host = applied.routes == desired.routes
            && applied.groups == desired.groups
            && applied.addresses == desired.addresses
            && applied.addresses_v6 == desired.addresses_v6
            && applied.claims == desired.claims
            && applied.devices == desired.devices
            && applied.paced == desired.paced;
        let same_rules = kept <= desired.rules.len()
            && applied.rules.iter().zip(&desired.rules).all(|(old, new)| Arc::ptr_eq(old, new));
        (same_host && same_rules).then_some(kept)
    }

    /// Rules are only added: nothing else needs to be looked at.
    fn add_rules(
        &mut self,
        desired: &Desired,
        kept: usize,
        applied: &mut Applied,
    ) -> Result<(), KernelError> {
        let new = &desired.rules[kept..];
        let (short, tables) = (self.shortage.rules, self.shortage.tables);
        let hops = self.write_hops(new, desired)?;
        if self.shortage.rules > short {
            return Err(KernelError::TooManyHops { most: maps::HOP_SLOTS as usize - 1 });
        }
        self.take_slots(new)?;
        self.write_endpoints(new, &hops, &mut false)?;
        self.write_rules(new, applied)?;
        if self.shortage.tables > tables {
            return Err(KernelError::TooManyPlaces { most: Place::ROOM });
        }
        self.write_listening(desired)
    }

    fn apply_all(&mut self, desired: &Desired, applied: &mut Applied) -> Result<(), KernelError> {
        self.write_all(desired, applied)?;
        if self.shortage.passing {
            // what is gone has left its place by now
            self.write_all(desired, applied)?;
        }
        Ok(())
    }

    fn write_all(&mut self, desired: &Desired, applied: &mut Applied) -> Result<(), KernelError> {
        self.shortage = Shortage { routes: desired.routes.left_out, ..Shortage::default() };
        self.write_settings(desired)?;
        self.add_addresses(desired)?;
        self.write_devices(desired)?;
        self.write_paced(desired)?;
        let mut hops = self.write_hops(&desired.rules, desired)?;
        self.write_route_hops(desired, &mut hops)?;
        let mut rerouted = self.write_routes(desired, &hops)?;
        self.take_slots(&desired.rules)?;
        self.write_groups(desired)?;
        self.write_endpoints(&desired.rules, &hops, &mut rerouted)?;
        if rerouted {
            self.raise_generations()?;
        }
        self.write_rules(&desired.rules, applied)?;
        self.write_listening(desired)?;
        self.end_rules(desired, applied)?;
        self.end_groups(desired)?;
        self.free_ways(desired, &hops)?;
        self.remove_addresses(desired)
    }

    fn write_settings(&mut self, desired: &Desired) -> Result<(), KernelError> {
        let ticks = |duration: Duration| self.ticks(duration);
        let settings = Settings {
            claim_first: desired.claims.first,
            claim_count: desired.claims.len(),
            handshake: ticks(HANDSHAKE),
            udp_unanswered: ticks(UDP_UNANSWERED),
            closed: ticks(CLOSED),
            reset: ticks(RESET),
            fragments: ticks(FRAGMENTS),
            icmp_per_tick: ICMP_BUDGET,
            tells: self.tells(),
            secret: self.secret,
        };
        if self.shadow.settings != Some(settings) {
            self.maps.settings.set(0, settings, 0).map_err(map_error(names::SETTINGS))?;
            self.shadow.settings = Some(settings);
        }
        Ok(())
    }

    fn ticks(&self, duration: Duration) -> u32 {
        tick::ticks(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), self.hz)
    }

    /// XDP's devices. One that is gone has left the map by itself.
    fn write_devices(&mut self, desired: &Desired) -> Result<(), KernelError> {
        self.shadow.devices.retain(|slot, interface| desired.devices.get(interface) == Some(slot));
        for (&interface, &slot) in &desired.devices {
            if self.shadow.devices.get(&slot) != Some(&interface) {
                let set = self.maps.devices.set(slot.into(), interface, None, 0);
                set.map_err(|source| KernelError::Device { interface, source })?;
                self.shadow.devices.insert(slot, interface);
            }
        }
        Ok(())
    }

    /// Interfaces that keep packets until they are due. One too many does without.
    fn write_paced(&mut self, desired: &Desired) -> Result<(), KernelError> {
        let known: BTreeSet<u32> = self.maps.paced.keys().flatten().collect();
        for gone in known.difference(&desired.paced) {
            absent_is_fine(self.maps.paced.remove(gone)).map_err(map_error(names::PACED))?;
        }
        for interface in desired.paced.difference(&known).take(maps::PACED as usize) {
            let inserted = self.maps.paced.insert(interface, 1, 0);
            self.shortage.has_room(inserted).map_err(map_error(names::PACED))?;
        }
        Ok(())
    }

    /// Every rule has a slot from now on, which its endpoints are known by.
    fn take_slots(&mut self, rules: &[Arc<DesiredRule>]) -> Result<(), KernelError> {
        for rule in rules {
            let known = self.shadow.slots.get(&rule.name);
            if !known.is_some_and(|slot| self.shadow.rules.contains_key(&slot)) {
                self.new_slot(rule)?;
            }
        }
        Ok(())
    }

    /// Rules that have slots, whose backends are in the endpoint table.
    fn write_rules(&mut self, rules: &[Arc<DesiredRule>], applied: &mut Applied) -> Result<(), KernelError> {
        for rule in rules {
            let Some(slot) = self.shadow.slots.get(&rule.name) else { continue };
            let old = self.shadow.rules.get(&slot).copied().unwrap_or(RuleEntry::OFF);
            let mut entry = self.rule_entry(rule, &old);
            let list = rule.allow.as_deref();
            entry.guarded = list.map_or(Ok(0), |list| self.widen(slot, list, old.guarded))?;
            entry.limits = limits(rule.limits);
            self.meter_rule(slot, rule)?;
            if self.shadow.draining.contains(&rule.name) != rule.draining {
                self.write_name(slot, rule)?;
            }
            applied.orphans |= self.backends.set(slot, rule.backends.as_ref(), rule.wraps_udp);
            applied.orphans |= entry.generation != old.generation || entry.guarded != old.guarded;
            self.shortage.passing |= self.choose(slot, rule, old, entry)?;
            self.narrow(slot, list)?;
        }
        Ok(())
    }

    pub(super) fn write_entry(&mut self, slot: u32, entry: RuleEntry) -> Result<(), KernelError> {
        self.maps.rules.set(slot, entry, 0).map_err(map_error(names::RULES))?;
        self.shadow.rules.insert(slot, entry);
        Ok(())
    }

    /// All of it but who gets new flows.
    fn rule_entry(&self, rule: &DesiredRule, old: &RuleEntry) -> RuleEntry {
        let user = rule.user.as_ref();
        let mut entry = match &rule.carried {
            Some(carried) => self.carried_entry(rule, carried, old),
            None if !rule.enabled => return old.switched_off(),
            None if user.is_some_and(|user| user.ipv4) => old.left_to_user(),
            None => old.without_new_flows(),
        };
        entry.shared = rule.shares.into();
        let carries_v6 = rule.carried.as_ref().is_some_and(|carried| !carried.kernel.listeners_v6.is_empty());
        entry.with_v6(match (carries_v6, rule.draining) {
            (true, false) => RuleState::Active,
            (true, true) => RuleState::Draining,
            (false, _) if user.is_some_and(|user| user.ipv6) => RuleState::User,
            (false, _) => RuleState::Off,
        })
    }

    fn carried_entry(&self, rule: &DesiredRule, carried: &Carried, old: &RuleEntry) -> RuleEntry {
        let state = if rule.draining { RuleState::Draining } else { RuleState::Active };
        let timeouts = &carried.kernel.timeouts;
        let mut entry = RuleEntry::new(old.generation, state);
        entry.tcp_idle = self.ticks(timeouts.tcp_idle);
        entry.tcp_half_closed = self.ticks(timeouts.half_close);
        entry.udp_idle = self.ticks(timeouts.udp);
        entry.yields = u32::from(carried.yields);
        entry.tcp_of_user = u32::from(!carried.kernel.protocols.has(Protocol::Tcp));
        entry
    }

    /// A slot for a rule that is new, with counters at zero.
    fn new_slot(&mut self, rule: &DesiredRule) -> Result<u32, KernelError> {
        let most = maps::RULE_SLOTS as usize;
        let known = self.shadow.slots.get(&rule.name);
        let Some(slot) = known.or_else(|| self.shadow.slots.take(&rule.name)) else {
            return Err(KernelError::TooManyRules { wanted: most + 1, most });
        };
        let before: RuleEntry = self.maps.rules.get(&slot, 0).map_err(map_error(names::RULES))?;
        let entry = RuleEntry::off(before.generation.wrapping_add(1));
        self.maps.rules.set(slot, entry, 0).map_err(map_error(names::RULES))?;
        self.choose_nobody(slot, &before);
        // one that no rule has had yet is empty
        if before.generation != 0 {
            self.clear_counters(slot)?;
            self.clear_meter(slot)?;
        }
        self.write_name(slot, rule)?;
        self.slot_names.set(slot, Some(entry.generation), rule.name.clone());
        self.shadow.rules.insert(slot, entry);
        Ok(slot)
    }

    fn clear_counters(&mut self, slot: u32) -> Result<(), KernelError> {
        let cpus = self.maps.counters.get(&slot, 0).map_err(map_error(names::COUNTERS))?.len();
        let zero = aya::maps::PerCpuValues::try_from(vec![RuleCounters::default(); cpus])
            .map_err(|source| KernelError::Batch { map: names::COUNTERS, source })?;
        self.maps.counters.set(slot, zero, 0).map_err(map_error(names::COUNTERS))?;
        self.forget_drops(slot)
    }

    /// What slots' ports were counted as having carried.
    pub(super) fn forget_ports(&mut self, slots: &[u32]) -> Result<(), KernelError> {
        let keys = self.maps.port_counters.keys().flatten();
        let gone: Vec<PortKey> = keys.filter(|key| slots.contains(&key.rule)).collect();
        for key in gone {
            absent_is_fine(self.maps.port_counters.remove(&key)).map_err(map_error(names::PORT_COUNTERS))?;
        }
        Ok(())
    }

    pub(super) fn forget_drops(&mut self, slot: u32) -> Result<(), KernelError> {
        for &reason in DropReason::ALL {
            let key = DropKey { rule: slot, reason: reason as u32 };
            absent_is_fine(self.maps.drops.remove(&key)).map_err(map_error(names::DROPS))?;
        }
        Ok(())
    }

    fn write_name(&mut self, slot: u32, rule: &DesiredRule) -> Result<(), KernelError> {
        let name = encode_name(&rule.name, rule.draining);
        self.maps.rule_names.insert(slot, name, 0).map_err(map_error(names::RULE_NAMES))?;
        if rule.draining {
            self.shadow.draining.insert(rule.name.clone());
        } else {
            self.shadow.draining.remove(&rule.name);
        }
        Ok(())
    }

    /// Rules that are configured no more give up their slots.
    fn end_rules(&mut self, desired: &Desired, applied: &mut Applied) -> Result<(), KernelError> {
        let wanted: HashSet<_> = desired.rules.iter().map(|rule| &rule.name).collect();
        let gone: Vec<_> = self
            .shadow
            .slots
            .iter()
            .filter(|(name, slot)| !wanted.contains(name) && self.shadow.rules.contains_key(slot))
            .map(|(name, slot)| (name.clone(), slot))
            .collect();
        for (name, slot) in gone {
            let old = self.shadow.rules.get(&slot).copied().unwrap_or(RuleEntry::OFF);
            let entry = RuleEntry::off(old.generation.wrapping_add(1));
            self.maps.rules.set(slot, entry, 0).map_err(map_error(names::RULES))?;
            self.choose_nobody(slot, &old);
            absent_is_fine(self.maps.rule_names.remove(&slot)).map_err(map_error(names::RULE_NAMES))?;
            self.narrow(slot, None)?;
            self.backends.forget(slot);
            self.shadow.rules.remove(&slot);
            self.shadow.draining.remove(&name);
            self.shadow.slots.release(&name);
            applied.orphans = true;
        }
        Ok(())
    }
}

/// Limits as the programs read them.
const fn limits(limits: crate::rule::Limits) -> Limits {
    Limits {
        connections: limits.connections,
        connections_per_ip: limits.connections_per_ip,
        interval: Pace::interval(limits.new_flows),
        interval_per_ip: Pace::interval(limits.new_flows_per_ip),
    }
}

/// Removing what is not there is what was wanted.
pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => {
            Ok(())
        }
        other => other,
    }
}
