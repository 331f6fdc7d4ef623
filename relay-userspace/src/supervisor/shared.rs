//! What readers of the API see: a snapshot that the supervisor replaces whole, and counters read beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::backends::Roll;
use super::census::CensusTaker;
use super::change::complain;
use super::command::{Action, Command, Reply};
use super::flows::FlowSeeker;
use super::legs;
use super::names::{FIRST_ANSWERS, Upkeep};
use super::serving::{CountersByRule, PoolsByRule};
use super::terms::expiry_view;
use super::walk::Means;
use crate::accounting::accountant::Ledgers;
use crate::accounting::allowances::Owner;
use crate::accounting::amounts::Amounts;
use crate::accounting::books::{Left, Reading, Scope, Source};
use crate::accounting::interfaces;
use crate::alert::desk::Desk;
use crate::api::problem::{ApiProblem, Code};
use crate::api::view::{
    CountersView, EventView, FlowsView, InterfaceTrafficView, InterfaceView, KernelView, MachineView,
    PlaneView, PlanesView, RuleView, StatusView, TablesView, TrafficView,
};
use crate::boot;
use crate::config::quantity::format_rate;
use crate::config::settings::Hook;
use crate::health::prober::Board;
use crate::health::saved::BackendOrder;
use crate::health::{ProbeId, Standing};
use crate::kernel::meter::{Drops, Meter, Totals};
use crate::kernel::round_trips::RoundTripsByEnd;
use crate::observe::Observatory;
use crate::plan::{Carriage, PlannedRule, Resolved};
use crate::proxy::counters::{Carried, Counters, Refusal};
use crate::rule::{Groups, Host, RuleName};

/// The state at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub rules: Vec<Arc<PlannedRule>>,
    pub groups: Groups,
    pub by_name: HashMap<RuleName, usize>,
    /// Slots in the kernel's tables.
    pub slots: HashMap<RuleName, u32>,
    /// What the user plane counts.
    pub sessions: Arc<CountersByRule>,
    /// What names have resolved to, for display, and how that is kept up to date.
    pub resolved: BTreeMap<Host, Resolved>,
    pub upkeep: Arc<Upkeep>,
    /// No rule waits for the first answer about its name.
    pub settled: bool,
    pub kernel: KernelView,
    pub interfaces: Vec<InterfaceView>,
    pub max_flows: u32,
    pub config: Option<String>,
    pub reload_error: Option<String>,
    pub reloaded: Option<Instant>,
    pub sysctls: Vec<String>,
    /// Which endpoints are judged, and what somebody has ordered for backends.
    pub roll: Arc<Roll>,
    pub orders: BTreeMap<RuleName, BTreeMap<Box<str>, BackendOrder>>,
    /// What backends have had of sessions; and of the kernel's flows, of rules that have several.
    pub pools: Arc<PoolsByRule>,
    pub unconfirmed: Option<Instant>,
    /// Paths to backends and the like, for `explain`.
    pub explain: Arc<super::explain::Facts>,
    pub means: Means,
}

/// Handed to everything that answers requests.
pub struct Shared {
    /// `None` until the first apply is done.
    pub(super) snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    /// Rules whose new flows have been spread anew since the snapshot, which is made a moment later for many at once.
    respread: Mutex<HashMap<RuleName, Arc<PlannedRule>>>,
    pub(super) meter: Mutex<Option<Meter>>,
    /// How endpoints stand.
    board: OnceLock<Board>,
    pub census: CensusTaker,
    pub ledgers: Ledgers,
    /// Of the host, for counters that begin anew with it.
    boot: Arc<str>,
    pub flow_seeker: FlowSeeker,
    pub commands: mpsc::Sender<Command>,
    pub events: broadcast::Sender<EventView>,
    /// Who watches flows.
    pub observatory: Arc<Observatory>,
    pub alerts: Desk,
    started: Instant,
}

/// What one walk reads for all rules at once.
#[derive(Default)]
struct Walked {
    drops: Drops,
    round_trips: RoundTripsByEnd,
}

/// Events that a slow reader may fall behind by.
const EVENT_BACKLOG: usize = 1024;
/// Flow counts older than this are taken anew.
const FRESH: Duration = Duration::from_secs(1);
/// What passes here stays on the host.
const LOOPBACK: &str = "lo";
/// How long a request waits for relayd to have started.
const START: Duration = Duration::from_secs(10);

impl Shared {
    pub fn new(commands: mpsc::Sender<Command>) -> Self {
        Self {
            snapshot: watch::Sender::new(None),
            respread: Mutex::default(),
            meter: Mutex::new(None),
            board: OnceLock::new(),
            census: CensusTaker::default(),
            ledgers: Ledgers::default(),
            boot: boot::id().into(),
            flow_seeker: FlowSeeker::default(),
            commands,
            events: broadcast::channel(EVENT_BACKLOG).0,
            observatory: Arc::default(),
            alerts: Desk::default(),
            started: Instant::now(),
        }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone().unwrap_or_default()
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(Some(Arc::new(snapshot)));
        self.respread.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A rule's new flows go elsewhere than the snapshot says.
    pub fn respread(&self, planned: &Arc<PlannedRule>) {
        let mut respread = self.respread.lock().unwrap_or_else(PoisonError::into_inner);
        respread.insert(planned.rule.name.clone(), planned.clone());
    }

    /// Waits for the first snapshot: before, there is nothing to answer with.
    pub async fn started(&self) -> Result<(), ApiProblem> {
        let text = "relayd is starting and has no rules yet; ask again in a moment";
        let starting = |_late| ApiProblem::new(Code::Starting, text);
        let mut snapshot = self.snapshot.subscribe();
        timeout(START, snapshot.wait_for(Option::is_some)).await.map(|_there| ()).map_err(starting)
    }

    /// Has endpoints' standings looked up there.
    pub fn set_board(&self, board: Option<Board>) {
        let _set_once = board.map(|board| self.board.set(board));
    }

    pub(super) fn standing(&self, id: ProbeId) -> Option<Standing> {
        self.board.get()?.standing(id)
    }

    pub fn set_meter(&self, meter: Option<Meter>) {
        *self.meter.lock().unwrap_or_else(PoisonError::into_inner) = meter;
    }

    /// Tells everyone who listens; nobody need.
    pub fn tell(&self, kind: &str, rule: Option<&RuleName>, text: impl Into<String>) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let rule = rule.map(ToString::to_string);
        let _nobody_listens =
            self.events.send(EventView { time, kind: kind.into(), rule, text: text.into() });
    }

    /// Asks the supervisor.
    pub async fn ask(&self, action: Action, dry_run: bool) -> Result<Reply, ApiProblem> {
        let (reply, answer) = oneshot::channel();
        let stopping = || ApiProblem::new(Code::NotApplied, "relayd is stopping");
        self.commands
            .send(Command { action, dry_run, reply, asked: BTreeSet::new() })
            .await
            .map_err(|_closed| stopping())?;
        answer.await.map_err(|_closed| stopping())?
    }

    /// Asks for a whole configuration. It is in place by then; its names get a moment before rules are complained of.
    pub async fn ask_for_all(&self, action: Action, dry_run: bool) -> Result<Reply, ApiProblem> {
        let mut reply = self.ask(action, dry_run).await?;
        if !dry_run && let Reply::Change(view) = &mut reply {
            let mut snapshot = self.snapshot.subscribe();
            let settled = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_ref().is_some_and(|now| now.settled);
            drop(timeout(FIRST_ANSWERS, snapshot.wait_for(settled)).await);
            complain(view, self.snapshot().rules.iter());
        }
        Ok(reply)
    }

    /// All rules with their counters, in the order of the configuration.
    pub async fn rules(&self) -> Vec<RuleView> {
        self.census.refresh(FRESH).await;
        let snapshot = self.snapshot();
        let walked = self.walk();
        snapshot.rules.iter().map(|rule| self.view(&snapshot, rule, &walked)).collect()
    }

    pub async fn rule(&self, name: &RuleName) -> Result<(Arc<PlannedRule>, RuleView), ApiProblem> {
        self.census.refresh(FRESH).await;
        // before the snapshot, since that is published before these go
        let respread = self.respread.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let snapshot = self.snapshot();
        let rule = snapshot.by_name.get(name).and_then(|&index| snapshot.rules.get(index));
        let Some(rule) = rule.cloned() else { return Err(not_found(name)) };
        let rule = respread.unwrap_or(rule);
        let view = self.view(&snapshot, &rule, &self.walk());
        Ok((rule, view))
    }

    fn drops(&self) -> Drops {
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.as_ref().map(Meter::drops).unwrap_or_default()
    }

    fn walk(&self) -> Walked {
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let walked = |meter: &Meter| Walked { drops: meter.drops(), round_trips: meter.round_trips() };
        meter.as_ref().map(walked).unwrap_or_default()
    }

    fn view(&self, snapshot: &Snapshot, planned: &PlannedRule, walked: &Walked) -> RuleView {
        let rule = &planned.rule;
        let counters = self.counters(snapshot, &rule.name, &walked.drops);
        let mut to = self.backend_views(snapshot, planned, &walked.round_trips);
        if let [only] = &mut to[..] {
            only.flows = counters.flows;
        }
        RuleView {
            name: rule.name.to_string(),
            note: rule.note.as_deref().map(ToOwned::to_owned),
            listen: rule.listen.iter().map(ToString::to_string).collect(),
            protocol: rule.protocols.to_string(),
            accept: legs::accept(planned),
            connect: legs::connect(&rule.connect),
            to,
            balance: rule.balance.as_str().into(),
            rate: rule.rates.set().map(|(way, rate)| (way.into(), format_rate(rate))).collect(),
            quota: rule.quota.as_ref().map(|quota| {
                let owner = Owner::Rule(rule.name.clone());
                self.quota_view(&owner, quota)
            }),
            expires: rule.expires.as_deref().map(expiry_view),
            group: rule.group.as_ref().map(ToString::to_string),
            enabled: rule.enabled,
            state: planned.state().as_str().into(),
            faults: planned.faults.iter().map(ToString::to_string).collect(),
            plane: PlanesView { ipv4: plane_view(&planned.ipv4), ipv6: plane_view(&planned.ipv6) },
            counters,
        }
    }

    fn counters(&self, snapshot: &Snapshot, name: &RuleName, drops: &Drops) -> CountersView {
        let slot = snapshot.slots.get(name).copied();
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = meter.as_ref().zip(slot).map(|(meter, slot)| meter.totals(slot, drops));
        let sessions = snapshot.sessions.get(name);
        let is_counted = counted.is_some();
        let unit = if is_counted { "ip" } else { "payload" };
        let kernel = meter.as_ref().zip(slot).zip(counted.as_ref());
        let kernel = kernel.map(|((meter, slot), totals)| (self.source(meter, slot), amounts(totals)));
        let reading = Reading { kernel, user: sessions.cloned() };
        let lifetime = self.ledgers.with(|books| books.total(name, &reading));
        let totals = counted.unwrap_or_default();
        let active = slot.and_then(|slot| self.census.active(slot)).unwrap_or(0);
        let mut view = CountersView {
            unit: unit.into(),
            ingress: TrafficView { packets: totals.ingress.packets, bytes: totals.ingress.bytes },
            egress: TrafficView { packets: totals.egress.packets, bytes: totals.egress.bytes },
            flows: FlowsView { active, total: totals.flows },
            drops: totals.drops.iter().map(|(reason, &count)| (reason.as_str().into(), count)).collect(),
            lifetime: lifetime.into(),
        };
        if let Some(sessions) = sessions {
            if !is_counted {
                add_payload(&mut view, sessions.payload());
            }
            add_sessions(&mut view, sessions);
        }
        view
    }

    pub(super) fn source(&self, meter: &Meter, slot: u32) -> Source {
        Source { boot: self.boot.clone(), map: meter.id, slot }
    }

    /// Brings all accounts up to now.
    pub fn take_readings(&self) {
        if let Some(snapshot) = self.snapshot.borrow().clone() {
            let names = snapshot.rules.iter().map(|planned| &planned.rule.name);
            self.take_readings_of(&snapshot, names, Scope::All);
        }
    }

    /// Brings the totals of some rules up to now.
    pub fn take_some_readings<'a>(&self, names: impl Iterator<Item = &'a RuleName>) {
        if let Some(snapshot) = self.snapshot.borrow().clone() {
            let names = names.filter(|name| snapshot.by_name.contains_key(*name));
            self.take_readings_of(&snapshot, names, Scope::Some);
        }
    }

    fn take_readings_of<'a>(
        &self,
        snapshot: &Snapshot,
        names: impl Iterator<Item = &'a RuleName>,
        scope: Scope,
    ) {
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let meter = meter.as_ref();
        let mut current = HashMap::new();
        for name in names {
            let slot = snapshot.slots.get(name).copied();
            let kernel = match meter.zip(slot) {
                // the next reading has all of it
                Some((meter, slot)) => match meter.traffic(slot) {
                    Some(totals) => Some((self.source(meter, slot), amounts(&totals))),
                    None => return,
                },
                None => None,
            };
            current.insert(name.clone(), Reading { kernel, user: snapshot.sessions.get(name).cloned() });
        }
        let taken: HashSet<u32> = snapshot.slots.values().copied().collect();
        self.ledgers.observe(&current, scope, |source| match meter {
            Some(meter) if self.source(meter, source.slot) == *source => {
                if taken.contains(&source.slot) {
                    return Left::Reused;
                }
                meter.traffic(source.slot).map_or(Left::Unseen, |totals| Left::At(amounts(&totals)))
            }
            _ => Left::Unseen,
        });
    }

    /// Brings the totals of watched interfaces up to now.
    pub fn read_interfaces(&self) {
        let Some(snapshot) = self.snapshot.borrow().clone() else { return };
        if self.ledgers.folder().is_none() {
            return;
        }
        // what one reading misses the next has
        let Ok(readings) = interfaces::read() else { return };
        self.ledgers.with_interfaces(|known| {
            for interface in snapshot.interfaces.iter().filter(|interface| interface.name != LOOPBACK) {
                if let Some(now) = readings.get(&interface.name) {
                    known.observe(&interface.name, interfaces::source(&self.boot, interface.index), *now);
                }
            }
        });
    }

    /// What interfaces have carried, and how much of it rules explain.
    fn add_totals(&self, status: &mut StatusView) {
        self.take_readings();
        self.read_interfaces();
        let carried = self.ledgers.with(|books| {
            books.accounts().map(|(_, total)| interfaces::on_the_wire(total)).fold(0, u64::saturating_add)
        });
        self.ledgers.with_interfaces(|known| {
            for interface in &mut status.interfaces {
                let total = known.total(&interface.name);
                interface.lifetime = total.map(InterfaceTrafficView::from);
            }
            let interfaces = known.bytes();
            status.traffic = MachineView {
                interface_bytes: interfaces,
                rule_bytes: carried,
                unexplained_bytes: interfaces.saturating_sub(carried),
            };
        });
    }

    pub async fn status(&self) -> StatusView {
        self.census.refresh(FRESH).await;
        let snapshot = self.snapshot();
        let census = self.census.latest();
        let mut status = StatusView {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            config: snapshot.config.clone(),
            kernel: snapshot.kernel.clone(),
            interfaces: snapshot.interfaces.clone(),
            flows: TablesView {
                tcp: census.tcp,
                udp: census.udp,
                unproven: census.unproven,
                max_flows: snapshot.max_flows,
            },
            sysctls: snapshot.sysctls.clone(),
            observers: self.observatory.watchers(),
            ..StatusView::default()
        };
        for rule in &snapshot.rules {
            *status.rules.entry(rule.state().as_str().into()).or_default() += 1;
        }
        status.reload.success = snapshot.reload_error.is_none();
        status.reload.error = snapshot.reload_error.clone();
        status.reload.age_seconds = snapshot.reloaded.map_or(0, |at| at.elapsed().as_secs());
        let unowned = Meter::unowned(&self.drops());
        status.drops = unowned.iter().map(|(reason, &count)| (reason.as_str().into(), count)).collect();
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).as_secs();
        status.unconfirmed_seconds = snapshot.unconfirmed.map(left);
        self.add_totals(&mut status);
        status
    }
}

fn amounts(totals: &Totals) -> Amounts {
    Amounts {
        ingress_bytes: totals.ingress.bytes,
        ingress_packets: totals.ingress.packets,
        egress_bytes: totals.egress.bytes,
        egress_packets: totals.egress.packets,
        flows: totals.flows,
    }
}

/// What the user plane has carried where no program counts it.
fn add_payload(view: &mut CountersView, payload: [&Carried; 2]) {
    for (traffic, carried) in [&mut view.ingress, &mut view.egress].into_iter().zip(payload) {
        traffic.packets += carried.packets();
        traffic.bytes += carried.bytes();
    }
}

/// Flows are counted where they are carried.
fn add_sessions(view: &mut CountersView, sessions: &Counters) {
    view.flows.active += sessions.active();
    view.flows.total += sessions.total();
    for reason in Refusal::ALL {
        let count = sessions.refused(reason);
        if count > 0 {
            *view.drops.entry(reason.as_str().into()).or_default() += count;
        }
    }
}

pub fn not_found(name: &RuleName) -> ApiProblem {
    ApiProblem::new(Code::RuleNotFound, format!("there is no rule \"{name}\"; `relayctl list` shows all"))
}

fn plane_view(carriage: &Carriage) -> PlaneView {
    match carriage {
        Carriage::Kernel(hook) => {
            let hook = if *hook == Hook::Xdp { "xdp" } else { "tc" };
            PlaneView { plane: "kernel".into(), hook: Some(hook.into()), reason: None }
        }
        Carriage::Watched => PlaneView { plane: "watch".into(), hook: None, reason: None },
        Carriage::User(reason) => {
            PlaneView { plane: "user".into(), hook: None, reason: Some(reason.clone()) }
        }
        Carriage::None(reason) => {
            PlaneView { plane: "none".into(), hook: None, reason: Some(reason.clone()) }
        }
    }
}
