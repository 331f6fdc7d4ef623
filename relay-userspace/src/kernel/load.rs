//! Loading the programs and taking over what a relayd before us has left pinned.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread;

use aya::maps::{Map, MapError, MapInfo};
use aya::programs::{Program, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use relay_common::choice::Place;
use relay_common::digest::Secret;
use relay_common::usage::Usage;
use relay_common::{names, tick};

use super::attach::Attachments;
use super::declined::Declined;
use super::ended::SlotNames;
use super::gone::Backends;
use super::lookup::Lookup;
use super::mapped::Mapped;
use super::maps::{self, Maps};
use super::meters::{GroupPlaces, MeterTable};
use super::numbers;
use super::shadow::Shadow;
use super::shortage::Shortage;
use super::slots::Slots;
use super::tc::TcHook;
use super::usage::{EndpointTable, UsageSlot, UsageTable};
use super::{Desired, KernelError, Unavailable, adopt, bpffs, clock, object, pins as pinned, preflight};
use crate::rule::RuleName;

/// How the kernel plane is to be set up.
#[derive(Clone, Debug)]
pub struct Options {
    pub bpf_dir: PathBuf,
    pub under_systemd: bool,
    /// Established flows per protocol.
    pub max_flows: u32,
    /// Load the XDP program too.
    pub xdp: bool,
    /// The rule whose packets are logged.
    pub traced: Option<RuleName>,
    /// Have the programs tell of flows that are over.
    pub log_ended: bool,
}

/// The loaded kernel plane. Dropping it leaves everything forwarding.
pub struct Dataplane {
    pub(super) pins: PathBuf,
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    pub(super) shadow: Shadow,
    pub(super) attachments: Attachments,
    pub(super) lookup: Result<Lookup, Unavailable>,
    /// What was last applied whole.
    pub(super) applied: Option<Desired>,
    pub(super) shortage: Shortage,
    /// Jiffies per second.
    pub hz: u32,
    /// Established flows that each table really takes: a table from before a restart keeps its size.
    pub max_flows: u32,
    /// Whether flows and rules of an earlier relayd were taken over.
    pub adopted: bool,
    traced: bool,
    usage: Arc<UsageTable>,
    pub(super) endpoint_usage: Arc<EndpointTable>,
    pub(super) meters: Arc<MeterTable>,
    pub(super) groups: GroupPlaces,
    /// Those that new flows choose among, which each take a word.
    pub(super) places: Mapped<AtomicU32>,
    pub(super) declined: Option<Declined>,
    /// Whether the programs tell of flows that are over.
    pub(super) logs_ended: bool,
    /// Whether they tell of all that they see, since somebody watches.
    pub(super) is_observed: bool,
    pub(super) slot_names: Arc<SlotNames>,
    pub(super) backends: Arc<Backends>,
    /// What digests of IPv6 addresses are keyed with.
    pub(super) secret: Secret,
}

impl Dataplane {
    /// Loads the programs onto pinned maps, old or new. Nothing is attached yet.
    pub fn open(options: &Options) -> Result<Self, Unavailable> {
        let bytes = object::relay().ok_or_else(|| Unavailable("built without eBPF".into()))?;
        preflight::check()?;
        raise_memlock();
        let hz = clock::measure()?;
        let pins = bpffs::prepare(&options.bpf_dir, options.under_systemd)?;
        let adopted = pinned::check(&pins)?;
        let traced = options.traced.as_ref().map(|name| (name, traced_slot(&pins, adopted, name)));
        let globals =
            Globals { tick_shift: tick::shift(hz), traced_rule: traced.map_or(u32::MAX, |(_, slot)| slot) };
        let mut ebpf = load_object(bytes, &pins, options, &globals, VerifierLogLevel::DISABLE)?;
        if load_programs(&mut ebpf, options).is_err() {
            // once more, for the verifier's reasons
            ebpf = load_object(bytes, &pins, options, &globals, VerifierLogLevel::DEBUG)?;
            load_programs(&mut ebpf, options).map_err(|error| refused(&error))?;
        }
        pinned::pin_sweeper(&mut ebpf, &pins)?;
        let lookup = Lookup::load(&mut ebpf);
        let mut maps = Maps::open(&pins)?;
        let secret = numbers::secret(&maps)?;
        let declined = Some(Declined::open(&mut ebpf, secret)?);
        let mut shadow = adopt::shadow(&maps, &pins)?;
        adopt::count_round_trips(&mut maps, &shadow)?;
        if let Some((name, slot)) = traced {
            shadow.slots.reserve(name, slot);
        }
        let flows = MapInfo::from_pin(pins.join(names::FLOWS_TCP)).map_err(|e| Unavailable(e.to_string()))?;
        let max_flows = flows.max_entries() / 2;
        let usage = Arc::new(UsageTable::open(&pins)?);
        usage.slots().iter().for_each(Usage::forget_sessions);
        let endpoint_usage = Arc::new(EndpointTable::open(&pins)?);
        let meters = Arc::new(MeterTable::open(&pins)?);
        let places = Mapped::open(&pins, names::PLACES, Place::ROOM)?;
        let slot_names = SlotNames::default();
        shadow.slots.iter().for_each(|(name, slot)| slot_names.set(slot, None, name.clone()));
        let (attachments, traced) = (Attachments::default(), traced.is_some());
        Ok(Self {
            pins,
            ebpf,
            maps,
            shadow,
            attachments,
            lookup,
            applied: None,
            shortage: Shortage::default(),
            hz,
            max_flows,
            adopted,
            traced,
            usage,
            endpoint_usage,
            meters,
            groups: GroupPlaces::default(),
            places,
            declined,
            logs_ended: options.log_ended,
            is_observed: false,
            slot_names: Arc::new(slot_names),
            backends: Arc::default(),
            secret,
        })
    }

    /// Whether the programs log packets.
    pub const fn traces(&self) -> bool {
        self.traced
    }

    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Rules that were marked as draining before a restart.
    pub fn draining(&self) -> impl Iterator<Item = &RuleName> {
        self.shadow.draining.iter()
    }

    /// All rules with their slots.
    pub fn slots(&self) -> std::collections::HashMap<RuleName, u32> {
        self.shadow.slots.iter().map(|(name, slot)| (name.clone(), slot)).collect()
    }

    /// Slots of ended rules whose flows may not all be gone.
    pub fn resting(&self) -> Vec<u32> {
        self.shadow.slots.resting()
    }

    /// No flow refers to these slots any more. What their rules were counted as dropping goes too: there is room for
    /// so many reasons of so many rules only.
    pub fn free_slots(&mut self, slots: &[u32]) -> Result<(), KernelError> {
        let freed = self.shadow.slots.swept(slots);
        self.forget_ports(&freed)?;
        freed.into_iter().try_for_each(|slot| self.forget_drops(slot))
    }

    /// What a rule has used of its limits.
    pub fn usage(&self, name: &RuleName) -> Option<UsageSlot> {
        let slot = self.slot(name)?;
        Some(UsageSlot { table: self.usage.clone(), slot })
    }

    /// A rule's slot.
    pub fn slot(&self, name: &RuleName) -> Option<u32> {
        self.shadow.slots.get(name)
    }
}

/// Kernels before 5.11 charge maps to the locked-memory limit; 64 KiB would not take one table.
fn raise_memlock() {
    let _newer_kernels_do_not_care = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

/// Read-only data that the programs get.
struct Globals {
    tick_shift: u32,
    traced_rule: u32,
}

/// The slot of the rule to trace must be known before the programs are: the one it has, or one that it will get.
fn traced_slot(pins: &Path, adopted: bool, name: &RuleName) -> u32 {
    let slots = if adopted { adopt::slots(pins).unwrap_or_default() } else { Slots::default() };
    slots.get(name).or_else(|| slots.spare()).unwrap_or(maps::RULE_SLOTS - 1)
}

fn load_object(
    bytes: &[u8],
    pins: &Path,
    options: &Options,
    globals: &Globals,
    log: VerifierLogLevel,
) -> Result<Ebpf, Unavailable> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(log);
    loader.override_global(names::TICK_SHIFT, &globals.tick_shift, true);
    loader.override_global(names::TRACED_RULE, &globals.traced_rule, true);
    for name in names::PINNED {
        loader.map_pin_path(name, pins.join(name));
    }
    let halves = options.max_flows.saturating_mul(2);
    loader.map_max_entries(names::FLOWS_TCP, halves);
    loader.map_max_entries(names::FLOWS_UDP, halves);
    // every proven flow may have a client of its own
    loader.map_max_entries(names::SOURCES, halves);
    loader.map_max_entries(names::UNPROVEN, unproven_entries(options.max_flows));
    let ebpf =
        loader.load(bytes).map_err(|error| Unavailable(format!("cannot load the programs: {error}")))?;
    has_all(&ebpf)?;
    Ok(ebpf)
}

/// Some programs are only loaded when an interface needs them: it is now that one which is missing is noticed.
fn has_all(ebpf: &Ebpf) -> Result<(), Unavailable> {
    let mut wanted = TcHook::PROGRAMS.into_iter().chain([names::XDP, names::SWEEP]);
    match wanted.find(|name| ebpf.program(name).is_none()) {
        None => Ok(()),
        Some(name) => Err(Unavailable(format!(
            "the object has no program {name}: build it with `cargo xtask build-ebpf`"
        ))),
    }
}

/// Room for unproven flows: a flood must take longer than a round trip to run through it, and small tables evict
/// far below their size (per-CPU free lists take 128 at a time).
fn unproven_entries(max_flows: u32) -> u32 {
    max_flows.next_power_of_two().clamp(16_384, 262_144)
}

/// Each on a thread of its own: the kernel checks programs for most of the time that relayd takes to start.
fn load_programs(ebpf: &mut Ebpf, options: &Options) -> Result<(), ProgramError> {
    let wanted = |name: &str| match name {
        names::XDP => options.xdp,
        name => [names::TC, names::EGRESS, names::SWEEP].contains(&name),
    };
    let programs = ebpf.programs_mut().filter(|(name, _)| wanted(name)).map(|(_, program)| program);
    thread::scope(|scope| {
        let loads: Vec<_> = programs.map(|program| scope.spawn(|| load(program))).collect();
        loads.into_iter().try_for_each(|load| load.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn refused(error: &ProgramError) -> Unavailable {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        tracing::debug!("the verifier says: {verifier_log}");
        let last = verifier_log.to_string();
        let last =
            last.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed")).unwrap_or("");
        return Unavailable(format!("the kernel refuses a program: {io_error}: {last}"));
    }
    Unavailable(format!("the kernel refuses a program: {error}"))
}

/// A map that is not pinned.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Unavailable> {
    let map = ebpf.take_map(name).ok_or_else(|| Unavailable(format!("there is no map {name}")))?;
    T::try_from(map).map_err(|error| Unavailable(format!("map {name}: {error}")))
}

/// One that is loaded. Those for interfaces without link headers, which most hosts have none of, are when they are asked for
/// first: checking a program takes the kernel a good part of the time that relayd takes to start.
pub(super) fn loaded_classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, ProgramError> {
    let program = classifier(ebpf, name)?;
    if program.fd().is_err() {
        program.load()?;
    }
    Ok(program)
}

pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

pub(super) fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, ProgramError> {
    ebpf.program_mut(names::XDP).ok_or(ProgramError::NotLoaded)?.try_into()
}
