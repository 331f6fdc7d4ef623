//! Holding the ports of rules: a bound socket for each, so that no other program takes it unnoticed, `ss` shows who has
//! it, and the user plane can listen there; a look at the socket list for wide ranges and large rule sets.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::Shutdown;

use nix::sys::stat::fstat;
use relay_common::net::Protocol;
use socket2::Socket;

use super::claim::{self, Claim};
use super::diag;
use super::socket_list::SocketList;
use crate::host::{HostView, Lacks};
use crate::rule::{Rule, RuleName};

/// Ports held by a socket; what is beyond is only looked up.
const MOST_SOCKETS: usize = 4096;
const TOO_MANY: Cow<'static, str> =
    Cow::Borrowed("the user plane listens on each port by itself, and these are too many");
/// Connections that wait to be accepted; the kernel's own limit is `net.core.somaxconn`, 4,096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// The sockets that hold ports.
#[derive(Debug, Default)]
pub struct Holder {
    held: HashMap<RuleName, BTreeMap<Claim, Taken>>,
    /// Why rules have not more of them.
    lacks: HashMap<RuleName, Lacks>,
    count: usize,
    /// Sockets that workers may have longer than we do, by inode.
    given: HashSet<u64>,
}

/// A port of ours.
#[derive(Debug)]
struct Taken {
    socket: Socket,
    /// More sockets on the same port, so that each worker has one.
    more: Vec<Socket>,
}

impl Holder {
    /// Takes the ports of a rule, and lets go of those it no longer wants. Says who else has one of them.
    pub fn take(&mut self, rule: &Rule, host: &HostView, list: &mut SocketList) -> Option<String> {
        let here = |claim: &Claim| claim.address.is_unspecified() || host.is_own(claim.address);
        let claims = rule.listen.iter().flat_map(|listener| claim::claims(rule, listener));
        let wanted: Vec<Claim> = claims.filter(here).collect();
        let mut sockets = self.held.remove(&rule.name).unwrap_or_default();
        self.count -= sockets.len();
        sockets.retain(|claim, _| wanted.contains(claim));
        let mut lacks = Lacks::default();
        let mut missing = Vec::new();
        if self.count + wanted.len() > MOST_SOCKETS || !claim::is_narrow(rule) {
            lacks = Lacks { ipv4: Some(TOO_MANY), ipv6: Some(TOO_MANY) };
        } else {
            for claim in wanted.into_iter().filter(|claim| !sockets.contains_key(claim)).collect::<Vec<_>>() {
                match claim.bind(false) {
                    Ok(socket) => _ = sockets.insert(claim, Taken { socket, more: Vec::new() }),
                    Err(_) => missing.push(claim),
                }
            }
        }
        let whole = lacks.is_nothing() && missing.is_empty();
        self.count += sockets.len();
        self.held.insert(rule.name.clone(), sockets);
        self.lacks.remove(&rule.name);
        if whole {
            return None;
        }
        // a local connection that happens to use a port is no listener, so a failed bind alone proves nothing
        let open = diag::own_sockets();
        self.given.retain(|inode| open.contains(inode));
        let conflict = list.conflict(rule, host, self);
        self.take_rest(&rule.name, missing, conflict.is_none(), &mut lacks);
        if !lacks.is_nothing() {
            self.lacks.insert(rule.name.clone(), lacks);
        }
        conflict.filter(|_| !rule.force)
    }

    /// Tries once more for ports that were not free; beside sockets of ours, if it was nobody else who had them.
    fn take_rest(&mut self, name: &RuleName, missing: Vec<Claim>, shared: bool, lacks: &mut Lacks) {
        let Some(held) = self.held.get_mut(name) else { return };
        for claim in missing {
            match claim.bind(shared) {
                Ok(socket) => {
                    held.insert(claim, Taken { socket, more: Vec::new() });
                    self.count += 1;
                }
                Err(error) => {
                    let lack = if claim.address.is_ipv4() { &mut lacks.ipv4 } else { &mut lacks.ipv6 };
                    lack.get_or_insert_with(|| {
                        format!("relayd cannot listen on {}/{}: {error}", claim.port, claim.protocol).into()
                    });
                }
            }
        }
    }

    /// Lets go of a rule's ports.
    pub fn release(&mut self, name: &RuleName) {
        self.count -= self.held.remove(name).map_or(0, |held| held.len());
        self.lacks.remove(name);
    }

    /// Whether a rule's ports are all held, so that no other program can listen there.
    pub fn holds(&self, rule: &Rule) -> bool {
        self.held.contains_key(&rule.name) && !self.lacks.contains_key(&rule.name)
    }

    /// What keeps relayd from listening for rules.
    pub const fn lacks(&self) -> &HashMap<RuleName, Lacks> {
        &self.lacks
    }

    /// Begins to listen on a port that is held: one socket for each of so many workers.
    pub fn open(&mut self, name: &RuleName, claim: &Claim, workers: usize) -> io::Result<Vec<Socket>> {
        let taken = self.held.get_mut(name).and_then(|held| held.get_mut(claim));
        let Some(taken) = taken else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
        while taken.more.len() + 1 < workers {
            taken.more.push(claim.bind(true)?);
        }
        let sockets = std::iter::once(&taken.socket).chain(&taken.more);
        sockets
            .map(|socket| {
                if claim.protocol == Protocol::Tcp {
                    socket.listen(BACKLOG)?;
                }
                self.given.insert(fstat(socket)?.st_ino);
                socket.try_clone()
            })
            .collect()
    }

    /// Stops listening, and goes on holding the port.
    pub fn shut(&mut self, name: &RuleName, claim: &Claim) {
        let taken = self.held.get_mut(name).and_then(|held| held.get_mut(claim));
        let Some(taken) = taken else { return };
        taken.more.clear();
        let _was_not_listening = match claim.protocol {
            // the socket stays bound (inet_shutdown() in net/ipv4/af_inet.c)
            Protocol::Tcp => taken.socket.shutdown(Shutdown::Read),
            Protocol::Udp => taken.socket.set_recv_buffer_size(0),
        };
    }

    /// What the kernel's socket list calls our sockets.
    pub fn inodes(&self) -> HashSet<u64> {
        let taken = self.held.values().flat_map(BTreeMap::values);
        let sockets = taken.flat_map(|taken| taken.more.iter().chain([&taken.socket]));
        let held = sockets.filter_map(|socket| Some(fstat(socket).ok()?.st_ino));
        held.chain(self.given.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Backend, Listener, Protocols};
    use std::net::TcpListener;

    fn rule(listen: String, force: bool) -> Rule {
        let name = RuleName::parse("r").expect("name");
        let listener = Listener::parse(&listen).expect("listener");
        let backend = Backend::parse("203.0.113.9").expect("backend");
        Rule { protocols: Protocols::Tcp, force, ..Rule::new(name, vec![listener], vec![backend]) }
    }

    fn take(holder: &mut Holder, rule: &Rule) -> Option<String> {
        let mut list = SocketList::default();
        holder.take(rule, &HostView::default(), &mut list)
    }

    #[test]
    fn a_port_in_use_names_the_program() {
        let other = TcpListener::bind("0.0.0.0:0").expect("bind");
        let port = other.local_addr().expect("address").port();
        let mut holder = Holder::default();
        let pid = format!("(pid {})", std::process::id());
        for listen in [format!(":{port}"), format!(":{}-{}", port - 1, port.saturating_add(1))] {
            let text = take(&mut holder, &rule(listen.clone(), false)).expect("conflict");
            assert!(text.contains(&format!("port {port}/tcp is in use by")) && text.contains(&pid), "{text}");
            assert_eq!(take(&mut holder, &rule(listen, true)), None);
        }
    }

    #[test]
    fn a_held_port_is_ours_and_nobody_elses() {
        let free = TcpListener::bind("0.0.0.0:0").expect("bind").local_addr().expect("address").port();
        let mut holder = Holder::default();
        let rule = rule(format!(":{free}"), false);
        assert_eq!(take(&mut holder, &rule), None);
        assert_eq!(take(&mut holder, &rule), None);
        assert!(holder.holds(&rule));
        assert!(TcpListener::bind(("0.0.0.0", free)).is_err());
        holder.release(&rule.name);
        assert!(TcpListener::bind(("0.0.0.0", free)).is_ok());
    }
}
