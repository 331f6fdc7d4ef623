//! Walking the flow tables: counting live flows per rule and having dead ones deleted.
//!
//! Runs on a thread of its own with its own handles. It only names candidates; the sweep program decides beside the
//! packets.

mod findings;

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aya::TestRunOptions;
use aya::maps::MapData;
use aya::programs::{SchedClassifier, TestRun as _};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use relay_common::choice::EndpointUsage;
use relay_common::digest::{Digest, Secret};
use relay_common::flow::{FlowEntry, FlowFlags, FlowKey};
use relay_common::net::{Protocol, ipv6_from_wire};
use relay_common::rule::{Numbered, RuleEntry};
use relay_common::settings::{Settings, SweepRequest};
use relay_common::usage::Usage;
use relay_common::{names, tick};

use self::findings::{Findings, Pairs, visit};
use super::gone::{Backends, Gone};
use super::recount::Recount;
use super::usage::{EndpointTable, UsageTable};
use super::{Dataplane, Unavailable, maps};

pub struct Sweeper {
    program: SchedClassifier,
    tables: [(MapData, Table); 3],
    rules: aya::maps::Array<MapData, RuleEntry>,
    others: Others,
    hz: u32,
    rounds: u32,
    /// Halves marked in the last round.
    marked: Vec<FlowKey>,
    usage: UsageTable,
    recount: Recount,
    endpoints: Arc<EndpointTable>,
    recount_endpoints: Recount,
    /// Allow lists that rounds have held flows against: the number of each, and how many rounds.
    checked: HashMap<u32, (u32, u32)>,
    backends: Arc<Backends>,
}

/// Every so many rounds, halves are looked for that have lost their other half. They are rare, and finding them costs
/// more than the rest of a walk.
pub const PAIRING: u32 = 12;

/// Finds the keys of flows' other halves.
pub struct Others {
    numbered: aya::maps::Array<MapData, Numbered>,
    settings: aya::maps::Array<MapData, Settings>,
}

impl Others {
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        Ok(Self {
            numbered: maps::open(pins, names::NUMBERED)?,
            settings: maps::open(pins, names::SETTINGS)?,
        })
    }

    /// The key of the half that answers to this one.
    pub fn key(&self, half: &FlowEntry, protocol: Protocol) -> FlowKey {
        if half.flags().has(FlowFlags::TO_V6)
            && let Ok(settings) = self.settings.get(&0, 0)
        {
            return half.opposite_v6(&settings.secret, |number| self.digest(number), protocol);
        }
        half.opposite(protocol)
    }

    fn secret(&self) -> Result<Secret, Unavailable> {
        let settings = self.settings.get(&0, 0);
        settings
            .map(|settings| settings.secret)
            .map_err(|error| Unavailable(format!("map {}: {error}", names::SETTINGS)))
    }

    /// The IPv6 address with this number.
    pub fn address(&self, number: u32) -> Ipv6Addr {
        self.numbered
            .get(&number, 0)
            .map_or(Ipv6Addr::UNSPECIFIED, |numbered| ipv6_from_wire(numbered.address))
    }

    fn digest(&self, number: u32) -> Digest {
        self.numbered.get(&number, 0).map_or(Digest::default(), |numbered| numbered.digest)
    }
}

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
            others: Others::open(pins)?,
            rounds: 0,
            marked: Vec::new(),
            usage: UsageTable::open(pins)?,
            recount: Recount::default(),
            endpoints: dataplane.endpoint_usage.clone(),
            recount_endpoints: Recount::default(),
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
            now: ticks_now(self.hz)?,
            rules: HashMap::new(),
            pairs: self.rounds.is_multiple_of(PAIRING).then(Pairs::default),
            idle: Vec::new(),
            orphans: Vec::new(),
            checked: std::mem::take(&mut self.checked),
            counted: HashMap::new(),
            counted_to: HashMap::new(),
            gone: Gone::begin(&self.backends, self.others.secret()?),
        };
        for (map, table) in &self.tables {
            visit(map, *table, (&self.rules, &self.others), &mut walk, &mut census)?;
            walk.idle.extend(walk.pairs.iter_mut().flat_map(Pairs::left));
        }
        self.rounds = self.rounds.wrapping_add(1);
        self.recount.compare(&walk.counted, self.usage.slots().iter().map(Usage::flow_count));
        let endpoints = self.endpoints.endpoints().iter().map(EndpointUsage::active);
        self.recount_endpoints.compare(&walk.counted_to, endpoints);
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

/// The programs' clock, in ticks.
pub(super) fn ticks_now(hz: u32) -> Result<u32, Unavailable> {
    // the monotonic clock and jiffies start together, but for 300 s that jiffies are set back by
    let up = uptime()?;
    let wide = u64::from(hz);
    let seconds = up.tv_sec().cast_unsigned();
    let since_boot = seconds * wide + up.tv_nsec().cast_unsigned() * wide / 1_000_000_000;
    let jiffies = ((1u64 << 32) - 300 * wide).wrapping_add(since_boot);
    Ok((jiffies >> tick::shift(hz)) as u32)
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
