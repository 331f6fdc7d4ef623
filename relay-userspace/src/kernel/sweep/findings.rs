//! What a walk finds: which flows live, and which are candidates for the sweep program.

use std::collections::HashMap;

use aya::maps::MapData;
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::Protocol;
use relay_common::rule::RuleEntry;
use relay_common::tick;

use super::{Census, Others, Table};
use crate::kernel::Unavailable;
use crate::kernel::batch::Walk;
use crate::kernel::gone::Gone;

/// What one walk has come across.
pub(super) struct Findings {
    pub(super) now: u32,
    pub(super) rules: HashMap<u32, RuleEntry>,
    /// In rounds that look for halves without their other half.
    pub(super) pairs: Option<Pairs>,
    /// Halves that may be dead.
    pub(super) idle: Vec<FlowKey>,
    /// Halves whose rule is gone, or whose client may have to go.
    pub(super) orphans: Vec<FlowKey>,
    pub(super) checked: HashMap<u32, (u32, u32)>,
    /// Flows that count for each slot's limit.
    pub(super) counted: HashMap<u32, i64>,
    /// The same by endpoint.
    pub(super) counted_to: HashMap<u32, i64>,
    pub(super) gone: Gone,
}

pub(super) fn visit(
    map: &MapData,
    table: Table,
    (rules, others): (&aya::maps::Array<MapData, RuleEntry>, &Others),
    findings: &mut Findings,
    census: &mut Census,
) -> Result<(), Unavailable> {
    let fd = map.fd();
    let mut walk = Walk::<_, FlowKey, FlowEntry>::new(fd);
    let failed = |error: std::io::Error| Unavailable(format!("cannot walk a flow table: {error}"));
    while let Some(chunk) = walk.next_chunk().map_err(failed)? {
        for (key, half) in chunk {
            findings.take(&key, &half, table, (rules, others), census);
        }
    }
    Ok(())
}

impl Findings {
    fn take(
        &mut self,
        key: &FlowKey,
        half: &FlowEntry,
        table: Table,
        (rules, others): (&aya::maps::Array<MapData, RuleEntry>, &Others),
        census: &mut Census,
    ) {
        let slot = half.rule();
        if half.flags().has(FlowFlags::COUNTED) {
            *self.counted.entry(slot).or_default() += 1;
            *self.counted_to.entry(half.endpoint()).or_default() += 1;
        }
        let rule = *self.rules.entry(slot).or_insert_with(|| rules.get(&slot, 0).unwrap_or(RuleEntry::OFF));
        if rule.generation != half.generation || rule.is_off() {
            self.orphans.push(*key);
            return;
        }
        self.gone.meet(key, half);
        let flags = half.flags();
        let is_client = !flags.has(FlowFlags::EGRESS);
        if is_client && self.must_check(slot, &rule) {
            self.orphans.push(*key);
        }
        let age_limit = match table {
            Table::Established(protocol) => limit(protocol, &rule, flags),
            Table::Unproven => UNPROVEN_TICKS,
        };
        let idle = tick::passed(self.now, half.seen, age_limit);
        if is_client {
            match table {
                Table::Established(Protocol::Tcp) => census.tcp += 1,
                Table::Established(Protocol::Udp) => census.udp += 1,
                Table::Unproven => census.unproven += 1,
            }
            // a closed flow waits for late segments only, a reset one for nothing
            let ended = flags.has_any(FlowFlags::CLOSED.with(FlowFlags::RESET));
            let forgotten = table == Table::Unproven && idle;
            if !ended && !forgotten {
                *census.active.entry(slot).or_default() += 1;
            }
        }
        if let Table::Established(protocol) = table {
            if let Some(pairs) = &mut self.pairs {
                pairs.meet(*key, others.key(half, protocol));
            }
            if idle {
                self.idle.push(*key);
            }
        }
    }
}

impl Findings {
    /// Whether the rule's allow list is newer than the rounds that flows have been held against it in.
    fn must_check(&self, slot: u32, rule: &RuleEntry) -> bool {
        let done = |&(number, rounds): &(u32, u32)| number == rule.guarded && rounds >= CHECKS;
        rule.guarded != 0 && !self.checked.get(&slot).is_some_and(done)
    }

    /// What flows have been held against after this round.
    pub(super) fn checked_now(&self) -> HashMap<u32, (u32, u32)> {
        let guarded = self.rules.iter().filter(|(_, rule)| rule.guarded != 0);
        let checked = guarded.map(|(&slot, rule)| {
            let before = self.checked.get(&slot).filter(|(number, _)| *number == rule.guarded);
            (slot, (rule.guarded, before.map_or(0, |&(_, rounds)| rounds) + 1))
        });
        checked.collect()
    }
}

/// Halves of established flows whose other half has not come by yet, by key, with the key of that other half.
#[derive(Default)]
pub(super) struct Pairs(HashMap<FlowKey, FlowKey>);

impl Pairs {
    /// One half comes by. A half under the right key that belongs to another flow is not its other half.
    fn meet(&mut self, key: FlowKey, opposite: FlowKey) {
        if self.0.get(&opposite) == Some(&key) {
            self.0.remove(&opposite);
        } else {
            self.0.insert(key, opposite);
        }
    }

    /// Halves that have stayed alone; begins anew.
    pub(super) fn left(&mut self) -> impl Iterator<Item = FlowKey> + use<> {
        std::mem::take(&mut self.0).into_keys()
    }
}

/// An unproven flow that has been silent for longer is not counted as live; the table forgets it by itself.
const UNPROVEN_TICKS: u32 = 30;

/// The shortest time after which the program may find the flow expired: it looks at both halves, this at one.
fn limit(protocol: Protocol, rule: &RuleEntry, flags: FlowFlags) -> u32 {
    match protocol {
        Protocol::Udp => rule.udp_idle,
        Protocol::Tcp if flags.has_any(FlowFlags::SLOW) => 1,
        Protocol::Tcp => rule.tcp_idle,
    }
}

/// A flow that was opened while the list changed may come after the first round.
const CHECKS: u32 = 2;
