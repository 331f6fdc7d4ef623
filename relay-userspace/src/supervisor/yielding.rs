//! Shared sockets and the programs of the host: what these listen for is theirs.

use std::sync::Arc;

use super::state::State;
use crate::kernel::lookup::{Listening, Lookup};
use crate::net::claim::Binder;
use crate::net::{diag, socket_list, sysctl};
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

    /// Brings the shared sockets to what the plan says.
    pub fn share(&mut self) {
        let (Some(serving), Ok(kernel)) = (&mut self.serving, &mut self.kernel) else { return };
        let holder = &mut self.facts.holder;
        let Some(lookup) = kernel.lookup_mut() else { return };
        let new = match serving.share(holder, lookup) {
            Ok(None) => return,
            Ok(Some(stretches)) => {
                let others: Vec<_> = socket_list::others(holder).collect();
                let new = kernel.take_with_shared_sockets(&stretches, others.iter().map(as_listening));
                new.map(|new| (new, others)).map_err(anyhow::Error::from)
            }
            Err(error) => Err(error),
        };
        match new {
            Ok((new, others)) => self.tell_yields(&new, &others),
            Err(error) => {
                serving.share_again();
                tracing::error!("ranges of ports are not served as they should be: {error:#}");
            }
        }
    }

    /// Looks for programs that have begun to listen, or have ended.
    pub fn watch_others(&mut self) {
        self.facts.holder.binder().forget();
        let Ok(kernel) = &mut self.kernel else { return };
        let Some(lookup) = kernel.lookup_mut().filter(|lookup| lookup.is_attached()) else { return };
        let others: Vec<_> = socket_list::others(&self.facts.holder).collect();
        match lookup.watch(others.iter().map(as_listening)) {
            Ok(new) => self.tell_yields(&new, &others),
            Err(error) => tracing::warn!("programs that begin to listen are not noticed: {error}"),
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
            rule.protocols.has(socket.protocol) && ports.any(|ports| ports.contains(socket.port))
        };
        rules.find(|rule| self.facts.holder.shares(&rule.name) && has_port(rule)).map(|rule| &rule.name)
    }
}

fn binder(lookup: &Lookup) -> Binder {
    let own = lookup.own_sockets();
    Binder::new(Arc::new(move |socket, address| own.bind(socket, address)))
}

fn as_listening(socket: &diag::Listening) -> Listening {
    (socket.protocol, socket.address, socket.port)
}
