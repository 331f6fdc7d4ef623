//! Rules whose ports come to shared sockets: the table that tells whose a port is, and what the lookup program takes.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};

use relay_common::net::Protocol;
use socket2::{SockAddr, Socket};
use tokio::sync::watch;

use crate::kernel::KernelError;
use crate::kernel::lookup::{self, Lookup};
use crate::net::claim::Binder;
use crate::net::group::Group;
use crate::net::hold::Holder;
use crate::plan::PlannedRule;
use crate::proxy::pool::Ends;
use crate::proxy::service::{Phase, Service, Target};
use crate::proxy::shared::{Bind, Entry, Shared, Stretch, Table};
use crate::proxy::tcp;
use crate::proxy::workers::{Listening, Workers};
use crate::rule::{ListenOn, Listener, Protocols};

/// The shared sockets as they are served.
#[derive(Debug)]
pub struct Sharing {
    shared: Arc<Shared>,
    binder: Arc<RwLock<Binder>>,
    /// The sockets, in groups.
    groups: Vec<Group>,
    /// The same, until somebody serves them.
    idle: Vec<Group>,
    /// Who comes while relayd is away is the next one's client.
    lasts: bool,
    tcp: watch::Sender<Phase>,
    udp: watch::Sender<Phase>,
}

impl Sharing {
    /// Opens the sockets, or takes those that the relayd before has left. Nobody serves them yet.
    pub fn open(workers: usize, holder: &mut Holder) -> io::Result<Self> {
        let binder = Arc::<RwLock<Binder>>::default();
        let current = binder.clone();
        let bind: Arc<Bind> = Arc::new(move |socket: &Socket, address: &SockAddr| {
            current.read().unwrap_or_else(PoisonError::into_inner).bind(socket, address)
        });
        tcp::bind_ports_by(bind.clone());
        let shared = Arc::new(Shared::new(bind));
        let [tcp, udp] = [(); 2].map(|()| watch::Sender::new(Phase::Serve));
        let groups = holder.open_shared(workers)?;
        let idle = groups.iter().map(Group::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { shared, binder, groups, idle, lasts: false, tcp, udp })
    }

    /// Has the workers serve the sockets, once the lookup program knows who may bind what. `lasts`: who comes while relayd is
    /// away is the next one's client.
    pub fn begin(&mut self, workers: &Workers, lasts: bool) {
        self.lasts = lasts;
        for group in mem::take(&mut self.idle) {
            for (worker, socket) in group.sockets.into_iter().enumerate() {
                let (socket, phase) = match group.protocol {
                    Protocol::Tcp => (Listening::Tcp(TcpListener::from(socket)), &self.tcp),
                    Protocol::Udp => (Listening::Udp(UdpSocket::from(socket)), &self.udp),
                };
                workers.serve_shared(worker, socket, self.shared.clone(), phase.subscribe());
            }
        }
    }

    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub const fn lasts(&self) -> bool {
        self.lasts
    }

    /// Shows the sockets to the lookup program. It forgets them when it is loaded anew.
    pub fn introduce(&self, lookup: &mut Lookup, binder: &Binder) -> Result<(), KernelError> {
        *self.binder.write().unwrap_or_else(PoisonError::into_inner) = binder.clone();
        self.groups
            .iter()
            .try_for_each(|group| lookup.set_group(group.protocol, group.family, &group.sockets))
    }

    /// Serves these listeners from now on. What drains keeps its old UDP clients.
    pub fn serve(&self, serving: Vec<Stretch>, draining: Vec<Stretch>) {
        self.shared.set(Table::new(serving, draining));
    }

    /// Accepts nothing more; sessions go on for now. Who waits is the next relayd's, where there will be one.
    pub fn drain(&self) {
        self.tcp.send_replace(if self.lasts { Phase::HandOver } else { Phase::Drain });
    }

    /// From now on only the workers keep the sockets open.
    pub fn let_go(&mut self) {
        self.groups.clear();
        self.idle.clear();
    }

    pub fn has_no_connections(&self) -> bool {
        self.tcp.is_closed()
    }

    /// Ends what goes on.
    pub fn end(&self) {
        [&self.tcp, &self.udp].into_iter().for_each(|phase| _ = phase.send_replace(Phase::End));
    }
}

/// A listener of a rule on shared sockets.
#[derive(Debug)]
pub struct Branch {
    entry: Arc<Entry>,
    protocols: Protocols,
    ipv4: bool,
    ipv6: bool,
    forced: bool,
}

/// The listeners of one rule.
#[derive(Debug, Default)]
pub struct Branches {
    open: Vec<(Listener, Branch)>,
}

impl Branches {
    /// Follows a plan. Returns whether anything leads elsewhere now. `ends`: where clients go; `service`: for a listener
    /// that is new.
    pub fn follow(
        &mut self,
        planned: &PlannedRule,
        holder: &Holder,
        ends: &Arc<Ends>,
        service: impl Fn(Target) -> Service,
    ) -> bool {
        let before = self.shape();
        let mut known = mem::take(&mut self.open);
        let wanted = wanted(planned, holder, ends);
        // a rule without shared sockets has no memory for them, and one with a single listener no more than for that
        self.open.reserve_exact(wanted.len().max(known.len()));
        for (listener, target) in wanted {
            let branch = match known.iter().position(|(other, _)| other == listener) {
                Some(place) => {
                    let (_, branch) = known.swap_remove(place);
                    branch.entry.service.retarget(target);
                    branch.entry.turn(Phase::Serve);
                    branch.with(planned)
                }
                None => Branch::new(planned, service(target)),
            };
            self.open.push((listener.clone(), branch));
        }
        known.iter().for_each(|(_, branch)| branch.entry.turn(Phase::Drain));
        self.open.extend(known);
        before != self.shape()
    }

    /// Gives up what has drained; `ending` gets what has connections left. Returns whether there was anything.
    pub fn tend(&mut self, ending: &mut Vec<watch::Sender<Phase>>) -> bool {
        let drained = |branch: &Branch| branch.drains() && branch.entry.service.clients() == 0;
        let before = self.open.len();
        let over = self.open.extract_if(.., |(_, branch)| drained(branch));
        ending.extend(over.map(|(_, branch)| branch.entry.orders().clone()));
        self.open.len() != before
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Accepts nothing more.
    pub fn drain(&self) {
        self.phases().for_each(|phase| _ = phase.send_replace(Phase::Drain));
    }

    pub fn phases(&self) -> impl Iterator<Item = &watch::Sender<Phase>> {
        self.open.iter().map(|(_, branch)| branch.entry.orders())
    }

    /// What leads to the rule, for the workers and for the lookup program.
    pub fn lay_out(&self, plan: &mut Layout) {
        for (listener, branch) in &self.open {
            for (protocol, address) in branch.leads(&listener.on) {
                let (ports, forced) = (listener.ports, branch.forced);
                if protocol == Protocol::Udp || !branch.drains() {
                    plan.taken.push(lookup::Stretch { protocol, ports, address, forced });
                }
                // connections that have not been accepted yet are for what drains, too
                let list = if branch.drains() { &mut plan.draining } else { &mut plan.serving };
                list.push(Stretch { protocol, address, ports, entry: branch.entry.clone() });
            }
        }
    }

    /// All that the tables depend on.
    fn shape(&self) -> Vec<(usize, bool, Protocols, bool, bool, bool)> {
        let shape = |(_, branch): &(Listener, Branch)| {
            let entry = Arc::as_ptr(&branch.entry).addr();
            (entry, branch.drains(), branch.protocols, branch.ipv4, branch.ipv6, branch.forced)
        };
        let mut shapes: Vec<_> = self.open.iter().map(shape).collect();
        shapes.sort_unstable_by_key(|(entry, ..)| *entry);
        shapes
    }
}

/// What leads to all rules on shared sockets.
#[derive(Debug, Default)]
pub struct Layout {
    pub serving: Vec<Stretch>,
    pub draining: Vec<Stretch>,
    pub taken: Vec<lookup::Stretch>,
}

impl Branch {
    fn new(planned: &PlannedRule, service: Service) -> Self {
        let entry = Arc::new(Entry::new(Arc::new(service)));
        let (protocols, forced) = (planned.rule.heard(), planned.rule.force);
        Self { entry, protocols, ipv4: false, ipv6: false, forced }.with(planned)
    }

    /// As the plan has it.
    fn with(self, planned: &PlannedRule) -> Self {
        let (ipv4, ipv6) = planned.user.as_ref().map_or((false, false), |user| (user.ipv4, user.ipv6));
        let (protocols, forced) = (planned.rule.heard(), planned.rule.force);
        Self { protocols, ipv4, ipv6, forced, ..self }
    }

    fn drains(&self) -> bool {
        self.entry.phase() != Phase::Serve
    }

    /// Protocols and addresses that lead here.
    fn leads(&self, on: &ListenOn) -> impl Iterator<Item = (Protocol, IpAddr)> + use<> {
        let (v4, v6) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let mut addresses = match on {
            ListenOn::Everywhere => vec![v4, v6],
            ListenOn::EverywhereV4 => vec![v4],
            ListenOn::EverywhereV6 => vec![v6],
            ListenOn::Address(address) => vec![*address],
            // such a rule is not shared
            ListenOn::Interface(_) => Vec::new(),
        };
        addresses.retain(|address| if address.is_ipv4() { self.ipv4 } else { self.ipv6 });
        let protocols = self.protocols;
        addresses
            .into_iter()
            .flat_map(move |address| protocols.iter().map(move |protocol| (protocol, address)))
    }
}

/// The listeners of a rule whose ports come to the shared sockets, with where their clients go.
fn wanted<'a>(planned: &'a PlannedRule, holder: &Holder, ends: &Arc<Ends>) -> Vec<(&'a Listener, Target)> {
    let rule = &planned.rule;
    let user = planned.user.as_ref().filter(|_| !planned.draining && holder.shares(&rule.name));
    let Some(user) = user else { return Vec::new() };
    rule.listen.iter().map(|listener| (listener, user.target(listener, ends))).collect()
}
