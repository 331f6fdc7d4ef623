//! All that the supervisor owns.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backends::Backends;
use super::command::Command;
use super::delta;
use super::desire;
use super::explain;
use super::facts::FactBook;
use super::serving::Serving;
use super::shared::{Shared, Snapshot};
use super::terms::{Metering, closed_rules, group_terms};
use super::walk::Means;
use tokio::task::JoinSet;

use crate::alert::desk::Alerts;
use crate::api::view::{InterfaceView, KernelView};
use crate::config::dns::Dns;
use crate::config::settings::{Hook, Settings};
use crate::config::{Origin, files::Config};
use crate::connections::ConnectionLog;
use crate::host::{ClaimRange, HostView};
use crate::kernel::apply::Applied;
use crate::kernel::{Dataplane, Desired, KernelError, Unavailable};
use crate::memory;
use crate::net::sysctl::Ledger;
use crate::plan::{self, Fault, PlannedRule};
use crate::proxy::gate::Gauge;
use crate::rule::{Groups, Rule, RuleName};

pub type Rules = Vec<(Arc<Rule>, Origin)>;

pub struct State {
    pub shared: Arc<Shared>,
    /// The main configuration file, if there is one.
    pub config_path: Option<PathBuf>,
    /// Rules from relayd's command line; a reload keeps them.
    pub own_rules: Rules,
    pub settings: Settings,
    pub rules: Rules,
    pub groups: Groups,
    /// Who has a quota or an end.
    pub metering: Metering,
    pub draining: BTreeSet<RuleName>,
    pub planned: Vec<Arc<PlannedRule>>,
    pub facts: FactBook,
    pub kernel: Result<Dataplane, Unavailable>,
    /// The user plane; `None`: its threads could not be started.
    pub serving: Option<Serving>,
    /// Who is judged, and what is known of them.
    pub backends: Backends,
    pub log: Arc<ConnectionLog>,
    /// Hands over what the kernel plane has carried.
    pub log_task: JoinSet<()>,
    /// What was last brought into the kernel.
    pub desired: Desired,
    pub claims: ClaimRange,
    /// Slots in XDP's device map by interface.
    pub devices: BTreeMap<u32, u16>,
    pub ledger: Ledger,
    /// The host has been told, or has refused, to reuse ports that rest.
    pub reuses_ports: bool,
    pub reload_error: Option<String>,
    pub reloaded: Option<Instant>,
    pub pending: Option<Pending>,
    /// Commands that wait for names.
    pub aside: Vec<Command>,
    /// Detached by `relayctl down`, until the next reload.
    pub down: bool,
    /// Slots that were given up, and the number of the sweep after which they may be used again.
    pub resting: Vec<(u64, Vec<u32>)>,
    pub sweeps: u64,
    /// Tables that were last told to be full.
    pub full: BTreeSet<&'static str>,
    /// When the memory that a change needed for a moment is given back.
    pub slack: Option<Instant>,
}

/// By then whoever asked for a change has the answer, which takes memory too.
const ANSWERED: Duration = Duration::from_millis(100);

/// An apply that waits for its confirmation.
pub struct Pending {
    pub until: Instant,
    pub text: String,
    pub before: Undo,
}

/// Rules that are ready to become the current ones; their ports are held already.
pub struct Prepared {
    pub rules: Rules,
    pub draining: BTreeSet<RuleName>,
    pub planned: Vec<Arc<PlannedRule>>,
}

/// The state before a change, to go back to.
pub struct Undo {
    pub rules: Rules,
    pub draining: BTreeSet<RuleName>,
    pub planned: Vec<Arc<PlannedRule>>,
    pub desired: Desired,
    /// The groups, if they change too.
    pub groups: Option<Groups>,
    /// How names were looked up, if that changes too.
    pub dns: Option<Dns>,
    /// Whether connections were logged, likewise.
    pub connections: Option<bool>,
    /// Who was alerted, likewise.
    pub alerts: Option<Alerts>,
}

impl State {
    /// Plans rules; those that have not changed keep their plan, unless `all`.
    pub fn plan(&self, rules: &Rules, draining: &BTreeSet<RuleName>, all: bool) -> Vec<Arc<PlannedRule>> {
        let hook = match &self.kernel {
            Ok(_) if self.settings.hook == Hook::Xdp && self.xdp_runs() => Ok(Hook::Xdp),
            Ok(_) if self.down => Err(plan::DETACHED),
            Ok(_) => Ok(Hook::Tc),
            Err(unavailable) => Err(unavailable.0.as_str()),
        };
        let closed = closed_rules(&self.shared, rules, &self.groups);
        let facts = plan::Facts {
            kernel: hook,
            host: &self.facts.host,
            paths: &self.facts.paths,
            resolved: self.facts.names.known(),
            taken: &self.facts.taken,
            lacks: self.facts.holder.lacks(),
            down: self.down,
            health: self.backends.health(),
            now: Instant::now(),
            closed: &closed,
            tunnels: &self.facts.tunnels,
        };
        let plan = |(rule, origin): &(Arc<Rule>, Origin)| {
            Arc::new(plan::rule(rule, origin, draining.contains(&rule.name), &facts))
        };
        if all || self.planned.len() != self.rules.len() {
            return rules.iter().map(plan).collect();
        }
        let mut turned: HashSet<&RuleName> = self.draining.symmetric_difference(draining).collect();
        let has_turned =
            |planned: &&Arc<PlannedRule>| planned.closed != closed.get(&planned.rule.name).copied();
        turned.extend(self.planned.iter().filter(has_turned).map(|planned| &planned.rule.name));
        let same = |before: &(Arc<Rule>, Origin), after: &(Arc<Rule>, Origin)| {
            Arc::ptr_eq(&before.0, &after.0) && !turned.contains(&before.0.name)
        };
        let (old, new) = delta::middles(&self.rules, rules, same);
        let known: HashMap<&RuleName, &Arc<PlannedRule>> =
            self.planned[old.clone()].iter().map(|planned| (&planned.rule.name, planned)).collect();
        let middle = rules[new].iter().map(|rule| match known.get(&rule.0.name) {
            Some(known) if Arc::ptr_eq(&known.rule, &rule.0) && !turned.contains(&rule.0.name) => {
                (*known).clone()
            }
            _ => plan(rule),
        });
        let (start, end) = (&self.planned[..old.start], &self.planned[old.end..]);
        start.iter().cloned().chain(middle).chain(end.iter().cloned()).collect()
    }

    /// Whether XDP is attached anywhere.
    fn xdp_runs(&self) -> bool {
        self.kernel.as_ref().is_ok_and(|kernel| {
            kernel.attachments().values().any(|attachment| attachment.xdp == Some(Ok(())))
        })
    }

    /// Brings a plan into both planes; on failure what was there before comes back.
    pub fn apply(&mut self, planned: &[Arc<PlannedRule>]) -> Result<Desired, KernelError> {
        let desired = self.apply_kernel(planned)?;
        if let Some(serving) = &mut self.serving {
            let kernel = self.kernel.as_ref().ok();
            let gauge = |name: &RuleName| kernel?.usage(name).map(Gauge::new);
            serving.apply(planned, &mut self.facts.holder, gauge);
            self.reuse_ports(planned);
        }
        self.share();
        self.follow_terms(planned);
        self.backends.follow(planned);
        self.backends.count_by(self.kernel.as_ref().ok(), &desired.rules);
        self.slack.get_or_insert_with(|| Instant::now() + ANSWERED);
        Ok(desired)
    }

    fn apply_kernel(&mut self, planned: &[Arc<PlannedRule>]) -> Result<Desired, KernelError> {
        let before = desire::Before { planned: &self.planned, desired: &self.desired };
        let groups = group_terms(&self.shared, &self.groups);
        let desired = desire::desired(planned, &self.facts, self.claims, &self.devices, groups, &before);
        let Ok(kernel) = &mut self.kernel else { return Ok(desired) };
        if self.down {
            return Ok(desired);
        }
        match kernel.apply(&desired) {
            Ok(applied) => {
                self.swept_later(applied);
                self.tell_shortage();
                Ok(desired)
            }
            Err(error) => {
                if let Err(worse) = kernel.apply(&self.desired) {
                    tracing::error!("going back failed too: {worse}");
                }
                Err(error)
            }
        }
    }

    /// Has the flows of ended rules swept, and their slots freed after that.
    pub fn swept_later(&mut self, applied: Applied) {
        let Ok(kernel) = &self.kernel else { return };
        let resting: HashSet<u32> = kernel.resting().into_iter().collect();
        // one that a rule has got meanwhile, for want of others, rests anew when it is given up again
        self.resting.iter_mut().for_each(|(_, slots)| slots.retain(|slot| resting.contains(slot)));
        let known: HashSet<u32> = self.resting.iter().flat_map(|(_, slots)| slots).copied().collect();
        let new: Vec<u32> = resting.into_iter().filter(|slot| !known.contains(slot)).collect();
        if applied.orphans {
            let _unheard = self.shared.census.request();
        }
        if !new.is_empty() {
            // the round under way may have passed their flows already, the next may meet one that was just made
            self.resting.push((self.sweeps + 3, new));
        }
    }

    /// A sweep has ended: slots that rested long enough are free again.
    pub fn swept(&mut self, number: u64) {
        self.sweeps = number;
        let Ok(kernel) = &mut self.kernel else { return };
        self.resting.retain(|(at, slots)| {
            let rests = *at > number;
            if !rests && let Err(error) = kernel.free_slots(slots) {
                tracing::warn!("what ended rules have dropped stays counted: {error}");
            }
            rests
        });
    }

    /// Changes need memory for a moment only.
    pub fn give_back(&mut self) {
        self.slack = None;
        memory::give_back();
    }

    /// Whether no rule waits for the first answer about its name.
    pub fn is_settled(&self) -> bool {
        let waits = |fault: &Fault| matches!(fault, Fault::Resolving(_));
        !self.planned.iter().any(|planned| planned.faults.iter().any(waits))
    }

    /// Shows the state to readers.
    pub fn publish(&self) {
        let slots = self.kernel.as_ref().map(Dataplane::slots).unwrap_or_default();
        let interfaces = self
            .kernel
            .as_ref()
            .map_or_else(|_| Vec::new(), |kernel| interface_views(kernel, &self.facts.host));
        let by_name = self
            .planned
            .iter()
            .enumerate()
            .map(|(index, planned)| (planned.rule.name.clone(), index))
            .collect();
        let names = self.facts.host.links.values().map(|link| (link.index, link.name.clone())).collect();
        self.shared.publish(Snapshot {
            rules: self.planned.clone(),
            groups: self.groups.clone(),
            by_name,
            slots,
            sessions: self.serving.as_ref().map(Serving::counters).unwrap_or_default(),
            resolved: self.facts.names.known().clone(),
            upkeep: self.facts.names.upkeep(),
            settled: self.is_settled(),
            kernel: self.kernel_view(),
            interfaces,
            max_flows: self.kernel.as_ref().map_or(0, |kernel| kernel.max_flows),
            config: self.config_path.as_ref().map(|path| path.display().to_string()),
            reload_error: self.reload_error.clone(),
            reloaded: self.reloaded,
            sysctls: self.ledger.names().map(ToOwned::to_owned).collect(),
            roll: self.backends.roll(),
            orders: self.backends.orders(),
            pools: self.serving.as_ref().map(Serving::pools).unwrap_or_default(),
            unconfirmed: self.pending.as_ref().map(|pending| pending.until),
            explain: Arc::new(explain::Facts {
                paths: self.facts.paths.clone(),
                interfaces: names,
                claims: self.claims,
            }),
            means: Means { state_dir: self.settings.state_dir.clone(), book: Some(self.facts.names.book()) },
        });
    }

    fn kernel_view(&self) -> KernelView {
        match &self.kernel {
            Err(unavailable) => KernelView { reason: Some(unavailable.to_string()), ..KernelView::default() },
            Ok(_) if self.down => {
                let reason = "detached by `relayctl down`; `relayctl reload` attaches again".to_owned();
                KernelView { reason: Some(reason), ..KernelView::default() }
            }
            Ok(kernel) => KernelView {
                available: true,
                reason: None,
                hook: Some(if self.xdp_runs() { "xdp" } else { "tc" }.into()),
                adopted: kernel.adopted,
                full: kernel.shortage().tables().map(|(table, text)| (table.to_owned(), text)).collect(),
            },
        }
    }

    /// Reads the configuration file and adds the rules from the command line.
    pub fn read_config(&self) -> Result<Config, crate::config::Problems> {
        let config = match &self.config_path {
            Some(path) => Config::read(path)?,
            None => Config { settings: self.settings.clone(), ..Config::default() },
        };
        config.with_typed(&self.own_rules)
    }
}

fn interface_views(kernel: &Dataplane, host: &HostView) -> Vec<InterfaceView> {
    kernel
        .attachments()
        .iter()
        .map(|(&index, attachment)| InterfaceView {
            name: attachment.name.to_string(),
            index,
            tc: match &attachment.tc {
                Ok(kind) => kind.as_str().into(),
                Err(reason) => reason.clone(),
            },
            uncounted: attachment.egress.as_ref().err().cloned(),
            xdp: attachment.xdp.as_ref().map(|xdp| match xdp {
                Ok(()) => "native".into(),
                Err(reason) => reason.clone(),
            }),
            paced: host.links.get(&index).is_some_and(|link| link.paced),
            failed: attachment.tc.is_err(),
            lifetime: None,
        })
        .collect()
}
