//! Holding the ports of rules: a bound socket for each, so that no other program takes it unnoticed, `ss` shows who has
//! it, and the user plane can listen there; a look at the socket list for wide ranges and large rule sets.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::Shutdown;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::fstat;
use relay_common::net::Protocol;
use socket2::Socket;

use super::claim::{self, Binder, Claim};
use super::diag;
use super::group::{self, Group};
use super::reach::{self, Reach};
use super::socket_list::SocketList;
use super::stock::Stock;
use crate::host::{HostView, Lacks};
use crate::rule::{ListenOn, Rule, RuleName};

/// Ports held by a socket; what is beyond is only looked up.
const MOST_SOCKETS: usize = 1024;
/// Sockets in the hands of workers before it is looked which of them are still there.
const MOST_GIVEN: usize = 32 * MOST_SOCKETS;
const TOO_MANY: &str = "the user plane listens on each port by itself, and these are too many";
/// Connections that wait to be accepted; the kernel's own limit is `net.core.somaxconn`, 4,096 since Linux 5.4.
pub(super) const BACKLOG: i32 = 4096;

/// The sockets that hold ports.
#[derive(Debug, Default)]
pub struct Holder {
    held: HashMap<RuleName, BTreeMap<Claim, Socket>>,
    /// Why rules have not more of them.
    lacks: HashMap<RuleName, Lacks>,
    /// Rules whose ports are too many for a socket each: shared sockets take them, if there are any.
    wide: HashSet<RuleName>,
    /// What wide rules have taken. A program that has begun to listen there since keeps its port, and the rule the others.
    had: HashMap<RuleName, Vec<Reach>>,
    /// Why there are no shared sockets.
    unshared: Option<String>,
    binder: Binder,
    count: usize,
    /// Ports that clients are still answered from, and whether they are let go of after that.
    lingering: HashMap<(RuleName, Claim), bool>,
    /// Sockets that workers have, by inode.
    given: HashSet<u64>,
    /// Sockets that outlive relayd.
    stock: RefCell<Stock>,
}

impl Holder {
    /// Holds nothing yet; ports that are in stock will be taken from there.
    pub fn new(stock: Stock) -> Self {
        Self { stock: RefCell::new(stock), ..Self::default() }
    }

    /// Whether sockets that stand for many ports can be had; or why not.
    pub fn share(&mut self, possible: Result<Binder, String>) {
        (self.binder, self.unshared) = match possible {
            Ok(binder) => (binder, None),
            Err(why) => (Binder::default(), Some(why)),
        };
    }

    pub const fn binder(&self) -> &Binder {
        &self.binder
    }

    /// Takes the ports of a rule, beside those that it has. Says who else has one of them.
    pub fn take(&mut self, rule: &Rule, host: &HostView, list: &mut SocketList) -> Option<String> {
        let mut sockets = self.held.remove(&rule.name).unwrap_or_default();
        self.count -= sockets.len();
        let mut wanted = wanted(rule, host);
        self.want_again(&rule.name, &wanted);
        wanted.retain(|claim| !sockets.contains_key(claim));
        let mut lacks = Lacks::default();
        let mut missing = Vec::new();
        let is_wide = self.count + sockets.len() + wanted.len() > most_sockets() || !claim::is_narrow(rule);
        let mut is_contested = is_wide;
        if is_wide {
            self.wide.insert(rule.name.clone());
            let lack = self.cannot_share(rule).map(Cow::Owned);
            lacks = Lacks { ipv4: lack.clone(), ipv6: lack };
        } else {
            self.wide.remove(&rule.name);
            for claim in wanted {
                let inherited = self.stock.get_mut().take(&claim);
                match inherited.map_or_else(|| claim.bind(false, &self.binder), Ok) {
                    Ok(socket) => _ = sockets.insert(claim, socket),
                    Err(error) => {
                        is_contested |= error.kind() == io::ErrorKind::AddrInUse;
                        missing.push(claim);
                    }
                }
            }
        }
        let whole = !is_wide && missing.is_empty();
        self.count += sockets.len();
        self.held.insert(rule.name.clone(), sockets);
        self.lacks.remove(&rule.name);
        if whole {
            return None;
        }
        // a local connection that happens to use a port is no listener, so a failed bind alone proves nothing
        self.forget_closed();
        let conflict = if is_contested { self.conflict(rule, host, list) } else { None };
        self.take_rest(&rule.name, missing, conflict.is_none(), &mut lacks);
        self.let_go_of_parts(&rule.name, &lacks);
        if !lacks.is_nothing() {
            self.lacks.insert(rule.name.clone(), lacks);
        }
        let conflict = conflict.filter(|_| !rule.force);
        if is_wide && conflict.is_none() {
            self.note_had(&rule.name, reach::wanted(rule));
        }
        conflict
    }

    /// Says who is in the way of a rule, as far as it has not had its ports before.
    pub fn conflict(&self, rule: &Rule, host: &HostView, list: &mut SocketList) -> Option<String> {
        let is_wide = self.wide.contains(&rule.name) || !claim::is_narrow(rule);
        let had = self.had.get(&rule.name).filter(|_| is_wide);
        list.conflict(rule, host, self, had.map_or(&[], Vec::as_slice))
    }

    /// A rule has, or had when relayd ran before, these ports.
    pub fn note_had(&mut self, name: &RuleName, reaches: impl Iterator<Item = Reach>) {
        let had = self.had.entry(name.clone()).or_default();
        for reach in reaches {
            if !had.contains(&reach) {
                had.push(reach);
            }
        }
    }

    /// Why a rule's ports cannot come to shared sockets.
    fn cannot_share(&self, rule: &Rule) -> Option<String> {
        if rule.listen.iter().any(|listener| matches!(listener.on, ListenOn::Interface(_))) {
            return Some(format!("{TOO_MANY} on an interface"));
        }
        if rule.accept.mptcp {
            return Some(format!("{TOO_MANY} for Multipath TCP (accept.mptcp)"));
        }
        let why = self.unshared.as_ref()?;
        Some(format!("{TOO_MANY} (one socket for all of them needs the kernel plane: {why})"))
    }

    /// Tries once more for ports that were not free; beside sockets of ours, if it was nobody else who had them.
    fn take_rest(&mut self, name: &RuleName, missing: Vec<Claim>, shared: bool, lacks: &mut Lacks) {
        let Some(held) = self.held.get_mut(name) else { return };
        for claim in missing {
            match claim.bind(shared, &self.binder) {
                Ok(socket) => {
                    held.insert(claim, socket);
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

    /// A rule that yields to local sockets must not yield to some of our own: a family is held whole, or not at all.
    fn let_go_of_parts(&mut self, name: &RuleName, lacks: &Lacks) {
        let lack = |claim: &Claim| if claim.address.is_ipv4() { &lacks.ipv4 } else { &lacks.ipv6 };
        self.let_go(name, |claim| lack(claim).is_some());
    }

    /// Lets go of what a rule no longer wants.
    pub fn settle(&mut self, rule: &Rule, host: &HostView) {
        let is_wide = self.wide.contains(&rule.name);
        if is_wide {
            self.settle_had(rule);
        } else {
            self.had.remove(&rule.name);
        }
        let wanted = if is_wide { Vec::new() } else { wanted(rule, host) };
        self.let_go(&rule.name, |claim| !wanted.contains(claim));
    }

    /// Forgets what a rule had and wants no more; but one that cannot have what it wants may become again what it was.
    fn settle_had(&mut self, rule: &Rule) {
        let Some(had) = self.had.get_mut(&rule.name) else { return };
        let wanted: Vec<Reach> = reach::wanted(rule).collect();
        if wanted.iter().all(|wanted| had.contains(wanted)) {
            had.retain(|had| wanted.contains(had));
        }
    }

    /// Lets go of a rule's ports.
    pub fn release(&mut self, name: &RuleName) {
        self.let_go(name, |_| true);
        self.lacks.remove(name);
        self.wide.remove(name);
        self.had.remove(name);
    }

    fn let_go(&mut self, name: &RuleName, goes: impl Fn(&Claim) -> bool) {
        let Some(held) = self.held.get(name) else { return };
        for claim in held.keys().filter(|claim| goes(claim)).cloned().collect::<Vec<_>>() {
            match self.lingering.get_mut(&(name.clone(), claim.clone())) {
                Some(goes_later) => *goes_later = true,
                None => self.drop_held(name, &claim),
            }
        }
        if self.held.get(name).is_some_and(BTreeMap::is_empty) {
            self.held.remove(name);
        }
    }

    fn drop_held(&mut self, name: &RuleName, claim: &Claim) {
        self.forget(name, claim);
        if self.held.get_mut(name).is_some_and(|held| held.remove(claim).is_some()) {
            self.count -= 1;
        }
    }

    /// Clients are still answered from a port: whoever lets go of it does so when it is shut.
    pub fn linger(&mut self, name: &RuleName, claim: &Claim) {
        self.lingering.entry((name.clone(), claim.clone())).or_insert(false);
    }

    /// What lingered is served again.
    pub fn stay(&mut self, name: &RuleName, claim: &Claim) {
        self.lingering.remove(&(name.clone(), claim.clone()));
    }

    fn want_again(&mut self, name: &RuleName, wanted: &[Claim]) {
        for ((_, claim), goes) in self.lingering.iter_mut().filter(|((own, _), _)| own == name) {
            *goes &= !wanted.contains(claim);
        }
    }

    /// A port is not listened on any more, by this rule.
    fn forget(&self, name: &RuleName, claim: &Claim) {
        if !self.is_shared(name, claim) {
            self.stock.borrow_mut().forget(claim);
        }
    }

    /// Everything that wants its ports has them: what the relayd before has left and nobody listens on is closed.
    pub fn close_leftovers(&mut self) {
        for claim in self.stock.get_mut().settle() {
            let holders = self.held.iter().filter(|(_, held)| held.contains_key(&claim));
            let names: Vec<RuleName> = holders.map(|(name, _)| name.clone()).collect();
            names.iter().for_each(|name| self.shut(name, &claim));
        }
    }

    /// Whether who waits on a port is the next relayd's client.
    pub fn is_stored(&self, claim: &Claim) -> bool {
        self.stock.borrow().has(claim)
    }

    /// Whether a rule's ports on IPv4 are all held, so that no other program can listen there.
    pub fn holds(&self, rule: &Rule) -> bool {
        let lacks = self.lacks.get(&rule.name);
        let is_held = self.held.contains_key(&rule.name) && !self.wide.contains(&rule.name);
        is_held && lacks.is_none_or(|lacks| lacks.ipv4.is_none())
    }

    /// Whether a rule's ports come to the shared sockets.
    pub fn shares(&self, name: &RuleName) -> bool {
        self.wide.contains(name) && !self.lacks.contains_key(name)
    }

    /// Whether a rule lacks ports for a reason that may pass.
    pub fn may_have_more(&self, name: &RuleName) -> bool {
        self.lacks.contains_key(name) && !self.wide.contains(name)
    }

    /// What keeps relayd from listening for rules.
    pub const fn lacks(&self) -> &HashMap<RuleName, Lacks> {
        &self.lacks
    }

    /// The ports that are held for a rule, one by one.
    pub fn claims(&self, name: &RuleName) -> impl Iterator<Item = &Claim> {
        let held = self.held.get(name).filter(|_| !self.wide.contains(name));
        held.into_iter().flat_map(BTreeMap::keys)
    }

    /// What the kernel calls the socket that holds a port.
    pub fn inode(&self, name: &RuleName, claim: &Claim) -> Option<u64> {
        Some(fstat(self.held.get(name)?.get(claim)?).ok()?.st_ino)
    }

    /// Whether a port is held once more, which it then goes over to: by another rule, or by the other kind of socket.
    pub fn is_passed_on(&self, name: &RuleName, claim: &Claim) -> bool {
        let other_kind = claim.of_other_kind();
        let changes = self.held.get(name).is_some_and(|held| held.contains_key(&other_kind));
        changes || self.is_shared(name, claim) || self.is_shared(name, &other_kind)
    }

    /// Whether another rule holds a port by the same kind of socket.
    fn is_shared(&self, name: &RuleName, claim: &Claim) -> bool {
        self.held.iter().any(|(other, held)| other != name && held.contains_key(claim))
    }

    /// Begins to listen on a port that is held: one socket for each of so many workers. `None`: it is not held.
    pub fn open(
        &mut self,
        name: &RuleName,
        claim: &Claim,
        workers: usize,
    ) -> Option<io::Result<Vec<Socket>>> {
        let socket = self.held.get(name)?.get(claim)?;
        let rest = self.stock.get_mut().take_rest(claim);
        let sockets = listening(socket, rest, claim, workers, &self.binder);
        match &sockets {
            Ok(sockets) => {
                self.stock.get_mut().keep(claim, sockets);
                self.given.extend(sockets.iter().filter_map(|socket| Some(fstat(socket).ok()?.st_ino)))
            }
            Err(_) => self.shut(name, claim),
        }
        Some(sockets)
    }

    /// Opens sockets that stand for many ports, so many of each kind.
    pub fn open_shared(&mut self, workers: usize) -> io::Result<Vec<Group>> {
        let stock = self.stock.get_mut();
        let groups = group::open(workers, |protocol, family| stock.take_shared(protocol, family))?;
        let sockets = groups.iter().flat_map(|group| &group.sockets);
        self.given.extend(sockets.filter_map(|socket| Some(fstat(socket).ok()?.st_ino)));
        Ok(groups)
    }

    /// Has shared sockets outlive relayd, where that can be had. Returns whether they do.
    pub fn keep_shared(&mut self, groups: &[Group]) -> bool {
        self.stock.get_mut().keep_shared(groups)
    }

    /// Nothing comes to shared sockets any more.
    pub fn forget_shared(&mut self) {
        self.stock.get_mut().forget_shared();
    }

    /// Stops listening, and goes on holding the port, unless it was to be let go of after that.
    pub fn shut(&mut self, name: &RuleName, claim: &Claim) {
        if self.lingering.remove(&(name.clone(), claim.clone())) == Some(true) {
            return self.let_go(name, |held| held == claim);
        }
        self.forget(name, claim);
        if claim.mptcp {
            return self.bind_anew(name, claim);
        }
        let Some(socket) = self.held.get(name).and_then(|held| held.get(claim)) else { return };
        let _was_not_listening = match claim.protocol {
            // the socket stays bound (inet_shutdown() in net/ipv4/af_inet.c)
            Protocol::Tcp => socket.shutdown(Shutdown::Read),
            Protocol::Udp => socket.set_recv_buffer_size(0),
        };
        if !self.is_passed_on(name, claim) {
            let _idle_again = socket.set_reuse_port(false).and_then(|()| socket.set_reuse_address(false));
        }
    }

    /// A listening socket of Multipath TCP cannot be shut down: another one takes its place. Without one the port is tried
    /// for again with the next mend.
    fn bind_anew(&mut self, name: &RuleName, claim: &Claim) {
        let Some(held) = self.held.get_mut(name) else { return };
        if held.remove(claim).is_none() {
            return;
        }
        match claim.bind(true, &self.binder) {
            Ok(socket) => _ = held.insert(claim.clone(), socket),
            Err(_) => self.count -= 1,
        }
    }

    /// What workers have closed is no longer ours. Looked at now and then: numbers of sockets do not come back soon.
    fn forget_closed(&mut self) {
        if self.given.len() > MOST_GIVEN
            && let Ok(open) = diag::own_sockets()
        {
            self.given.retain(|inode| open.contains(inode));
        }
    }

    /// What the kernel's socket list calls our sockets.
    pub fn inodes(&self) -> HashSet<u64> {
        let held = self.held.values().flat_map(BTreeMap::values);
        let held = held.filter_map(|socket| Some(fstat(socket).ok()?.st_ino));
        let stock = self.stock.borrow();
        held.chain(self.given.iter().copied())
            .chain(stock.inodes())
            .chain(self.binder.bound_lately())
            .collect()
    }
}

fn wanted(rule: &Rule, host: &HostView) -> Vec<Claim> {
    rule.listen.iter().flat_map(|listener| claim::claims(rule, listener, host)).collect()
}

/// A held port costs up to five descriptors once it is listened on; sessions want some, too.
fn most_sockets() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(now, _)| now);
    MOST_SOCKETS.min(usize::try_from(limit / 8).unwrap_or(MOST_SOCKETS))
}

/// The socket that holds a port, and more on the same port, all listening: at least those that have been.
fn listening(
    socket: &Socket,
    inherited: Vec<Socket>,
    claim: &Claim,
    workers: usize,
    binder: &Binder,
) -> io::Result<Vec<Socket>> {
    if claim.protocol == Protocol::Tcp {
        // what is left of sessions must not keep the next relayd from the port
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    let mut sockets = vec![socket.try_clone()?];
    sockets.extend(inherited);
    while sockets.len() < workers {
        sockets.push(claim.bind(true, binder)?);
    }
    if claim.protocol == Protocol::Tcp {
        sockets.iter().try_for_each(|socket| socket.listen(BACKLOG))?;
    }
    Ok(sockets)
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
