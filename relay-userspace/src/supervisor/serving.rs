//! Bringing the user plane to what the plan says: which ports it listens on, and where their clients go.

mod stopping;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::mem;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_common::net::Protocol;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::sharing::{Branches, Layout, Sharing};
use crate::connections::ConnectionLog;
use crate::kernel::lookup::{self, Lookup};
use crate::net::claim::Claim;
use crate::net::hold::Holder;
use crate::observe::Observatory;
use crate::plan::PlannedRule;
use crate::proxy::counters::Counters;
use crate::proxy::gate::{Gate, Gauge, Policy};
use crate::proxy::kept::{Kept, Tell};
use crate::proxy::pool::{Ends, Failure, Pool};
use crate::proxy::service::{Phase, Service, Target};
use crate::proxy::tcp::Entrance;
use crate::proxy::workers::{Listening, Workers};
use crate::rule::{Listener, RuleName};

/// The user plane as it runs.
#[derive(Debug)]
pub struct Serving {
    workers: Workers,
    rules: HashMap<RuleName, Box<Served>>,
    counters: Arc<CountersByRule>,
    pools: Arc<PoolsByRule>,
    /// Where failures at backends are told.
    failures: Option<UnboundedSender<Failure>>,
    log: Arc<ConnectionLog>,
    observatory: Arc<Observatory>,
    kept: Arc<Kept>,
    /// Opened when the first rule needs them.
    sharing: Option<Sharing>,
    /// Something leads to other rules on shared sockets than before.
    is_shared_anew: bool,
}

pub type CountersByRule = HashMap<RuleName, Arc<Counters>>;
pub type PoolsByRule = HashMap<RuleName, Arc<Pool>>;

#[derive(Debug)]
struct Served {
    /// The plan that this follows.
    planned: Option<Arc<PlannedRule>>,
    /// Something of it did not work, and is worth another try.
    ails: bool,
    counters: Arc<Counters>,
    gate: Arc<Gate>,
    pool: Arc<Pool>,
    log: Arc<ConnectionLog>,
    observatory: Arc<Observatory>,
    kept: Arc<Kept>,
    open: BTreeMap<Claim, Open>,
    /// Listeners on shared sockets.
    branches: Branches,
    /// Who holds tunnels open for clients to come.
    keeping: Option<Keeping>,
    /// What accepts nothing more but has sessions left.
    ending: Vec<watch::Sender<Phase>>,
}

/// Where tunnels are held open to, until this is dropped.
#[derive(Debug)]
struct Keeping {
    service: Arc<Service>,
    entrances: watch::Sender<Box<[Entrance]>>,
}

/// How long workers may take to let go of listening sockets.
const PATIENCE: Duration = Duration::from_millis(250);

/// A port that is listened on.
#[derive(Debug)]
struct Open {
    service: Arc<Service>,
    phase: watch::Sender<Phase>,
    /// The socket that held the port then; if it is another one now, nobody reads that.
    socket: Option<u64>,
}

impl Serving {
    pub fn start(workers: usize, log: Arc<ConnectionLog>, observatory: Arc<Observatory>) -> io::Result<Self> {
        let workers = Workers::start(workers)?;
        Ok(Self {
            workers,
            rules: HashMap::new(),
            counters: Arc::default(),
            pools: Arc::default(),
            failures: None,
            log,
            observatory,
            kept: Arc::default(),
            sharing: None,
            is_shared_anew: false,
        })
    }

    /// Has failures at backends told there, of rules that begin from now on.
    pub fn tell_failures(&mut self, failures: UnboundedSender<Failure>) {
        self.failures = Some(failures);
    }

    /// Waits until everything that is listened on has somebody who takes what comes.
    pub async fn begun(&self) {
        self.workers.begun().await;
    }

    /// Has the kernel plane told of UDP sessions; `None`: there is none.
    pub fn tell(&self, tell: Option<Tell>) {
        self.kept.tell(tell);
    }

    /// Listens where the plan says so, and nowhere else. Sessions of rules that stay go on.
    ///
    /// `gauge`: what a rule has used of its limits, where the kernel plane keeps that.
    pub fn apply(
        &mut self,
        planned: &[Arc<PlannedRule>],
        holder: &mut Holder,
        gauge: impl Fn(&RuleName) -> Option<Gauge>,
    ) {
        let names: HashSet<&RuleName> = planned.iter().map(|planned| &planned.rule.name).collect();
        let before = self.rules.len();
        self.rules.retain(|name, served| {
            let stays = names.contains(name);
            if !stays {
                self.is_shared_anew |= !served.branches.is_empty();
                served.end(name, holder);
            }
            stays
        });
        let mut changed = self.rules.len() != before;
        self.give_up_drained(holder);
        let until = Instant::now() + PATIENCE;
        for planned in planned {
            let name = &planned.rule.name;
            if planned.user.is_none() && !self.rules.contains_key(name) {
                continue;
            }
            changed |= !self.rules.contains_key(name);
            let (log, observatory) = (&self.log, &self.observatory);
            let (kept, failures) = (&self.kept, &self.failures);
            let new = || {
                let (log, observatory) = (log.clone(), observatory.clone());
                Box::new(Served::new(name, log, observatory, kept.clone(), failures.clone()))
            };
            let served = self.rules.entry(name.clone()).or_insert_with(new);
            let is_done = served.planned.as_ref().is_some_and(|done| Arc::ptr_eq(done, planned));
            if !is_done {
                let policy = policy(planned, gauge(name), &served.gate);
                // before: sessions to the new addresses may go on
                served.gate.set(policy.clone());
                if let Some(user) = &planned.user {
                    if user.connect.pool > 0 {
                        served.pool.hold();
                    }
                    served.pool.follow(&user.ends, user.balance, &planned.weights);
                }
                self.is_shared_anew |= served.follow(planned, holder, &self.workers, until);
                if policy.backends.is_some() {
                    // sessions may have begun towards the old ones since
                    served.gate.set(policy);
                }
            }
        }
        if changed {
            let counters = self.rules.iter().map(|(name, served)| (name.clone(), served.counters.clone()));
            self.counters = Arc::new(counters.collect());
            let pools = self.rules.iter().map(|(name, served)| (name.clone(), served.pool.clone()));
            self.pools = Arc::new(pools.collect());
        }
    }

    /// Follows a plan that has other weights for new sessions, and touches nothing else.
    pub fn reweigh(&mut self, planned: &Arc<PlannedRule>) {
        if let Some(served) = self.rules.get_mut(&planned.rule.name) {
            served.pool.reweigh(&planned.weights);
            served.gate.lead_to(planned.backends.clone());
            served.planned = Some(planned.clone());
        }
    }

    /// What every rule's sessions have counted.
    pub fn counters(&self) -> Arc<CountersByRule> {
        self.counters.clone()
    }

    /// Every rule's backends, with what they have had of sessions.
    pub fn pools(&self) -> Arc<PoolsByRule> {
        self.pools.clone()
    }

    /// Closes what has drained, and tries again what has failed.
    pub fn tend(&mut self, holder: &mut Holder) {
        self.give_up_drained(holder);
        let until = Instant::now() + PATIENCE;
        for served in self.rules.values_mut().filter(|served| served.ails) {
            if let Some(planned) = served.planned.clone() {
                self.is_shared_anew |= served.follow(&planned, holder, &self.workers, until);
            }
        }
    }

    fn give_up_drained(&mut self, holder: &mut Holder) {
        for (name, served) in &mut self.rules {
            self.is_shared_anew |= served.give_up_drained(name, holder);
        }
    }

    /// Has the shared sockets serve the rules that need them, and says what must come to them; `None`: the same as
    /// before.
    pub fn share(
        &mut self,
        holder: &mut Holder,
        lookup: &mut Lookup,
    ) -> anyhow::Result<Option<lookup::Wanted>> {
        if !self.is_shared_anew {
            return Ok(None);
        }
        let mut layout = Layout::default();
        self.rules.values().for_each(|served| served.branches.lay_out(&mut layout));
        if self.sharing.is_none() && !layout.taken.is_empty() {
            self.sharing = Some(Sharing::open(self.workers.count(), holder)?);
        }
        let mut wanted = lookup::Wanted { stretches: layout.taken, lasting: false };
        if let Some(sharing) = &self.sharing {
            sharing.introduce(lookup, holder.binder())?;
            sharing.serve(layout.serving, layout.draining);
            if wanted.stretches.is_empty() {
                holder.forget_shared();
            } else {
                wanted.lasting = holder.keep_shared(sharing.groups());
            }
        }
        self.is_shared_anew = false;
        Ok(Some(wanted))
    }

    /// What comes to shared sockets is as [`Self::share`] has said. `lasts`: while relayd is away, too.
    pub fn begin_sharing(&mut self, lasts: bool) {
        if let Some(sharing) = &mut self.sharing {
            sharing.begin(&self.workers, lasts);
        }
    }

    pub const fn has_shared_sockets(&self) -> bool {
        self.sharing.is_some()
    }

    /// What shared sockets take could not be brought about; it is tried again.
    pub const fn share_again(&mut self) {
        self.is_shared_anew = true;
    }
}

impl Served {
    fn new(
        rule: &RuleName,
        log: Arc<ConnectionLog>,
        observatory: Arc<Observatory>,
        kept: Arc<Kept>,
        failures: Option<UnboundedSender<Failure>>,
    ) -> Self {
        let pool = Arc::new(Pool::new(rule.clone()));
        failures.into_iter().for_each(|failures| pool.tell(failures));
        Self {
            planned: None,
            ails: false,
            counters: Arc::default(),
            gate: Arc::default(),
            pool,
            log,
            observatory,
            kept,
            open: BTreeMap::new(),
            branches: Branches::default(),
            keeping: None,
            ending: Vec::new(),
        }
    }

    /// Returns whether shared sockets have something else to do now. `until`: how long to wait for workers.
    fn follow(
        &mut self,
        planned: &Arc<PlannedRule>,
        holder: &mut Holder,
        workers: &Workers,
        until: Instant,
    ) -> bool {
        let name = &planned.rule.name;
        let ends = self.pool.ends();
        let mut wanted = wanted(planned, holder, &ends);
        let gone = |claim: &&Claim| !wanted.contains_key(claim);
        let gone: Vec<Claim> = self.open.keys().filter(gone).cloned().collect();
        for claim in &gone {
            self.open[claim].phase.send_replace(Phase::Drain);
        }
        for claim in &gone {
            self.leave(planned, claim, holder, until);
        }
        self.open.retain(|claim, open| {
            let stays = !wanted.contains_key(claim) || open.socket == holder.inode(name, claim);
            if !stays {
                open.phase.send_replace(Phase::End);
            }
            stays
        });
        self.ending.retain(|phase| !phase.is_closed());
        self.ails = false;
        for (claim, open) in &self.open {
            if let Some(target) = wanted.remove(claim) {
                open.service.retarget(target);
                open.phase.send_replace(Phase::Serve);
                holder.stay(name, claim);
            }
        }
        for (claim, target) in wanted {
            let Some(opened) = self.listen(planned, &claim, target, holder, workers) else { continue };
            match opened {
                Ok(open) => _ = self.open.insert(claim, open),
                Err(error) => {
                    self.ails = true;
                    let (port, protocol) = (claim.port, claim.protocol);
                    tracing::warn!(
                        RULE = name.as_str(),
                        "rule {name}: cannot listen on {port}/{protocol}: {error}"
                    );
                }
            }
        }
        self.keep(planned, &ends, workers);
        self.planned = Some(planned.clone());
        let mut branches = mem::take(&mut self.branches);
        let service = |target| self.service(name, target);
        let is_shared_anew = branches.follow(planned, holder, &ends, service);
        self.branches = branches;
        if planned.closed.is_some() {
            // who has used up a quota may not finish
            self.phases().for_each(|phase| _ = phase.send_replace(Phase::End));
        }
        is_shared_anew
    }

    /// Has tunnels held open for clients to come, where the rule wants that.
    fn keep(&mut self, planned: &PlannedRule, ends: &Arc<Ends>, workers: &Workers) {
        let rule = &planned.rule;
        let user = planned.user.as_ref().filter(|user| !planned.draining && user.connect.pool > 0);
        let (Some(user), Some(listener)) = (user, rule.listen.first()) else { return self.keeping = None };
        let single = |listener: &Listener| {
            let (first, last) = (listener.ports.first(), listener.ports.last());
            (first == last).then_some(Entrance { first, port: first })
        };
        let entrances: Box<[Entrance]> = rule.listen.iter().filter_map(single).collect();
        let target = user.target(listener, ends);
        match &self.keeping {
            Some(keeping) => {
                keeping.service.retarget(target);
                keeping.entrances.send_replace(entrances);
            }
            None => {
                let service = Arc::new(self.service(&rule.name, target));
                let (entrances, watched) = watch::channel(entrances);
                workers.keep(listener.ports.first().into(), service.clone(), watched);
                self.keeping = Some(Keeping { service, entrances });
            }
        }
    }

    fn service(&self, rule: &RuleName, target: Target) -> Service {
        let (counters, gate, log) = (self.counters.clone(), self.gate.clone(), self.log.clone());
        let service = Service::new(rule.clone(), counters, gate, log, target);
        service.keeping(self.kept.clone()).watched_by(self.observatory.clone())
    }

    fn listen(
        &self,
        planned: &PlannedRule,
        claim: &Claim,
        target: Target,
        holder: &mut Holder,
        workers: &Workers,
    ) -> Option<io::Result<Open>> {
        let name = &planned.rule.name;
        // next to the kernel plane there is only the host itself to listen for
        let is_aside =
            planned.kernel.as_ref().is_some_and(|kernel| kernel.carries(claim.address, claim.protocol));
        let sockets = match holder.open(name, claim, if is_aside { 1 } else { workers.count() })? {
            Ok(sockets) => sockets,
            Err(error) => return Some(Err(error)),
        };
        let service = Arc::new(self.service(name, target));
        let (phase, watched) = watch::channel(Phase::Serve);
        for (worker, socket) in (usize::from(claim.port)..).zip(sockets) {
            let socket = match claim.protocol {
                Protocol::Tcp => {
                    service.opens();
                    Listening::Tcp(TcpListener::from(socket))
                }
                Protocol::Udp => Listening::Udp(UdpSocket::from(socket)),
            };
            workers.serve(worker, socket, service.clone(), watched.clone());
        }
        Some(Ok(Open { service, phase, socket: holder.inode(name, claim) }))
    }

    /// Gives up a port that drains; its sessions go on, but not beside a tunnel that the rule has now for datagrams.
    fn leave(&mut self, planned: &PlannedRule, claim: &Claim, holder: &mut Holder, until: Instant) {
        let Some(open) = self.open.get(claim) else { return };
        let rule = &planned.rule;
        let name = &rule.name;
        let is_wrapped = open.service.target().connect.sends_datagrams();
        let is_in_clear = rule.accept.takes_datagrams() || (rule.connect.sends_datagrams() && !is_wrapped);
        if claim.protocol == Protocol::Tcp {
            // it resets those who wait, whom the workers take in first
            open.service.await_closed(until);
            holder.shut(name, claim);
        } else if is_in_clear || planned.closed.is_some() || holder.is_passed_on(name, claim) {
            // every socket on the port gets a share of all clients, the other rule's too
            open.phase.send_replace(Phase::End);
            holder.shut(name, claim);
        } else {
            // the sockets that clients came in on are the ones that they are answered from
            return holder.linger(name, claim);
        }
        self.ending.extend(self.open.remove(claim).map(|open| open.phase));
    }

    /// UDP that drains has ended when its last client has fallen silent, or another rule has the port. Returns whether
    /// that was on shared sockets.
    fn give_up_drained(&mut self, name: &RuleName, holder: &mut Holder) -> bool {
        self.open.retain(|claim, open| {
            let drains = *open.phase.borrow() == Phase::Drain;
            let is_over = drains && (open.service.clients() == 0 || holder.is_passed_on(name, claim));
            if is_over {
                open.phase.send_replace(Phase::End);
                holder.shut(name, claim);
            }
            !is_over
        });
        self.ending.retain(|phase| !phase.is_closed());
        self.branches.tend(&mut self.ending)
    }

    /// Ends everything at once.
    fn end(&self, name: &RuleName, holder: &mut Holder) {
        for claim in self.open.keys() {
            holder.shut(name, claim);
        }
        for phase in self.phases() {
            phase.send_replace(Phase::End);
        }
    }

    fn phases(&self) -> impl Iterator<Item = &watch::Sender<Phase>> {
        self.open.values().map(|open| &open.phase).chain(self.branches.phases()).chain(&self.ending)
    }
}

/// What a rule asks of its clients.
fn policy(planned: &PlannedRule, gauge: Option<Gauge>, gate: &Gate) -> Policy {
    let rule = &planned.rule;
    let gauge = gauge.unwrap_or_else(|| gate.policy().gauge.clone());
    let (allow, backends) = (rule.accept.allow.clone(), planned.backends.clone());
    Policy { allow, limits: rule.limits, gauge, backends }
}

/// The ports that a rule's user part listens on, with where their clients go.
fn wanted(planned: &PlannedRule, holder: &Holder, ends: &Arc<Ends>) -> BTreeMap<Claim, Target> {
    let Some(user) = planned.user.as_ref().filter(|_| !planned.draining) else { return BTreeMap::new() };
    let takes = |claim: &&Claim| if claim.address.is_ipv4() { user.ipv4 } else { user.ipv6 };
    let rule = &planned.rule;
    // until a change is done the holder has the sockets of before, too
    let is_right = |claim: &&Claim| rule.heard().has(claim.protocol) && claim.is_kind_for(rule);
    let claims = holder.claims(&rule.name).filter(takes).filter(is_right);
    let listener = |claim: &Claim| rule.listen.iter().find(|listener| claim.is_of(listener));
    claims.filter_map(|claim| Some((claim.clone(), user.target(listener(claim)?, ends)))).collect()
}
