//! Holding the ports of rules: a bound socket for each single port, so that no other program takes it unnoticed and
//! `ss` shows who has it; a look at the socket list for ranges and large rule sets.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use nix::sys::stat::fstat;
use relay_common::net::Protocol;
use socket2::{Domain, Socket, Type};

use super::diag::{self, Listening};
use super::sysctl;
use crate::host::HostView;
use crate::rule::{ListenOn, Listener, PortRange, Rule, RuleName};

/// Ports held by a socket; what is beyond is only looked up.
const MOST_SOCKETS: usize = 1024;
const NO_PORTS: RangeInclusive<u16> = RangeInclusive::new(1, 0);

/// A port that a rule wants for itself.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Claim {
    protocol: Protocol,
    address: Ipv4Addr,
    /// For `%eth0:80`.
    interface: Option<Box<str>>,
    port: u16,
}

/// The sockets that hold ports.
#[derive(Debug, Default)]
pub struct Holder {
    held: HashMap<RuleName, Held>,
    count: usize,
}

#[derive(Debug, Default)]
struct Held {
    sockets: BTreeMap<Claim, Socket>,
    /// No port of the rule is missing.
    whole: bool,
}

impl Holder {
    /// Takes the ports of a rule, and lets go of those it no longer wants. Says who else has one of them.
    pub fn take(&mut self, rule: &Rule, host: &HostView, list: &mut SocketList) -> Option<String> {
        let wanted: BTreeSet<Claim> = claims(rule).into_iter().collect();
        let mut held = self.held.remove(&rule.name).unwrap_or_default().sockets;
        self.count -= held.len();
        held.retain(|claim, _| wanted.contains(claim));
        let claims = wanted.len();
        if self.count + wanted.len() <= MOST_SOCKETS {
            for claim in wanted {
                if held.contains_key(&claim) {
                    continue;
                }
                // in use, not our address (yet), no right to low ports: the socket list tells which
                if let Ok(socket) = bound(&claim) {
                    held.insert(claim, socket);
                }
            }
        }
        let single = rule.listen.iter().all(|listener| listener.ports.is_single());
        let counted = self.count + held.len() <= MOST_SOCKETS;
        self.count += held.len();
        let whole = single && held.len() == claims;
        self.held.insert(rule.name.clone(), Held { sockets: held, whole });
        // a local connection that happens to use a port is no listener, so a failed bind alone proves nothing
        if rule.force || (whole && counted) {
            return None;
        }
        list.conflict(rule, host, self)
    }

    /// Lets go of a rule's ports.
    pub fn release(&mut self, name: &RuleName) {
        if let Some(held) = self.held.remove(name) {
            self.count -= held.sockets.len();
        }
    }

    /// Whether a rule's ports are all held, so that no other program can listen there.
    pub fn holds(&self, rule: &Rule) -> bool {
        self.held.get(&rule.name).is_some_and(|held| held.whole)
    }

    /// What the kernel's socket list calls our sockets.
    fn inodes(&self) -> HashSet<u64> {
        let sockets = self.held.values().flat_map(|held| held.sockets.values());
        sockets.filter_map(|socket| Some(fstat(socket).ok()?.st_ino)).collect()
    }
}

/// The single ports of a rule on IPv4.
fn claims(rule: &Rule) -> Vec<Claim> {
    let mut claims = Vec::new();
    for Listener { on, ports } in rule.listen.iter().filter(|listener| listener.ports.is_single()) {
        let (address, interface) = match on {
            ListenOn::Everywhere | ListenOn::EverywhereV4 => (Ipv4Addr::UNSPECIFIED, None),
            ListenOn::Address(IpAddr::V4(address)) => (*address, None),
            ListenOn::Interface(name) => (Ipv4Addr::UNSPECIFIED, Some(name.clone())),
            ListenOn::EverywhereV6 | ListenOn::Address(IpAddr::V6(_)) => continue,
        };
        for protocol in rule.protocols.iter() {
            claims.push(Claim { protocol, address, interface: interface.clone(), port: ports.first() });
        }
    }
    claims
}

/// A bound socket that does not listen: TCP answers with a RST, and UDP keeps next to nothing.
fn bound(claim: &Claim) -> io::Result<Socket> {
    let kind = match claim.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    if let Some(interface) = &claim.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.set_recv_buffer_size(0)?;
    socket.bind(&SocketAddr::from((claim.address, claim.port)).into())?;
    Ok(socket)
}

/// The host's listening sockets, read when first asked for; our own left out.
#[derive(Debug, Default)]
pub struct SocketList {
    sockets: Option<Sockets>,
}

#[derive(Debug)]
struct Sockets {
    by_port: BTreeMap<(Protocol, u16), Vec<Listening>>,
    /// Ports that the kernel gives to sockets that ask for none in particular.
    local: RangeInclusive<u16>,
}

impl SocketList {
    /// Names a program that listens where the rule wants to.
    pub fn conflict(&mut self, rule: &Rule, host: &HostView, holder: &Holder) -> Option<String> {
        let sockets = self.sockets.get_or_insert_with(|| Sockets::read(&holder.inodes()));
        for Listener { on, ports } in &rule.listen {
            let address = match on {
                ListenOn::Everywhere | ListenOn::EverywhereV4 | ListenOn::Interface(_) => {
                    Ipv4Addr::UNSPECIFIED
                }
                ListenOn::Address(IpAddr::V4(address)) if host.is_own((*address).into()) => *address,
                ListenOn::EverywhereV6 | ListenOn::Address(_) => continue,
            };
            for protocol in rule.protocols.iter() {
                if let Some(socket) = sockets.in_the_way(protocol, *ports, address) {
                    return Some(format!(
                        "port {}/{protocol} is in use by {}; stop it, choose another port, or set force = true",
                        socket.port,
                        diag::owner(socket)
                    ));
                }
            }
        }
        None
    }
}

impl Sockets {
    fn read(own: &HashSet<u64>) -> Self {
        let mut by_port: BTreeMap<_, Vec<Listening>> = BTreeMap::new();
        let others = diag::listening().unwrap_or_default();
        for socket in others.into_iter().filter(|socket| !own.contains(&socket.inode.into())) {
            by_port.entry((socket.protocol, socket.port)).or_default().push(socket);
        }
        Self { by_port, local: sysctl::local_ports().unwrap_or(NO_PORTS) }
    }

    /// A socket that wants what a listener on these ports and this address would take.
    fn in_the_way(&self, protocol: Protocol, ports: PortRange, address: Ipv4Addr) -> Option<&Listening> {
        let range = (protocol, ports.first())..=(protocol, ports.last());
        let mut there = self.by_port.range(range).flat_map(|(_, sockets)| sockets);
        there.find(|socket| meets(address, socket.address) && (ports.is_single() || !self.is_passing(socket)))
    }

    /// Whether a socket is most likely a client's (of DNS, say), which nobody has chosen the port of and which will be
    /// gone soon. A range need not be refused for it: ranges yield to local sockets.
    fn is_passing(&self, socket: &Listening) -> bool {
        socket.protocol == Protocol::Udp && self.local.contains(&socket.port)
    }
}

/// Whether a socket bound to `theirs` takes packets that a listener on `ours` wants. Traffic to loopback never reaches
/// a rule. An IPv6 wildcard may take IPv4 too, and the socket list does not say whether it does.
fn meets(ours: Ipv4Addr, theirs: IpAddr) -> bool {
    match theirs {
        IpAddr::V4(theirs) if theirs.is_loopback() => false,
        IpAddr::V4(theirs) => ours == theirs || ours.is_unspecified() || theirs.is_unspecified(),
        IpAddr::V6(theirs) => theirs.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Backend, PlaneChoice, Protocols, Timeouts};
    use std::net::TcpListener;

    fn rule(listen: String, force: bool) -> Rule {
        Rule {
            name: RuleName::parse("r").expect("name"),
            note: None,
            enabled: true,
            listen: vec![Listener::parse(&listen).expect("listener")],
            protocols: Protocols::Tcp,
            to: vec![Backend::parse("203.0.113.9").expect("backend")],
            plane: PlaneChoice::Auto,
            force,
            timeouts: Timeouts::default(),
        }
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
