//! What a rule listens on, as stretches of ports. Whether another program is in its way depends on whether the rule has
//! had them before.

use std::net::IpAddr;

use relay_common::net::Protocol;

use super::claim;
use crate::rule::{ListenOn, PortRange, Rule};

/// Ports that one listener of a rule takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reach {
    pub protocol: Protocol,
    /// Unspecified: every address of the family.
    pub address: IpAddr,
    pub interface: Option<Box<str>>,
    pub ports: PortRange,
}

/// All that a rule wants to take.
pub fn wanted(rule: &Rule) -> impl Iterator<Item = Reach> + '_ {
    rule.listen.iter().flat_map(move |listener| {
        let interface = match &listener.on {
            ListenOn::Interface(name) => Some(name.clone()),
            _ => None,
        };
        let reach = move |(address, protocol)| {
            let interface = interface.clone();
            Reach { protocol, address, interface, ports: listener.ports }
        };
        let addresses = claim::addresses(rule, &listener.on).into_iter();
        addresses.flat_map(|address| rule.heard().iter().map(move |of| (address, of))).map(reach)
    })
}

impl Reach {
    /// Whether whoever comes to another one's listener on a port comes here, too.
    pub fn takes(&self, other: &Self, port: u16) -> bool {
        let every = self.address.is_unspecified() && self.address.is_ipv4() == other.address.is_ipv4();
        self.protocol == other.protocol
            && self.ports.contains(port)
            && (every || self.address == other.address)
            && (self.interface.is_none() || self.interface == other.interface)
    }

    /// The same for all of its ports.
    pub fn takes_all(&self, other: &Self) -> bool {
        self.takes(other, other.ports.first()) && self.takes(other, other.ports.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Backend, Listener, Protocols, RuleName};

    fn reach(listen: &str) -> Reach {
        let name = RuleName::parse("r").expect("name");
        let listeners = vec![Listener::parse(listen).expect(listen)];
        let rule = Rule::new(name, listeners, vec![Backend::parse("203.0.113.9").expect("backend")]);
        wanted(&Rule { protocols: Protocols::Tcp, ..rule }).next().expect("a stretch")
    }

    #[test]
    fn a_stretch_takes_what_is_inside_it() {
        for (had, wanted, all) in [
            ("0.0.0.0:2000-4000", "0.0.0.0:2000-4000", true),
            ("0.0.0.0:2000-4000", "0.0.0.0:2500-3500", true),
            ("0.0.0.0:2000-4000", "192.0.2.1:2000-4000", true),
            ("0.0.0.0:2000-4000", "%eth0:2000-4000", true),
            ("0.0.0.0:2000-4000", "0.0.0.0:2000-4001", false),
            ("0.0.0.0:2000-4000", "[::]:2000-4000", false),
            ("192.0.2.1:2000-4000", "0.0.0.0:2000-4000", false),
            ("192.0.2.1:2000-4000", "192.0.2.2:2000-4000", false),
            ("%eth0:2000-4000", "0.0.0.0:2000-4000", false),
            ("%eth0:2000-4000", "%eth1:2000-4000", false),
        ] {
            assert_eq!(reach(had).takes_all(&reach(wanted)), all, "{had} {wanted}");
        }
    }
}
