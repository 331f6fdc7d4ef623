//! What plans depend on, gathered from the host: addresses and routes, resolved names, who else has which port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rtnetlink::Handle;

use super::names::Names;
use super::state::Rules;
use crate::host::{ClientRoutes, HostView, Path, WayTo};
use crate::kernel::maps;
use crate::net::hold::Holder;
use crate::net::socket_list::SocketList;
use crate::net::{paths, view};
use crate::plan::{candidates, way_to};
use crate::proxy::tunnel::Tunnels;
use crate::rule::{Rule, RuleName};

pub struct FactBook {
    pub handle: Handle,
    pub host: HostView,
    /// What the kernel plane takes of the host's routes.
    pub client_routes: Arc<ClientRoutes>,
    pub names: Names,
    pub taken: BTreeMap<RuleName, String>,
    pub paths: BTreeMap<WayTo, Path>,
    pub holder: Holder,
    /// What rules' tunnels are made of.
    pub tunnels: Tunnels,
    /// Raised when the host looks different, so that what was derived from it before is out of date.
    pub revision: u64,
}

impl FactBook {
    pub async fn new(handle: Handle, names: Names, tunnels: Tunnels) -> anyhow::Result<Self> {
        let host = view::read(&handle).await?;
        Ok(Self {
            handle,
            client_routes: Arc::new(ClientRoutes::of(&host.routes, maps::ROOM_FOR_ROUTES)),
            host,
            names,
            taken: BTreeMap::new(),
            paths: BTreeMap::new(),
            holder: Holder::default(),
            tunnels,
            revision: 0,
        })
    }

    /// Takes the ports of rules that have changed, and lets go of those that are no longer wanted.
    pub fn hold<'a>(&mut self, rules: impl IntoIterator<Item = &'a Arc<Rule>>) {
        let mut list = SocketList::default();
        for rule in rules {
            let conflict =
                if rule.takes_ports() { self.holder.take(rule, &self.host, &mut list) } else { None };
            match conflict {
                Some(text) => self.taken.insert(rule.name.clone(), text),
                None => self.taken.remove(&rule.name),
            };
        }
    }

    /// Lets go of the ports that these rules no longer want, and of all those of rules that are gone.
    pub fn settle<'a>(&mut self, rules: impl IntoIterator<Item = &'a Arc<Rule>>, gone: &[RuleName]) {
        for name in gone {
            self.holder.release(name);
            self.taken.remove(name);
        }
        for rule in rules {
            if rule.takes_ports() {
                self.holder.settle(rule, &self.host);
            } else {
                self.holder.release(&rule.name);
            }
        }
    }

    /// Rules that could not have all their ports, and may have more luck.
    pub fn retriable<'a>(&'a self, rules: &'a Rules) -> impl Iterator<Item = &'a Arc<Rule>> {
        let rules = rules.iter().map(|(rule, _)| rule);
        rules.filter(|rule| self.taken.contains_key(&rule.name) || self.holder.may_have_more(&rule.name))
    }

    /// Enabled rules whose ports depend on the host's links and addresses.
    pub fn bound_to_host<'a>(&self, rules: &'a Rules) -> impl Iterator<Item = &'a Arc<Rule>> {
        rules.iter().map(|(rule, _)| rule).filter(|rule| rule.takes_ports() && !rule.is_everywhere())
    }

    /// Who would be in the way if these rules took their ports; takes none.
    pub fn would_be_taken(&self, rules: &[Arc<Rule>]) -> BTreeMap<RuleName, String> {
        let mut taken = self.taken.clone();
        let mut list = SocketList::default();
        for rule in rules {
            taken.remove(&rule.name);
            let wants = rule.takes_ports() && !rule.force;
            let conflict = if wants { self.holder.conflict(rule, &self.host, &mut list) } else { None };
            taken.extend(conflict.map(|text| (rule.name.clone(), text)));
        }
        taken
    }

    /// The ways that rules may need.
    fn ways<'a>(&self, rules: impl IntoIterator<Item = &'a Arc<Rule>>, host: &HostView) -> BTreeSet<WayTo> {
        let ways = rules.into_iter().flat_map(|rule| rule.to.iter().map(move |backend| (rule, backend)));
        let ways = ways.flat_map(|(rule, backend)| {
            let addresses = candidates(rule, &self.names.addresses(&backend.host));
            addresses.into_iter().filter_map(|address| way_to(rule, address, host))
        });
        ways.collect()
    }

    /// Finds the ways to backends that have none yet.
    pub async fn find_paths(&mut self, rules: &[Arc<Rule>]) {
        let mut unknown = self.ways(rules, &self.host);
        unknown.retain(|way| !self.paths.contains_key(way));
        let found = paths::find(&self.handle, &self.host, &unknown).await;
        self.paths.extend(found);
    }

    /// Looks at the host again. Returns whether anything is different.
    pub async fn refresh(&mut self, rules: &[Arc<Rule>]) -> anyhow::Result<bool> {
        let host = view::read(&self.handle).await?;
        let ways = self.ways(rules, &host);
        let paths = paths::find(&self.handle, &host, &ways).await;
        let changed = host != self.host || paths != self.paths;
        self.revision += u64::from(changed);
        if host.reaches_more_than(&self.host) {
            self.names.retry_now();
        }
        if host.routes != self.host.routes {
            self.client_routes = Arc::new(ClientRoutes::of(&host.routes, maps::ROOM_FOR_ROUTES));
        }
        self.host = host;
        self.paths = paths;
        Ok(changed)
    }
}
