//! What plans depend on, gathered from the host: addresses and routes, resolved names, who else has which port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rtnetlink::Handle;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::host::{HostView, Path};
use crate::net::hold::Holder;
use crate::net::socket_list::SocketList;
use crate::net::{paths, view};
use crate::rule::{Host, Rule, RuleName};

/// How long a name may take to resolve.
const RESOLVE: Duration = Duration::from_secs(5);

pub struct FactBook {
    pub handle: Handle,
    pub host: HostView,
    pub resolved: BTreeMap<Host, Result<IpAddr, String>>,
    pub taken: BTreeMap<RuleName, String>,
    pub paths: BTreeMap<Ipv4Addr, Path>,
    pub holder: Holder,
    /// Raised when the host looks different, so that what was derived from it before is out of date.
    pub revision: u64,
}

impl FactBook {
    pub async fn new(handle: Handle) -> anyhow::Result<Self> {
        let host = view::read(&handle).await?;
        Ok(Self {
            handle,
            host,
            resolved: BTreeMap::new(),
            taken: BTreeMap::new(),
            paths: BTreeMap::new(),
            holder: Holder::default(),
            revision: 0,
        })
    }

    /// Resolves the names that rules go to: all of them, or those not known yet. A name that fails keeps the address
    /// it had.
    pub async fn resolve(&mut self, rules: &[Arc<Rule>], again: bool) {
        let names: BTreeSet<&Host> = rules
            .iter()
            .flat_map(|rule| rule.to.iter().map(|backend| &backend.host))
            .filter(|host| matches!(host, Host::Name(_)))
            .filter(|host| again || !matches!(self.resolved.get(host), Some(Ok(_))))
            .collect();
        let mut lookups = JoinSet::new();
        for host in names {
            let host = host.clone();
            lookups.spawn(async move {
                let answer = resolve(&host).await;
                (host, answer)
            });
        }
        while let Some(Ok((host, answer))) = lookups.join_next().await {
            match (answer, self.resolved.get(&host)) {
                (Err(error), Some(Ok(_))) => tracing::warn!("{host} keeps its address: {error}"),
                (answer, _) => {
                    self.resolved.insert(host, answer);
                }
            }
        }
    }

    /// Takes the ports of rules that have changed, and lets go of those that are no longer wanted.
    pub fn hold<'a>(&mut self, rules: impl IntoIterator<Item = &'a Arc<Rule>>, gone: &[RuleName]) {
        for name in gone {
            self.holder.release(name);
            self.taken.remove(name);
        }
        let mut list = SocketList::default();
        for rule in rules {
            let conflict = if rule.enabled {
                self.holder.take(rule, &self.host, &mut list)
            } else {
                self.holder.release(&rule.name);
                None
            };
            match conflict {
                Some(text) => self.taken.insert(rule.name.clone(), text),
                None => self.taken.remove(&rule.name),
            };
        }
    }

    /// Who would be in the way if these rules took their ports; takes none.
    pub fn would_be_taken(&self, rules: &[Arc<Rule>]) -> BTreeMap<RuleName, String> {
        let mut taken = self.taken.clone();
        let mut list = SocketList::default();
        for rule in rules {
            taken.remove(&rule.name);
            let wants = rule.enabled && !rule.force;
            let conflict = if wants { list.conflict(rule, &self.host, &self.holder) } else { None };
            taken.extend(conflict.map(|text| (rule.name.clone(), text)));
        }
        taken
    }

    /// The addresses that rules go to, as far as they are IPv4.
    fn backends<'a>(&'a self, rules: impl IntoIterator<Item = &'a Arc<Rule>>) -> BTreeSet<Ipv4Addr> {
        let host = |host: &Host| match (host, self.resolved.get(host)) {
            (Host::Address(IpAddr::V4(address)), _) | (_, Some(Ok(IpAddr::V4(address)))) => Some(*address),
            _ => None,
        };
        rules.into_iter().flat_map(|rule| &rule.to).filter_map(|backend| host(&backend.host)).collect()
    }

    /// Finds the ways to backends that have none yet.
    pub async fn find_paths(&mut self, rules: &[Arc<Rule>]) {
        let mut unknown = self.backends(rules);
        unknown.retain(|backend| !self.paths.contains_key(backend));
        let found = paths::find(&self.handle, &self.host, &unknown).await;
        self.paths.extend(found);
    }

    /// Looks at the host again. Returns whether anything is different.
    pub async fn refresh(&mut self, rules: &[Arc<Rule>]) -> anyhow::Result<bool> {
        let host = view::read(&self.handle).await?;
        let backends = self.backends(rules);
        let paths = paths::find(&self.handle, &host, &backends).await;
        let changed = host != self.host || paths != self.paths;
        self.revision += u64::from(changed);
        self.host = host;
        self.paths = paths;
        Ok(changed)
    }
}

/// The first IPv4 address of a name, or else the first one.
async fn resolve(host: &Host) -> Result<IpAddr, String> {
    let Host::Name(name) = host else { return Err("it is not a name".into()) };
    let answers = match timeout(RESOLVE, lookup_host((&**name, 0))).await {
        Err(_elapsed) => return Err("the name server does not answer".into()),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(answers)) => answers.map(|answer| answer.ip()).collect::<Vec<_>>(),
    };
    let first = answers.iter().find(|address| address.is_ipv4()).or(answers.first());
    first.copied().ok_or_else(|| "the name has no address".into())
}
