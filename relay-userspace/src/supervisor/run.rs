//! Starting, running and stopping relayd.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::alerts;
use super::backends::Backends;
use super::census;
use super::change::Strictness;
use super::command::Command;
use super::facts::FactBook;
use super::names::{FIRST_ANSWERS, Names, at};
use super::serving::Serving;
use super::shared::Shared;
use super::state::{Rules, State};
use super::terms::Metering;
use crate::accounting::accountant::Accountant;
use crate::accounting::lock;
use crate::api::server;
use crate::config::files::Config;
use crate::config::settings::{Hook, Settings};
use crate::connections::ConnectionLog;
use crate::kernel::flows::FlowReader;
use crate::kernel::meter::Meter;
use crate::kernel::sweep::Sweeper;
use crate::kernel::{Dataplane, Desired, Options, Unavailable};
use crate::net::hold::Holder;
use crate::net::monitor::Monitor;
use crate::net::stock::Stock;
use crate::net::sysctl::Ledger;
use crate::observe::Observatory;
use crate::plan::RuleState;
use crate::proxy::kept::Tell;
use crate::proxy::tunnel::Tunnels;
use crate::proxy::udp::use_trains;
use crate::rule::RuleName;
use crate::service::Service;

/// What relayd was started with.
pub struct Launch {
    pub config_path: Option<PathBuf>,
    pub config: Config,
    /// Rules from the command line, which `config` has too.
    pub own_rules: Rules,
    pub trace: Option<RuleName>,
}

/// How often quotas and ends are looked at.
const KEEP: Duration = Duration::from_secs(1);
/// How often everything is looked over.
const MEND: Duration = Duration::from_secs(2);
/// What sessions of the user plane get to finish when relayd stops.
const LAST_WORDS: Duration = Duration::from_secs(5);
const COMMANDS: usize = 64;
/// What is long for a look at the host's network.
const LONG: Duration = Duration::from_millis(100);
/// Commands that may wait for names before the next one has to wait in line.
const MOST_ASIDE: usize = 64;

/// Runs relayd until it is told to stop. The kernel plane goes on without it.
pub async fn run(launch: Launch) -> anyhow::Result<()> {
    let service = Arc::new(Service::from_environment());
    let settings = launch.config.settings.clone();
    raise_descriptors();
    make_folder(&settings)?;
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let shared = Arc::new(Shared::new(commands));
    // the socket first: it also keeps a second relayd from starting
    let mut servers = server::start(&settings, &shared).await?;
    let _folder = lock::take(&settings.state_dir).await?;
    let state_dir = settings.state_dir.clone();
    let monitor = Monitor::start().context("cannot talk to the kernel about the network")?;
    let wanted_alerts = launch.config.alerts.clone();
    // where there are quotas, nothing passes before it is known what is left of them; else a slow disk holds nothing up
    let accountant = launch.config.has_quotas().then(|| Accountant::start(&state_dir, &shared));
    let mut state = start_state(launch, settings, &shared, &monitor, &service).await?;
    let mut tracing_task = JoinSet::new();
    start_trace(&mut state, &mut tracing_task);
    let rounds = start_census(&mut state);
    let accountant = accountant.unwrap_or_else(|| Accountant::start(&state_dir, &shared));
    if let Err(error) = &accountant {
        tracing::error!("totals are not kept: {error}");
    }
    // before anything is told that alerts are about
    let alerts = alerts::start(&shared, &wanted_alerts, &state_dir);
    // what was used up before is known from here on
    state.keep_terms();
    // signals are heard before anybody is told that they may be sent
    let mut events = Events::new(inbox, monitor, rounds, shared.observatory.wanted())?;
    events.serve(&mut state, &service).await;
    service.stopping();
    servers.shutdown().await;
    state.stop_serving();
    drop((accountant, alerts));
    state.backends.save();
    state.log.flush();
    let left = if state.kernel.is_ok() { "; the kernel plane goes on forwarding" } else { "" };
    tracing::info!("stopped{left}");
    Ok(())
}

/// Every held port is a descriptor, and a shell's limit of 1,024 is soon reached.
fn raise_descriptors() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _stays_as_it_was = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn make_folder(settings: &Settings) -> anyhow::Result<()> {
    fs::create_dir_all(&settings.state_dir)
        .with_context(|| format!("cannot make the state folder {}", settings.state_dir.display()))
}

async fn start_state(
    launch: Launch,
    settings: Settings,
    shared: &Arc<Shared>,
    monitor: &Monitor,
    service: &Arc<Service>,
) -> anyhow::Result<State> {
    let names = Names::open(&settings.state_dir, &settings.dns);
    let tunnels = Tunnels::new(settings.state_dir.clone());
    let mut facts = FactBook::new(monitor.handle.clone(), names, tunnels)
        .await
        .context("cannot read the host's network")?;
    let kernel = open_kernel(&settings, launch.trace, service);
    let trains = kernel.is_err();
    use_trains(trains);
    facts.holder = Holder::new(Stock::open(service, trains));
    let log = Arc::new(ConnectionLog::default());
    log.switch(settings.log_connections);
    let ledger = Ledger::open(&settings.state_dir);
    let draining = drain_marks(kernel.as_ref().ok(), &launch.config.rules);
    let mut state = State {
        shared: shared.clone(),
        config_path: launch.config_path,
        own_rules: launch.own_rules,
        backends: Backends::open(&settings.state_dir),
        settings,
        rules: Rules::new(),
        groups: launch.config.groups,
        metering: Metering::default(),
        draining: BTreeSet::new(),
        planned: Vec::new(),
        facts,
        kernel,
        serving: start_serving(log.clone(), shared.observatory.clone()),
        log,
        log_task: JoinSet::new(),
        desired: Desired::default(),
        claims: crate::host::ClaimRange::default(),
        devices: std::collections::BTreeMap::new(),
        ledger,
        reuses_ports: false,
        reload_error: None,
        reloaded: Some(Instant::now()),
        pending: None,
        aside: Vec::new(),
        down: false,
        resting: Vec::new(),
        sweeps: 0,
        full: BTreeSet::new(),
        slack: None,
    };
    if state.kernel.is_ok() {
        state.prepare_host();
    }
    state.introduce_planes();
    state.note_had(&launch.config.rules);
    // rules first, hooks after: a packet meets either nothing of ours or all of it
    state
        .switch(launch.config.rules, draining, Strictness::Reload)
        .await
        .map_err(|problem| anyhow::anyhow!(problem.detail))?;
    state.begin();
    Ok(state)
}

/// Rules that drain since before the restart, and are still there.
fn drain_marks(kernel: Option<&Dataplane>, rules: &Rules) -> BTreeSet<RuleName> {
    let known: HashSet<&RuleName> = rules.iter().map(|(rule, _)| &rule.name).collect();
    kernel.into_iter().flat_map(Dataplane::draining).filter(|name| known.contains(name)).cloned().collect()
}

fn start_serving(log: Arc<ConnectionLog>, observatory: Arc<Observatory>) -> Option<Serving> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    Serving::start(workers, log, observatory).map_err(|error| tracing::error!("no user plane: {error}")).ok()
}

fn open_kernel(
    settings: &Settings,
    traced: Option<RuleName>,
    service: &Service,
) -> Result<Dataplane, Unavailable> {
    if settings.hook == Hook::Off {
        return Err(Unavailable("hook = \"off\"".into()));
    }
    let options = Options {
        bpf_dir: settings.bpf_dir.clone(),
        under_systemd: service.is_systemd(),
        max_flows: settings.max_flows.unwrap_or_else(default_max_flows),
        xdp: settings.hook == Hook::Xdp,
        traced,
        log_ended: settings.log_connections,
    };
    Dataplane::open(&options)
}

/// A thirty-second of the memory, at 256 bytes a flow.
fn default_max_flows() -> u32 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    flows_for(kib.unwrap_or(1024 * 1024))
}

fn flows_for(memory_kib: u64) -> u32 {
    let flows = memory_kib * 1024 / 32 / 256;
    u32::try_from(flows).unwrap_or(u32::MAX).clamp(16_384, 1_048_576)
}

fn start_trace(state: &mut State, tasks: &mut JoinSet<()>) {
    let Ok(kernel) = &mut state.kernel else { return };
    if !kernel.traces() {
        return;
    }
    match kernel.start_trace() {
        Ok(task) => {
            tasks.spawn(task);
        }
        Err(error) => tracing::error!("{error}"),
    }
}

/// Has flows of the kernel plane logged when they are over, and shown to those who watch.
fn start_log(state: &mut State) {
    let Ok(kernel) = &mut state.kernel else { return };
    match kernel.start_log(state.log.clone(), state.shared.observatory.clone()) {
        Ok(task) => {
            state.log_task.abort_all();
            state.log_task.spawn(task);
        }
        Err(error) => tracing::error!("{error}"),
    }
}

/// Starts counting, sweeping and logging flows.
fn start_census(state: &mut State) -> Option<watch::Receiver<u64>> {
    start_log(state);
    let kernel = state.kernel.as_ref().ok()?;
    let meter = Meter::open(kernel.pins());
    let sweeper = Sweeper::open(kernel);
    state.shared.flow_seeker.set(Some(FlowReader::new(kernel)));
    match meter {
        Ok(meter) => state.shared.set_meter(Some(meter)),
        Err(error) => tracing::error!("no counters: {error}"),
    }
    match sweeper {
        Ok(sweeper) => census::start(&state.shared, sweeper).ok(),
        Err(error) => {
            tracing::error!("dead flows are not swept: {error}");
            None
        }
    }
}

fn summary(state: &State) -> String {
    let total = state.planned.len();
    let works = |state| matches!(state, RuleState::Active | RuleState::Watching);
    let active = state.planned.iter().filter(|planned| works(planned.state())).count();
    match &state.kernel {
        Ok(_) => format!("{active} of {total} rules active"),
        Err(reason) => format!("{active} of {total} rules active, no kernel plane: {reason}"),
    }
}

fn log_start(state: &State) {
    if let Err(reason) = &state.kernel {
        tracing::warn!("no kernel plane: {reason}");
    }
    for planned in &state.planned {
        for fault in &planned.faults {
            tracing::warn!(RULE = planned.rule.name.as_str(), "rule {}: {fault}", planned.rule.name);
        }
    }
    tracing::info!("relayd {} ready: {}", env!("CARGO_PKG_VERSION"), summary(state));
}

/// Everything that can wake the supervisor.
struct Events {
    commands: mpsc::Receiver<Command>,
    monitor: Monitor,
    rounds: Option<watch::Receiver<u64>>,
    /// Whether somebody watches flows.
    watched: watch::Receiver<bool>,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Events {
    fn new(
        commands: mpsc::Receiver<Command>,
        monitor: Monitor,
        rounds: Option<watch::Receiver<u64>>,
        watched: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            commands,
            monitor,
            rounds,
            watched,
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Handles one event after the other until a signal ends it.
    async fn serve(&mut self, state: &mut State, service: &Service) {
        let mut mend = interval(MEND);
        mend.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keep = interval(KEEP);
        keep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut starting = Some(Instant::now() + FIRST_ANSWERS);
        let mut rest = None;
        loop {
            if starting.is_some_and(|until| state.is_settled() || until <= Instant::now()) {
                starting = None;
                announce(state, service).await;
            }
            let lapse = state.pending.as_ref().map(|pending| pending.until);
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    service.reloading();
                    let was_down = state.down;
                    let _logged = state.reload().await;
                    if was_down && !state.down {
                        self.rounds = start_census(state);
                    }
                    service.ready(&summary(state));
                }
                Some(command) = self.commands.recv(), if state.aside.len() < MOST_ASIDE => {
                    let was_down = state.down;
                    state.handle(command).await;
                    if was_down && !state.down {
                        self.rounds = start_census(state);
                    }
                    service.status(&summary(state));
                }
                Some(()) = self.monitor.changes.recv(), if rest.is_none() => {
                    let began = Instant::now();
                    state.network_changed().await;
                    rest = rest_after(began.elapsed());
                }
                () = at(rest.map(Into::into)) => rest = None,
                Ok(()) = self.watched.changed() => state.observe(),
                Some(number) = next_round(&mut self.rounds) => state.swept(number),
                news = state.facts.names.answered() => {
                    let is_news = !news.names.is_empty();
                    state.names_answered(news).await;
                    if is_news {
                        service.status(&summary(state));
                    }
                }
                told = state.backends.told() => state.backends_told(told),
                () = at(starting.map(Into::into)) => {}
                () = at(lapse.map(Into::into)) => state.lapse().await,
                () = at(state.slack.map(Into::into)) => state.give_back(),
                _ = keep.tick() => state.keep_terms(),
                _ = mend.tick() => {
                    service.alive();
                    state.look_over().await;
                }
            }
        }
    }
}

/// relayd is there.
async fn announce(state: &State, service: &Service) {
    // who lacks the memory to serve is not ready
    if let Some(serving) = &state.serving {
        serving.begun().await;
    }
    log_start(state);
    state.tell_started(&summary(state));
    service.ready(&summary(state));
}

/// Until when changes of the network wait. Where looking at it takes long, as at a router of the Internet whose routes always
/// change, commands want their turn.
fn rest_after(took: Duration) -> Option<Instant> {
    (took > LONG).then(|| Instant::now() + took * 4)
}

async fn next_round(rounds: &mut Option<watch::Receiver<u64>>) -> Option<u64> {
    if let Some(receiver) = rounds
        && receiver.changed().await.is_ok()
    {
        return Some(*receiver.borrow_and_update());
    }
    std::future::pending().await
}

impl State {
    /// With the first rules in place: gives up what a relayd before held for others, and attaches.
    fn begin(&mut self) {
        self.facts.holder.close_leftovers();
        self.forget_old_sharing();
        self.tend_names();
        self.attach_first();
        self.publish();
    }

    async fn look_over(&mut self) {
        self.facts.names.follow_files();
        self.mend();
        self.follow_mtus().await;
    }

    /// Attaches at start.
    fn attach_first(&mut self) {
        self.attach();
        self.detach_strays();
        if self.settings.hook == Hook::Xdp {
            self.replan("XDP is attached");
        }
    }

    /// Ends the user plane.
    fn stop_serving(&mut self) {
        if let Some(serving) = &mut self.serving {
            serving.drain(&self.facts.holder);
        }
        self.share();
        if let Some(serving) = self.serving.take() {
            serving.finish(std::mem::take(&mut self.facts.holder), LAST_WORDS);
        }
    }

    /// Attaches again after `relayctl down`.
    pub fn bring_up(&mut self) {
        self.kernel = open_kernel(&self.settings, None, &Service::from_environment());
        self.down = false;
        self.desired = Desired::default();
        self.observe();
        self.prepare_host();
        self.introduce_planes();
        self.replan("relayd is attached again");
        self.attach();
    }

    /// Says whether rules may have shared sockets, has failures at backends told to their judges, and the kernel plane hear of
    /// UDP sessions, which it leaves alone.
    fn introduce_planes(&mut self) {
        self.offer_sharing();
        self.shared.set_board(self.backends.board());
        if let Some(serving) = &mut self.serving {
            serving.tell_failures(self.backends.failures());
        }
        let (Some(serving), Ok(kernel)) = (&self.serving, &mut self.kernel) else { return };
        serving.tell(kernel.declined().map(|mut declined| -> Tell {
            Box::new(move |client, there| {
                if let Err(error) = declined.set(client, there) {
                    tracing::debug!("a UDP session may change planes: {error}");
                }
            })
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_the_memory() {
        assert_eq!(flows_for(64 * 1024), 16_384);
        assert_eq!(flows_for(512 * 1024), 65_536);
        assert_eq!(flows_for(1024 * 1024), 131_072);
        assert_eq!(flows_for(64 * 1024 * 1024), 1_048_576);
    }
}
