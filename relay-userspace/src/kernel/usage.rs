//! What rules have used of their limits, and what is known of their endpoints' flows: maps' memory, shared with the programs.

use std::path::Path;
use std::sync::Arc;

use relay_common::choice::EndpointUsage;
use relay_common::names;
use relay_common::usage::Usage;

use super::load::Dataplane;
use super::mapped::Mapped;
use super::ways::rule_ends;
use super::{DesiredRule, Unavailable, maps};

/// Every slot's use of its limits.
#[derive(Debug)]
pub struct UsageTable(Mapped<Usage>);

impl UsageTable {
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        let table = Mapped::open(pins, names::USAGE, maps::RULE_SLOTS)?;
        // every rule asks for its own, at any time
        let all = table.stretch(0, maps::RULE_SLOTS as usize).map(<[Usage]>::len);
        all.map(|_all| Self(table)).ok_or_else(|| Unavailable(format!("map {}: no memory", names::USAGE)))
    }

    /// All slots in order.
    pub fn slots(&self) -> &[Usage] {
        self.0.entries()
    }
}

/// One rule's.
#[derive(Clone, Debug)]
pub struct UsageSlot {
    pub(super) table: Arc<UsageTable>,
    pub(super) slot: u32,
}

impl AsRef<Usage> for UsageSlot {
    fn as_ref(&self) -> &Usage {
        &self.table.slots()[self.slot as usize]
    }
}

/// What is known of every endpoint's flows.
#[derive(Debug)]
pub struct EndpointTable(Mapped<EndpointUsage>);

impl EndpointTable {
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        Mapped::open(pins, names::ENDPOINT_USAGE, maps::ENDPOINT_SLOTS).map(Self)
    }

    /// All endpoints that somebody has asked for, and some beyond, in the order of their numbers.
    pub fn endpoints(&self) -> &[EndpointUsage] {
        self.0.entries()
    }

    /// One of them. `None`: there is none, or no memory to look at it.
    pub fn endpoint(&self, number: u32) -> Option<&EndpointUsage> {
        self.0.stretch(number as usize, 1)?.first()
    }
}

/// What is known of the flows of one rule's backends, at any time and without a system call. Good for as long as the rule's
/// backends stay where they are: ask for another one after each apply.
#[derive(Clone, Debug)]
pub struct BackendUsage {
    table: Arc<EndpointTable>,
    endpoints: Arc<[Option<u32>]>,
}

impl BackendUsage {
    /// One backend's, by its index in the rule's `to`. `None`: the kernel plane does not reach it. Backends that are the
    /// same endpoint share it.
    pub fn of(&self, backend: usize) -> Option<&EndpointUsage> {
        let endpoint = (*self.endpoints.get(backend)?)?;
        self.table.endpoint(endpoint)
    }

    /// The same, of the first of those backends alone: what is added up counts once.
    pub fn own(&self, backend: usize) -> Option<&EndpointUsage> {
        let endpoint = self.endpoints.get(backend)?;
        let is_first = !self.endpoints[..backend].contains(endpoint);
        self.of(backend).filter(|_| is_first)
    }
}

impl Dataplane {
    /// What is known of the flows of a rule's backends. `rule`: as it was last applied or swapped.
    pub fn backend_usage(&self, rule: &DesiredRule) -> Option<BackendUsage> {
        let (slot, carried) = (self.slot(&rule.name)?, rule.carried.as_ref()?);
        let number = |content| self.shadow.endpoints.get(&content);
        let endpoints = rule_ends(slot, carried).map(|end| end.and_then(|(content, _)| number(content)));
        Some(BackendUsage { table: self.endpoint_usage.clone(), endpoints: endpoints.collect() })
    }
}
