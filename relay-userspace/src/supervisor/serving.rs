//! Bringing the user plane to what the plan says: which ports it listens on, and where their clients go.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use relay_common::net::Protocol;
use tokio::sync::watch;

use crate::net::claim::{self, Claim};
use crate::net::hold::Holder;
use crate::plan::PlannedRule;
use crate::proxy::counters::Counters;
use crate::proxy::service::{Phase, Service, Target};
use crate::proxy::workers::{Listening, Workers};
use crate::rule::RuleName;

/// The user plane as it runs.
#[derive(Debug)]
pub struct Serving {
    workers: Workers,
    rules: HashMap<RuleName, Served>,
    counters: Arc<CountersByRule>,
}

pub type CountersByRule = HashMap<RuleName, Arc<Counters>>;

#[derive(Debug, Default)]
struct Served {
    /// The plan that this follows; `None`: something of it did not work.
    planned: Option<Arc<PlannedRule>>,
    counters: Arc<Counters>,
    open: BTreeMap<Claim, Open>,
    /// What accepts nothing more but has sessions left.
    ending: Vec<watch::Sender<Phase>>,
}

/// A port that is listened on.
#[derive(Debug)]
struct Open {
    service: Arc<Service>,
    phase: watch::Sender<Phase>,
}

impl Serving {
    pub fn start(workers: usize) -> io::Result<Self> {
        Ok(Self { workers: Workers::start(workers)?, rules: HashMap::new(), counters: Arc::default() })
    }

    /// Listens where the plan says so, and nowhere else. Sessions of rules that stay go on.
    pub fn apply(&mut self, planned: &[Arc<PlannedRule>], holder: &mut Holder) {
        let names: HashSet<&RuleName> = planned.iter().map(|planned| &planned.rule.name).collect();
        let before = self.rules.len();
        self.rules.retain(|name, served| {
            let stays = names.contains(name);
            if !stays {
                served.end(name, holder);
            }
            stays
        });
        let mut changed = self.rules.len() != before;
        for planned in planned {
            let name = &planned.rule.name;
            if planned.user.is_none() && !self.rules.contains_key(name) {
                continue;
            }
            changed |= !self.rules.contains_key(name);
            let served = self.rules.entry(name.clone()).or_default();
            let is_done = served.planned.as_ref().is_some_and(|done| Arc::ptr_eq(done, planned));
            if !is_done {
                served.follow(planned, holder, &self.workers);
            }
        }
        if changed {
            let counters = self.rules.iter().map(|(name, served)| (name.clone(), served.counters.clone()));
            self.counters = Arc::new(counters.collect());
        }
    }

    /// What every rule's sessions have counted.
    pub fn counters(&self) -> Arc<CountersByRule> {
        self.counters.clone()
    }

    /// Accepts nothing more, gives sessions some time to finish, and ends them then.
    pub fn stop(mut self, within: Duration) {
        for served in self.rules.values_mut() {
            served.drain_all();
        }
        self.workers.stop(within);
    }
}

impl Served {
    fn follow(&mut self, planned: &Arc<PlannedRule>, holder: &mut Holder, workers: &Workers) {
        let wanted = wanted(planned);
        let gone: Vec<Claim> =
            self.open.keys().filter(|claim| !wanted.contains_key(claim)).cloned().collect();
        for claim in gone {
            holder.shut(&planned.rule.name, &claim);
            self.drain(&claim);
        }
        self.ending.retain(|phase| !phase.is_closed());
        let mut whole = true;
        for (claim, target) in wanted {
            if let Some(open) = self.open.get(&claim) {
                open.service.retarget(target);
                continue;
            }
            match self.listen(&planned.rule.name, &claim, target, holder, workers) {
                Ok(open) => _ = self.open.insert(claim, open),
                // what the plan knows about is shown there
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                Err(error) => {
                    whole = false;
                    let (port, protocol) = (claim.port, claim.protocol);
                    tracing::warn!(
                        RULE = planned.rule.name.as_str(),
                        "rule {}: cannot listen on {port}/{protocol}: {error}",
                        planned.rule.name
                    );
                }
            }
        }
        self.planned = whole.then(|| planned.clone());
    }

    fn listen(
        &self,
        name: &RuleName,
        claim: &Claim,
        target: Target,
        holder: &mut Holder,
        workers: &Workers,
    ) -> io::Result<Open> {
        let service = Arc::new(Service::new(name.clone(), self.counters.clone(), target));
        let (phase, watched) = watch::channel(Phase::Serve);
        for (worker, socket) in holder.open(name, claim, workers.count())?.into_iter().enumerate() {
            let socket = match claim.protocol {
                Protocol::Tcp => Listening::Tcp(TcpListener::from(socket)),
                Protocol::Udp => Listening::Udp(UdpSocket::from(socket)),
            };
            workers.serve(worker, socket, service.clone(), watched.clone());
        }
        Ok(Open { service, phase })
    }

    /// Stops accepting on a port; its sessions go on.
    fn drain(&mut self, claim: &Claim) {
        if let Some(open) = self.open.remove(claim) {
            open.phase.send_replace(Phase::Drain);
            self.ending.push(open.phase);
        }
    }

    fn drain_all(&mut self) {
        for open in self.open.values() {
            open.phase.send_replace(Phase::Drain);
        }
    }

    /// Ends everything at once.
    fn end(&mut self, name: &RuleName, holder: &mut Holder) {
        for claim in self.open.keys() {
            holder.shut(name, claim);
        }
        for phase in self.open.values().map(|open| &open.phase).chain(&self.ending) {
            phase.send_replace(Phase::End);
        }
    }
}

/// The ports that a rule's user part listens on, with where their clients go.
fn wanted(planned: &PlannedRule) -> BTreeMap<Claim, Target> {
    let Some(user) = planned.user.as_ref().filter(|_| !planned.draining) else { return BTreeMap::new() };
    let rule = &planned.rule;
    let claims = rule.listen.iter().flat_map(|listener| {
        let target = user.target(listener);
        claim::claims(rule, listener).map(move |claim| (claim, target.clone()))
    });
    claims.filter(|(claim, _)| if claim.address.is_ipv4() { user.ipv4 } else { user.ipv6 }).collect()
}
