//! Shared sockets and the programs of the host: what these listen for is theirs.

use std::sync::Arc;

use anyhow::Context as _;

use super::serving::Serving;
use super::state::{Rules, State};
use crate::kernel::Dataplane;
use crate::kernel::lookup::{Listening, Lookup, Wanted};
use crate::net::claim::Binder;
use crate::net::hold::Holder;
use crate::net::{diag, reach, socket_list, sysctl};
use crate::rule::{Rule, RuleName};

/// Programs that are told about one by one.
const MOST_TOLD: usize = 10;

impl State {
    /// Says whether rules may have shared sockets.
    pub fn offer_sharing(&mut self) {
        let possible = match &self.kernel {
            Ok(kernel) => kernel.lookup().map(binder).map_err(ToString::to_string),
            Err(unavailable) => Err(unavailable.to_string()),
        };
        self.facts.holder.share(possible);
    }

    /// Ports that rules had when relayd ran last are theirs still, whoever listens on some of them now.
    pub fn note_had(&mut self, rules: &Rules) {
        let Ok(kernel) = &self.kernel else { return };
        let listeners = kernel.listeners();
        for (rule, _) in rules {
            let Some(slot) = kernel.slot(&rule.name) else { continue };
            let had = reach::wanted(rule).filter(|wanted| {
                let mut ports = wanted.ports.first()..=wanted.ports.last();
                ports.all(|port| listeners.has(slot, wanted.protocol, port))
            });
            self.facts.holder.note_had(&rule.name, had);
        }
    }

    /// Brings the shared sockets to what the plan says.
    pub fn share(&mut self) {
        let (Some(serving), Ok(kernel)) = (&mut self.serving, &mut self.kernel) else { return };
        let holder = &mut self.facts.holder;
        let Some(lookup) = kernel.lookup_mut() else { return };
        let new = match serving.share(holder, lookup) {
            Ok(None) => return,
            Ok(Some(wanted)) => take(kernel, &wanted, holder),
            Err(error) => Err(error),
        };
        match new {
            Ok((new, others)) => {
                serving.begin_sharing(kernel.lookup().is_ok_and(Lookup::goes_on));
                self.tell_yields(&new, &others);
            }
            Err(error) => {
                serving.share_again();
                tracing::error!("ranges of ports are not served as they should be: {error:#}");
            }
        }
    }

    /// What a relayd before has left attached for shared sockets goes, unless there are some.
    pub fn forget_old_sharing(&self) {
        let is_shared = self.serving.as_ref().is_some_and(Serving::has_shared_sockets);
        if let Ok(kernel) = &self.kernel
            && !is_shared
        {
            kernel.forget_shared_sockets();
        }
    }

    /// Looks for programs that have begun to listen, or have ended.
    pub fn watch_others(&mut self) {
        self.facts.holder.binder().forget();
        let Ok(kernel) = &mut self.kernel else { return };
        let Some(lookup) = kernel.lookup_mut().filter(|lookup| lookup.is_attached()) else { return };
        // a list that cannot be read does not say that nobody listens
        let others = socket_list::others(&self.facts.holder).map(Iterator::collect::<Vec<_>>);
        let watched = others.map_err(anyhow::Error::from).and_then(|others| {
            let new = lookup.watch(others.iter().map(as_listening))?;
            Ok((new, others))
        });
        match watched {
            Ok((new, others)) => self.tell_yields(&new, &others),
            Err(error) => tracing::warn!("programs that begin to listen are not noticed: {error:#}"),
        }
    }

    /// Tells of those that are more than a client for a moment.
    fn tell_yields(&self, new: &[Listening], others: &[diag::Listening]) {
        let Ok(local) = sysctl::local_ports() else { return };
        let lasting = |socket: &&diag::Listening| {
            new.contains(&as_listening(socket))
                && !socket_list::is_passing(socket.protocol, socket.port, &local)
        };
        for socket in others.iter().filter(lasting).take(MOST_TOLD) {
            let Some(name) = self.rule_at(socket) else { continue };
            let (port, protocol, program) = (socket.port, socket.protocol, diag::owner(socket));
            let text = format!("rule {name} leaves port {port}/{protocol} to {program}, which listens there");
            tracing::info!(RULE = name.as_str(), "{text}");
            self.shared.tell("rule.yields", Some(name), text);
        }
    }

    /// The rule on shared sockets that has a port.
    fn rule_at(&self, socket: &diag::Listening) -> Option<&RuleName> {
        let mut rules = self.planned.iter().map(|planned| &planned.rule);
        let has_port = |rule: &Arc<Rule>| {
            let mut ports = rule.listen.iter().map(|listener| listener.ports);
            rule.heard().has(socket.protocol) && ports.any(|ports| ports.contains(socket.port))
        };
        rules.find(|rule| self.facts.holder.shares(&rule.name) && has_port(rule)).map(|rule| &rule.name)
    }
}

/// Has shared sockets take these ports, but for what other programs listen for, who come along.
fn take(
    kernel: &mut Dataplane,
    wanted: &Wanted,
    holder: &Holder,
) -> anyhow::Result<(Vec<Listening>, Vec<diag::Listening>)> {
    let others = if wanted.stretches.iter().all(|stretch| stretch.forced) {
        Vec::new()
    } else {
        socket_list::others(holder).context("the host's socket list cannot be read")?.collect()
    };
    let new = kernel.take_with_shared_sockets(wanted, others.iter().map(as_listening))?;
    Ok((new, others))
}

fn binder(lookup: &Lookup) -> Binder {
    let own = lookup.own_sockets();
    Binder::new(Arc::new(move |socket, address| own.bind(socket, address)))
}

fn as_listening(socket: &diag::Listening) -> Listening {
    (socket.protocol, socket.address, socket.port)
}
