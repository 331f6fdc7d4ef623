//! Walking the flow tables: counting live flows per rule and having dead ones deleted.
//!
//! Runs on a thread of its own with its own handles. It only names candidates; the sweep program decides beside the
//! packets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aya::TestRunOptions;
use aya::maps::MapData;
use aya::programs::{SchedClassifier, TestRun as _};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::Protocol;
use relay_common::rule::{RuleEntry, RuleState};
use relay_common::settings::SweepRequest;
use relay_common::{names, tick};

use super::batch::Walk;
use super::gone::{Backends, Gone};
use super::recount::Recount;
use super::usage::UsageTable;
use super::{Dataplane, Unavailable, maps};

pub struct Sweeper {
    program: SchedClassifier,
    tables: [(MapData, Table); 3],
    rules: aya::maps::Array<MapData, RuleEntry>,
    hz: u32,
    rounds: u32,
    /// Halves marked in the last round.
    marked: Vec<FlowKey>,
    usage: UsageTable,
    recount: Recount,
    /// Allow lists that rounds have held flows against: the number of each, and how many rounds.
    checked: HashMap<u32, (u32, u32)>,
    backends: Arc<Backends>,
}

/// A flow that was opened while the list changed may come after the first round.
const CHECKS: u32 = 2;

/// Every so many rounds, halves are looked for that have lost their other half. They are rare, and finding them costs
/// more than the rest of a walk.
pub const PAIRING: u32 = 12;

/// Which table a flow lies in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Table {
    Established(Protocol),
    Unproven,
}

/// What a walk has found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Census {
    /// Live flows by rule slot.
    pub active: HashMap<u32, u64>,
    /// Flows in the established tables.
    pub tcp: u64,
    pub udp: u64,
    pub unproven: u64,
    /// Flows deleted in this round.
    pub deleted: u64,
    /// Of these, by rule slot, those whose backend's address is the rule's no more.
    pub gone: HashMap<u32, u64>,
}

/// Frame header that the kernel wants of a test packet; its content does not matter.
const LINK_HEADER: usize = 14;

impl Sweeper {
    pub fn open(dataplane: &Dataplane) -> Result<Self, Unavailable> {
        let pins = dataplane.pins();
        let program = SchedClassifier::from_pin(pins.join(names::SWEEP))
            .map_err(|error| Unavailable(format!("cannot open the sweeper: {error}")))?;
        let table = |name, table| Ok::<_, Unavailable>((maps::open_raw(pins, name)?, table));
        let tables = [
            table(names::FLOWS_TCP, Table::Established(Protocol::Tcp))?,
            table(names::FLOWS_UDP, Table::Established(Protocol::Udp))?,
            table(names::UNPROVEN, Table::Unproven)?,
        ];
        Ok(Self {
            program,
            tables,
            rules: maps::open(pins, names::RULES)?,
            hz: dataplane.hz,
            rounds: 0,
            marked: Vec::new(),
            usage: UsageTable::open(pins)?,
            recount: Recount::default(),
            checked: HashMap::new(),
            backends: dataplane.backends.clone(),
        })
    }

    /// One round: deletes what the last one marked and is still idle, marks what is idle now or has lost its other half,
    /// ends flows whose rule is gone, lets their client in no more or goes elsewhere, counts the rest.
    pub fn round(&mut self) -> Result<Census, Unavailable> {
        self.beat()?;
        let marked = std::mem::take(&mut self.marked);
        let deleted = self.run(SweepRequest::DELETE, &marked)?;
        let mut census = Census { deleted, ..Census::default() };
        let mut walk = Findings {
            now: self.now()?,
            rules: HashMap::new(),
            pairs: self.rounds.is_multiple_of(PAIRING).then(Pairs::default),
            idle: Vec::new(),
            orphans: Vec::new(),
            checked: std::mem::take(&mut self.checked),
            counted: HashMap::new(),
            gone: Gone::begin(&self.backends),
        };
        for (map, table) in &self.tables {
            visit(map, *table, &self.rules, &mut walk, &mut census)?;
            walk.idle.extend(walk.pairs.iter_mut().flat_map(Pairs::left));
        }
        self.rounds = self.rounds.wrapping_add(1);
        self.recount.compare(&walk.counted, self.usage.slots());
        self.checked = walk.checked_now();
        census.deleted += self.run(SweepRequest::ORPHANS, &walk.orphans)?;
        for (slot, halves) in walk.gone.left(&self.backends) {
            let ended = self.run_for(slot, SweepRequest::GONE, &halves)?;
            census.deleted += ended;
            census.gone.insert(slot, ended);
        }
        self.run(SweepRequest::MARK, &walk.idle)?;
        self.marked = walk.idle;
        Ok(census)
    }

    /// Says that sessions still count.
    fn beat(&self) -> Result<(), Unavailable> {
        let now = Duration::from(uptime()?).as_nanos() as u64;
        self.usage.slots().iter().filter(|usage| usage.sessions() != 0).for_each(|usage| usage.beat(now));
        Ok(())
    }

    /// The programs' clock, in ticks.
    fn now(&self) -> Result<u32, Unavailable> {
        // the monotonic clock and jiffies start together, but for 300 s that jiffies are set back by
        let up = uptime()?;
        let hz = u64::from(self.hz);
        let seconds = up.tv_sec().cast_unsigned();
        let since_boot = seconds * hz + up.tv_nsec().cast_unsigned() * hz / 1_000_000_000;
        let jiffies = ((1u64 << 32) - 300 * hz).wrapping_add(since_boot);
        Ok((jiffies >> tick::shift(self.hz)) as u32)
    }

    /// Hands keys to the sweep program; returns how many flows it acted on.
    fn run(&self, mode: u32, keys: &[FlowKey]) -> Result<u64, Unavailable> {
        self.run_for(0, mode, keys)
    }

    fn run_for(&self, rule: u32, mode: u32, keys: &[FlowKey]) -> Result<u64, Unavailable> {
        let mut acted = 0;
        for chunk in keys.chunks(SweepRequest::MOST as usize) {
            let packet = request(rule, mode, chunk);
            let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
            let result = self
                .program
                .test_run(options)
                .map_err(|error| Unavailable(format!("the sweeper failed: {error}")))?;
            acted += u64::try_from(result.return_value.cast_signed()).unwrap_or(0);
        }
        Ok(acted)
    }
}

fn uptime() -> Result<TimeSpec, Unavailable> {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_err(|error| Unavailable(format!("cannot read the clock: {error}")))
}

/// The "packet" that carries a request.
fn request(rule: u32, mode: u32, keys: &[FlowKey]) -> Vec<u8> {
    let mut packet = vec![0; LINK_HEADER];
    packet.extend((keys.len() as u32).to_ne_bytes());
    packet.extend(mode.to_ne_bytes());
    packet.extend(rule.to_ne_bytes());
    for key in keys {
        packet.extend(key.to_bytes());
    }
    // the kernel takes no test packet below the size of an IP header
    packet.resize(packet.len().max(64), 0);
    packet
}

struct Findings {
    now: u32,
    rules: HashMap<u32, RuleEntry>,
    /// In rounds that look for halves without their other half.
    pairs: Option<Pairs>,
    /// Halves that may be dead.
    idle: Vec<FlowKey>,
    /// Halves whose rule is gone, or whose client may have to go.
    orphans: Vec<FlowKey>,
    checked: HashMap<u32, (u32, u32)>,
    /// Flows that count for each slot's limit.
    counted: HashMap<u32, i64>,
    gone: Gone,
}

fn visit(
    map: &MapData,
    table: Table,
    rules: &aya::maps::Array<MapData, RuleEntry>,
    findings: &mut Findings,
    census: &mut Census,
) -> Result<(), Unavailable> {
    let fd = map.fd();
    let mut walk = Walk::<_, FlowKey, FlowEntry>::new(fd);
    let failed = |error: std::io::Error| Unavailable(format!("cannot walk a flow table: {error}"));
    while let Some(chunk) = walk.next_chunk().map_err(failed)? {
        for (key, half) in chunk {
            findings.take(&key, &half, table, rules, census);
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
        rules: &aya::maps::Array<MapData, RuleEntry>,
        census: &mut Census,
    ) {
        let slot = half.rule();
        if half.flags().has(FlowFlags::COUNTED) {
            *self.counted.entry(slot).or_default() += 1;
        }
        let rule = *self.rules.entry(slot).or_insert_with(|| rules.get(&slot, 0).unwrap_or(RuleEntry::OFF));
        if rule.generation != half.generation || rule.state() == RuleState::Off {
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
                pairs.meet(*key, half.opposite(protocol));
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
    fn checked_now(&self) -> HashMap<u32, (u32, u32)> {
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
struct Pairs(HashMap<FlowKey, FlowKey>);

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
    fn left(&mut self) -> impl Iterator<Item = FlowKey> + use<> {
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
