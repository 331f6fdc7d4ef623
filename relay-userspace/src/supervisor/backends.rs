//! Backends' health: who is asked how it is, and what is known of every rule's backends, over restarts too.

mod aside;
mod endpoints;
mod orders;
mod saving;
mod showing;
mod signals;
mod tier;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use relay_common::net::Protocol;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::endpoints::{endpoints, is_judged};
pub use self::orders::BackendCall;
use self::signals::{Counted, LOOK, Seen};
use crate::health::prober::Board;
use crate::health::saved::{BackendOrder, EndpointKey, FILE, RuleMemory, Saved};
use crate::health::weigh::{RuleHealth, Verdict};
use crate::health::{News, Probe, ProbeId, Prober, Standing};
use crate::kernel::usage::BackendUsage;
use crate::plan::PlannedRule;
use crate::proxy::pool::Failure;
use crate::rule::RuleName;

/// One of a rule's backends, for one protocol.
pub type EndName = (Protocol, Box<str>);

pub struct Backends {
    /// `None`: its thread could not be started; all backends are taken as there.
    prober: Option<Prober>,
    news: UnboundedReceiver<Vec<News>>,
    failures: UnboundedReceiver<Failure>,
    /// Where sessions tell of failures; kept, so that the channels never end.
    told: (UnboundedSender<Vec<News>>, UnboundedSender<Failure>),
    /// What plans are made by, of the rules that have backends to choose from.
    health: HashMap<RuleName, RuleHealth>,
    watched: HashMap<RuleName, Watched>,
    whose: HashMap<ProbeId, (RuleName, EndName)>,
    last: u64,
    /// What an earlier relayd knew of endpoints that have not been met yet.
    saved: HashMap<(RuleName, EndName), (SocketAddr, Standing)>,
    /// Rules whose plan was made by other verdicts than there are now.
    unsettled: Vec<RuleName>,
    /// When the next rule may look different by time alone.
    due: Option<Instant>,
    /// When readers are to see what has changed.
    show: Option<Instant>,
    writer: Option<JoinHandle<io::Result<()>>>,
    file: PathBuf,
    is_unsaved: bool,
    /// Said already.
    is_unwritable: bool,
    /// Rules whose new flows could not be given to other backends.
    unswapped: BTreeSet<RuleName>,
    /// What was ordered before an apply that waits for its confirmation.
    aside: BTreeMap<RuleName, RuleMemory>,
    look: Interval,
    /// For readers; replaced when it changes.
    roll: Arc<Roll>,
}

/// A rule whose backends are judged.
struct Watched {
    /// The plan that this follows.
    planned: Arc<PlannedRule>,
    ends: BTreeMap<EndName, End>,
    /// Where the rule is in the configuration.
    place: usize,
    counted: Option<Counted>,
    /// When time alone changes who gets new flows.
    look_again: Option<Instant>,
}

struct End {
    id: ProbeId,
    /// Where the backend is in the rule's list.
    place: usize,
    probe: Probe,
    seen: Seen,
}

/// The rules whose backends are judged.
pub type Roll = HashMap<RuleName, Rolled>;

/// Where readers find what is known of a rule's backends.
#[derive(Clone, Debug)]
pub struct Rolled {
    pub ends: BTreeMap<EndName, ProbeId>,
    /// What the kernel plane counts, if it carries the rule.
    pub flows: Option<BackendUsage>,
}

const SOON: Duration = Duration::from_millis(50);
/// Between attempts to bring a verdict into the kernel plane.
const UNSWAPPED: Duration = Duration::from_secs(1);

/// Something to act on.
pub enum Told {
    News(Vec<News>),
    Failure(Failure),
    /// It is time to look at what has been counted.
    Look,
    /// It is time to show what has changed.
    Show,
    /// It is time to look at these rules again.
    Due(Vec<RuleName>),
}

impl Backends {
    pub fn open(state_dir: &Path) -> Self {
        let (news_in, news) = unbounded_channel();
        let (failures_in, failures) = unbounded_channel();
        let start = Prober::start(news_in.clone());
        let prober = start.map_err(|error| tracing::error!("backends are not probed: {error}")).ok();
        let file = state_dir.join(FILE);
        let Saved { endpoints, rules } = Saved::load(&file);
        let mut health: HashMap<RuleName, RuleHealth> = HashMap::new();
        for (name, memory) in rules {
            let known = health.entry(name).or_default();
            (known.held, known.orders) = (memory.held, memory.orders);
        }
        let mut saved = HashMap::new();
        for (EndpointKey { rule, backend, address, protocol }, standing) in endpoints {
            let (end, known) = ((protocol, backend), health.entry(rule.clone()).or_default());
            known.endpoints.insert(end.clone(), Verdict::from(&standing));
            saved.insert((rule, end), (address, standing));
        }
        Self {
            prober,
            news,
            failures,
            told: (news_in, failures_in),
            health,
            watched: HashMap::new(),
            whose: HashMap::new(),
            last: 0,
            saved,
            unsettled: Vec::new(),
            due: None,
            show: None,
            writer: None,
            file,
            is_unsaved: false,
            is_unwritable: false,
            unswapped: BTreeSet::new(),
            aside: BTreeMap::new(),
            look: look(),
            roll: Arc::default(),
        }
    }

    /// What is known of the backends of rules that have any judged.
    pub const fn health(&self) -> &HashMap<RuleName, RuleHealth> {
        &self.health
    }

    /// Where sessions tell of failures.
    pub fn failures(&self) -> UnboundedSender<Failure> {
        self.told.1.clone()
    }

    /// For readers: how endpoints stand, and which ones they are.
    pub fn board(&self) -> Option<Board> {
        self.prober.as_ref().map(Prober::board)
    }

    pub fn roll(&self) -> Arc<Roll> {
        self.roll.clone()
    }

    /// What somebody has ordered, by rule and backend.
    pub fn orders(&self) -> BTreeMap<RuleName, BTreeMap<Box<str>, BackendOrder>> {
        let ordered = self.health.iter().filter(|(_, health)| !health.orders.is_empty());
        ordered.map(|(name, health)| (name.clone(), health.orders.clone())).collect()
    }

    /// Waits for something to act on.
    pub async fn told(&mut self) -> Told {
        if !self.unsettled.is_empty() {
            return Told::Due(std::mem::take(&mut self.unsettled));
        }
        tokio::select! {
            Some(news) = self.news.recv() => Told::News(news),
            Some(failure) = self.failures.recv() => Told::Failure(failure),
            _ = self.look.tick(), if !self.watched.is_empty() => Told::Look,
            () = super::names::at(self.due.map(Into::into)) => Told::Due(self.due()),
            () = super::names::at(self.show.map(Into::into)) => {
                self.show = None;
                Told::Show
            }
        }
    }

    fn due(&mut self) -> Vec<RuleName> {
        let now = Instant::now();
        let is_due = |watched: &Watched| watched.look_again.is_some_and(|at| at <= now);
        let later = self.watched.values().filter_map(|watched| watched.look_again).filter(|at| *at > now);
        self.due = later.min();
        let due = self.watched.iter().filter(|(_, watched)| is_due(watched)).map(|(name, _)| name.clone());
        due.chain(self.unswapped.iter().cloned()).collect()
    }

    /// Asks the backends of these rules, and nobody else.
    pub fn follow(&mut self, planned: &[Arc<PlannedRule>]) {
        let mut changed = false;
        if !self.health.is_empty() || !self.watched.is_empty() {
            let names: HashSet<&RuleName> = planned.iter().map(|planned| &planned.rule.name).collect();
            let known = self.health.keys().chain(self.watched.keys());
            let gone: HashSet<RuleName> = known.filter(|name| !names.contains(name)).cloned().collect();
            for name in gone {
                changed |= self.forget(&name);
            }
            self.saved.retain(|(name, _), _| names.contains(name));
        }
        for (place, planned) in planned.iter().enumerate() {
            let name = &planned.rule.name;
            let is_followed = match self.watched.get(name) {
                Some(watched) => Arc::ptr_eq(&watched.planned, planned),
                None => !is_judged(&planned.rule) && !self.health.contains_key(name),
            };
            if !is_followed {
                changed |= self.follow_rule(planned);
            }
            if let Some(watched) = self.watched.get_mut(name) {
                watched.place = place;
            }
        }
        if changed {
            self.write_roll();
            self.is_unsaved = true;
        }
    }

    /// Returns whether anybody else is asked than before.
    fn follow_rule(&mut self, planned: &Arc<PlannedRule>) -> bool {
        let name = &planned.rule.name;
        if !is_judged(&planned.rule) && !self.has_orders(planned) {
            return self.forget(name);
        }
        let health = self.health.entry(name.clone()).or_default();
        health.orders.retain(|backend, _| planned.rule.to.iter().any(|to| to.to_string() == **backend));
        let (mut before, counted) =
            self.watched.remove(name).map(|watched| (watched.ends, watched.counted)).unwrap_or_default();
        let mut ends = BTreeMap::new();
        let mut changed = false;
        for (end, place, probe) in endpoints(planned) {
            let known = before.remove(&end);
            let (id, seen) = match known {
                Some(known) if known.probe.address == probe.address => {
                    if known.probe != probe {
                        self.ask(known.id, &probe, None);
                    }
                    (known.id, known.seen)
                }
                other => {
                    changed = true;
                    if let Some(other) = other {
                        self.leave(other.id);
                    }
                    (self.meet(name, &end, &probe), Seen::default())
                }
            };
            ends.insert(end, End { id, place, probe, seen });
        }
        changed |= !before.is_empty();
        for (end, gone) in before {
            if planned.rule.enabled {
                self.health.entry(name.clone()).or_default().endpoints.remove(&end);
            } else {
                self.keep(name, &end, &gone);
            }
            self.leave(gone.id);
        }
        self.watched.insert(
            name.clone(),
            Watched { planned: planned.clone(), ends, place: 0, counted, look_again: None },
        );
        self.remember(planned);
        changed
    }

    fn has_orders(&self, planned: &PlannedRule) -> bool {
        let orders = self.health.get(&planned.rule.name).map(|health| &health.orders);
        let is_there = |backend: &str| planned.rule.to.iter().any(|to| to.to_string() == *backend);
        orders.is_some_and(|orders| orders.keys().any(|backend| is_there(backend)))
    }

    /// Begins to ask somebody new. The plan may have taken it for something else, such as for who was at its name's address
    /// before.
    fn meet(&mut self, rule: &RuleName, end: &EndName, probe: &Probe) -> ProbeId {
        self.last += 1;
        let id = ProbeId(self.last);
        // what was known of another address is worth nothing
        let known = self.saved.remove(&(rule.clone(), end.clone())).filter(|(at, _)| *at == probe.address);
        let known = known.map_or_else(|| Standing::new(Instant::now()), |(_, standing)| standing);
        let verdict = Verdict::from(&known);
        let health = self.health.entry(rule.clone()).or_default();
        let taken_for = health.endpoints.insert(end.clone(), verdict);
        if taken_for.is_some_and(|before| before.state != verdict.state) {
            self.unsettled.push(rule.clone());
        }
        self.whose.insert(id, (rule.clone(), end.clone()));
        self.ask(id, probe, Some(known));
        id
    }

    /// A rule that is disabled for a while finds what was known of its backends.
    fn keep(&mut self, rule: &RuleName, end_name: &EndName, end: &End) {
        let standing = self.prober.as_ref().and_then(|prober| prober.board().standing(end.id));
        let known = standing.map(|standing| (end.probe.address, standing));
        self.saved.extend(known.map(|known| ((rule.clone(), end_name.clone()), known)));
    }

    fn ask(&self, id: ProbeId, probe: &Probe, known: Option<Standing>) {
        if let Some(prober) = &self.prober {
            prober.set(id, probe.clone(), known);
        }
    }

    fn leave(&mut self, id: ProbeId) {
        self.whose.remove(&id);
        if let Some(prober) = &self.prober {
            prober.remove(id);
        }
    }

    /// Asks nobody while nothing is carried; what is known is known again afterwards.
    pub fn rest(&mut self) {
        let mut standings = self.prober.as_ref().map(Prober::standings).unwrap_or_default();
        for (name, watched) in std::mem::take(&mut self.watched) {
            for (end_name, end) in watched.ends {
                if let Some(standing) = standings.remove(&end.id) {
                    self.saved.insert((name.clone(), end_name), (end.probe.address, standing));
                }
                self.leave(end.id);
            }
        }
        self.write_roll();
    }

    /// Where a rule is in the configuration, if its backends are judged.
    fn place(&self, rule: &RuleName) -> Option<usize> {
        self.watched.get(rule).map(|watched| watched.place)
    }

    /// Has readers see what has changed, soon: changes come in crowds.
    fn show_soon(&mut self) {
        self.show.get_or_insert_with(|| Instant::now() + SOON);
    }

    /// Returns whether anybody was asked.
    fn forget(&mut self, name: &RuleName) -> bool {
        self.health.remove(name);
        self.unswapped.remove(name);
        self.saved.retain(|(rule, _), _| rule != name);
        let ends = self.watched.remove(name).map(|watched| watched.ends).unwrap_or_default();
        ends.values().for_each(|end| self.leave(end.id));
        !ends.is_empty()
    }

    /// What is known of a rule's backends could not be brought into the kernel plane: it is tried again.
    fn swap_again(&mut self, name: &RuleName) {
        self.unswapped.insert(name.clone());
        let soon = Instant::now() + UNSWAPPED;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Takes note of what a plan has made of what is known.
    pub fn remember(&mut self, planned: &Arc<PlannedRule>) {
        let (Some(outlook), Some(health)) = (&planned.outlook, self.health.get_mut(&planned.rule.name))
        else {
            return;
        };
        if health.held != outlook.held {
            health.held.clone_from(&outlook.held);
            self.is_unsaved = true;
        }
        if let Some(watched) = self.watched.get_mut(&planned.rule.name) {
            watched.planned = planned.clone();
            watched.look_again = outlook.look_again;
            self.due = [self.due, outlook.look_again].into_iter().flatten().min();
        }
    }
}

fn look() -> Interval {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}
