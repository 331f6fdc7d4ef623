//! The host's listening sockets: who is in the way of a rule.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use relay_common::net::Protocol;

use super::claim;
use super::diag::{self, Listening};
use super::hold::Holder;
use super::sysctl;
use crate::host::HostView;
use crate::rule::{PortRange, Rule};

const NO_PORTS: RangeInclusive<u16> = RangeInclusive::new(1, 0);

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
        let sockets = self.sockets.get_or_insert_with(|| Sockets::read(holder));
        let here = |address: &IpAddr| address.is_unspecified() || host.is_own(*address);
        let wanted = rule.listen.iter().flat_map(|listener| {
            let addresses = claim::addresses(rule, &listener.on).into_iter().filter(here);
            addresses.map(|address| (listener.ports, address))
        });
        for (ports, address) in wanted {
            for protocol in rule.protocols.iter() {
                if let Some(socket) = sockets.in_the_way(protocol, ports, address) {
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

/// Listening sockets of other programs, and of relayd where it is but a client.
pub fn others(holder: &Holder) -> impl Iterator<Item = Listening> + use<> {
    let all = diag::listening().unwrap_or_default();
    // what is ours is asked after that: none may be missing that was listed
    let own = holder.inodes();
    all.into_iter().filter(move |socket| !own.contains(&socket.inode.into()))
}

impl Sockets {
    fn read(holder: &Holder) -> Self {
        let mut by_port: BTreeMap<_, Vec<Listening>> = BTreeMap::new();
        for socket in others(holder) {
            by_port.entry((socket.protocol, socket.port)).or_default().push(socket);
        }
        Self { by_port, local: sysctl::local_ports().unwrap_or(NO_PORTS) }
    }

    /// A socket that wants what a listener on these ports and this address would take.
    fn in_the_way(&self, protocol: Protocol, ports: PortRange, address: IpAddr) -> Option<&Listening> {
        let range = (protocol, ports.first())..=(protocol, ports.last());
        let mut there = self.by_port.range(range).flat_map(|(_, sockets)| sockets);
        there.find(|socket| meets(address, socket.address) && (ports.is_single() || !self.is_passing(socket)))
    }

    /// Whether a socket is most likely a client's (of DNS, say), which nobody has chosen the port of and which will be
    /// gone soon. A range need not be refused for it: ranges yield to local sockets.
    fn is_passing(&self, socket: &Listening) -> bool {
        is_passing(socket.protocol, socket.port, &self.local)
    }
}

/// The same for a socket of which we know no more than that. `local`: ports for sockets that ask for none.
pub fn is_passing(protocol: Protocol, port: u16, local: &RangeInclusive<u16>) -> bool {
    protocol == Protocol::Udp && local.contains(&port)
}

/// Whether a socket bound to `theirs` takes packets that a listener on `ours` wants. Traffic to loopback does not reach
/// a rule for every address. An IPv6 wildcard may take IPv4 too, and the socket list does not say whether it does.
fn meets(ours: IpAddr, theirs: IpAddr) -> bool {
    if theirs.is_loopback() {
        return ours == theirs;
    }
    match (ours, theirs) {
        (IpAddr::V4(_), IpAddr::V6(theirs)) => theirs.is_unspecified(),
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
        _ => ours == theirs || ours.is_unspecified() || theirs.is_unspecified(),
    }
}
