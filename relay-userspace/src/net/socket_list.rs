//! The host's listening sockets: who is in the way of a rule.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use relay_common::net::Protocol;

use super::diag::{self, Listening};
use super::hold::Holder;
use super::reach::{self, Reach};
use super::sysctl;
use crate::host::HostView;
use crate::rule::Rule;

const NO_PORTS: RangeInclusive<u16> = RangeInclusive::new(1, 0);

/// The host's listening sockets, read when first asked for; our own left out.
#[derive(Debug, Default)]
pub struct SocketList {
    sockets: Option<Result<Sockets, String>>,
}

#[derive(Debug)]
struct Sockets {
    by_port: BTreeMap<(Protocol, u16), Vec<Listening>>,
    /// Ports that the kernel gives to sockets that ask for none in particular.
    local: RangeInclusive<u16>,
}

impl SocketList {
    /// Names a program that listens where the rule wants to and has not been before.
    pub fn conflict(
        &mut self,
        rule: &Rule,
        host: &HostView,
        holder: &Holder,
        had: &[Reach],
    ) -> Option<String> {
        let sockets = self.sockets.get_or_insert_with(|| Sockets::read(holder));
        let here = |address: &IpAddr| address.is_unspecified() || host.is_own(*address);
        let mut wanted = reach::wanted(rule).filter(|wanted| here(&wanted.address));
        match sockets {
            Ok(sockets) => wanted.find_map(|wanted| sockets.in_the_way(&wanted, had)).map(in_use),
            Err(why) => {
                let new = wanted.find(|wanted| !had.iter().any(|had| had.takes_all(wanted)))?;
                let (ports, protocol) = (new.ports, new.protocol);
                Some(format!(
                    "who listens on {ports}/{protocol} cannot be told: the host's socket list cannot be read ({why}); \
                     load the kernel's modules tcp_diag and udp_diag, raise LimitNOFILE, or set force = true"
                ))
            }
        }
    }
}

fn in_use(socket: &Listening) -> String {
    let (port, protocol, owner) = (socket.port, socket.protocol, diag::owner(socket));
    format!("port {port}/{protocol} is in use by {owner}; stop it, choose another port, or set force = true")
}

/// Listening sockets of other programs, and of relayd where it is but a client.
pub fn others(holder: &Holder) -> io::Result<impl Iterator<Item = Listening> + use<>> {
    let all = diag::listening()?;
    // what is ours is asked after that: none may be missing that was listed
    let own = holder.inodes();
    Ok(all.into_iter().filter(move |socket| !own.contains(&socket.inode.into())))
}

impl Sockets {
    fn read(holder: &Holder) -> Result<Self, String> {
        let mut by_port: BTreeMap<_, Vec<Listening>> = BTreeMap::new();
        for socket in others(holder).map_err(|error| error.to_string())? {
            by_port.entry((socket.protocol, socket.port)).or_default().push(socket);
        }
        Ok(Self { by_port, local: sysctl::local_ports().unwrap_or(NO_PORTS) })
    }

    /// A socket that wants what a listener would take. One that has come to what the rule had already is yielded to.
    fn in_the_way(&self, wanted: &Reach, had: &[Reach]) -> Option<&Listening> {
        let Reach { protocol, address, ports, .. } = *wanted;
        let range = (protocol, ports.first())..=(protocol, ports.last());
        let mut there = self.by_port.range(range).flat_map(|(_, sockets)| sockets);
        there.find(|socket| {
            meets(address, socket.address)
                && (ports.is_single() || !self.is_passing(socket))
                && !had.iter().any(|had| had.takes(wanted, socket.port))
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Backend, Listener, Protocols, RuleName};

    fn rule(listen: &str) -> Rule {
        let name = RuleName::parse("r").expect("name");
        let listeners = vec![Listener::parse(listen).expect(listen)];
        let rule = Rule::new(name, listeners, vec![Backend::parse("203.0.113.9").expect("backend")]);
        Rule { protocols: Protocols::Tcp, ..rule }
    }

    #[test]
    fn a_list_that_cannot_be_read_says_nothing() {
        let mut list = SocketList { sockets: Some(Err("Too many open files".into())) };
        let (host, mut holder) = (HostView::default(), Holder::default());
        let mut take = |rule: &Rule| holder.take(rule, &host, &mut list);
        let refused = take(&rule(":20000-29999")).expect("nobody knows");
        assert!(refused.contains("20000-29999/tcp") && refused.contains("Too many open files"), "{refused}");
        assert_eq!(take(&Rule { force: true, ..rule(":20000-29999") }), None, "whoever listens");
        assert_eq!(take(&rule(":20000-29999")), None, "it has had them");
        assert!(take(&rule(":20000-30000")).is_some(), "and not this one");
    }
}
