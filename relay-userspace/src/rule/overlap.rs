//! Finding listeners that want the same packets.

use relay_common::net::Protocol;

use super::{ListenOn, Listener, PortRange, Rule};

/// Two listeners that both want a port; indices into the slice of rules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Overlap {
    pub first: (usize, Listener),
    pub second: (usize, Listener),
    pub protocol: Protocol,
    /// The ports both want.
    pub ports: PortRange,
}

impl Overlap {
    /// The overlap in words, from the view of `own`: one of the two listeners.
    pub fn shown(&self, own: &(usize, Listener), rules: &[&Rule]) -> String {
        let other = if own == &self.first { &self.second } else { &self.first };
        let whose = match rules.get(other.0) {
            Some(rule) if other.0 != own.0 => format!("rule \"{}\" (\"{}\")", rule.name, other.1),
            _ => format!("\"{}\" of the same rule", other.1),
        };
        let noun = if self.ports.is_single() { "port" } else { "ports" };
        format!("\"{}\" overlaps {whose} in {noun} {}/{}", own.1, self.ports, self.protocol)
    }
}

/// All overlaps among enabled rules, at most one per pair of listeners. `O(n log n)` where few share a port.
pub fn find<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Vec<Overlap> {
    let mut found = Vec::new();
    let rules: Vec<&Rule> = rules.into_iter().collect();
    for protocol in Protocol::ALL {
        let mut listeners: Vec<(usize, &Listener)> = rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.enabled && rule.protocols.has(protocol))
            .flat_map(|(index, rule)| rule.listen.iter().map(move |listener| (index, listener)))
            .collect();
        listeners.sort_by_key(|(index, listener)| (listener.ports.first(), *index));
        sweep(&listeners, protocol, &mut found);
    }
    found
}

/// Overlaps of one rule with the others and with itself.
pub fn find_with(rules: &[&Rule], changed: usize) -> Vec<Overlap> {
    let Some(own) = rules.get(changed) else { return Vec::new() };
    let near = |other: &&Rule| {
        other.listen.iter().any(|theirs| own.listen.iter().any(|ours| ours.ports.overlaps(theirs.ports)))
    };
    let candidates: Vec<(usize, &Rule)> = rules
        .iter()
        .enumerate()
        .filter(|(index, other)| *index == changed || near(other))
        .map(|(index, rule)| (index, *rule))
        .collect();
    let mut found = find(candidates.iter().map(|(_, rule)| *rule));
    for overlap in &mut found {
        overlap.first.0 = candidates[overlap.first.0].0;
        overlap.second.0 = candidates[overlap.second.0].0;
    }
    found.retain(|overlap| overlap.first.0 == changed || overlap.second.0 == changed);
    found
}

/// Walks listeners by their first port, keeping those that still reach further.
fn sweep(listeners: &[(usize, &Listener)], protocol: Protocol, found: &mut Vec<Overlap>) {
    let mut open: Vec<(usize, &Listener)> = Vec::new();
    for &(index, listener) in listeners {
        open.retain(|(_, earlier)| earlier.ports.last() >= listener.ports.first());
        for &(other, earlier) in &open {
            if clash(&earlier.on, &listener.on)
                && !found.iter().any(|known| same_pair(known, (other, earlier), (index, listener)))
            {
                let last = earlier.ports.last().min(listener.ports.last());
                let Some(ports) = PortRange::new(listener.ports.first(), last) else { continue };
                let (first, second) = if other <= index {
                    ((other, earlier.clone()), (index, listener.clone()))
                } else {
                    ((index, listener.clone()), (other, earlier.clone()))
                };
                found.push(Overlap { first, second, protocol, ports });
            }
        }
        open.push((index, listener));
    }
}

/// An overlap in TCP is not told again for UDP.
fn same_pair(known: &Overlap, a: (usize, &Listener), b: (usize, &Listener)) -> bool {
    let is = |end: &(usize, Listener), other: (usize, &Listener)| end.0 == other.0 && &end.1 == other.1;
    (is(&known.first, a) && is(&known.second, b)) || (is(&known.first, b) && is(&known.second, a))
}

/// Whether some packet would match both. An address beats an interface, so those two get along.
fn clash(a: &ListenOn, b: &ListenOn) -> bool {
    match (a, b) {
        (ListenOn::Address(a), ListenOn::Address(b)) => a == b,
        (ListenOn::Interface(a), ListenOn::Interface(b)) => a == b,
        (ListenOn::Address(_), ListenOn::Interface(_)) | (ListenOn::Interface(_), ListenOn::Address(_)) => {
            false
        }
        (a, b) => (a.takes_ipv4() && b.takes_ipv4()) || (a.takes_ipv6() && b.takes_ipv6()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Backend, Protocols, RuleName};

    fn rule(listen: &[&str], protocols: Protocols) -> Rule {
        let name = RuleName::parse("r").expect("name");
        let listen = listen.iter().map(|text| Listener::parse(text).expect(text)).collect();
        Rule { protocols, ..Rule::new(name, listen, vec![Backend::parse("10.0.0.9:80").expect("backend")]) }
    }

    fn count(listens: &[&[&str]]) -> usize {
        let rules: Vec<Rule> = listens.iter().map(|listen| rule(listen, Protocols::Both)).collect();
        find(&rules).len()
    }

    #[test]
    fn same_ports_clash_once() {
        assert_eq!(count(&[&[":80"], &[":80"]]), 1);
        assert_eq!(count(&[&[":80", ":80"]]), 1);
        assert_eq!(count(&[&[":10-20"], &[":20-30"], &[":31"]]), 1);
        assert_eq!(count(&[&[":1-65535"], &[":80"], &[":443"]]), 2);
    }

    #[test]
    fn different_addresses_get_along() {
        assert_eq!(count(&[&["1.2.3.4:80"], &["1.2.3.5:80"], &["[::1]:80"], &["%eth0:80"]]), 0);
        assert_eq!(count(&[&["0.0.0.0:80"], &["[::]:80"]]), 0);
        assert_eq!(count(&[&["0.0.0.0:80"], &["1.2.3.4:80"]]), 1);
        assert_eq!(count(&[&[":80"], &["%eth0:80"]]), 1);
    }

    #[test]
    fn protocols_and_disabled_rules_get_along() {
        let tcp = rule(&[":80"], Protocols::Tcp);
        let udp = rule(&[":80"], Protocols::Udp);
        assert!(find([&tcp, &udp]).is_empty());
        let mut off = rule(&[":80"], Protocols::Both);
        off.enabled = false;
        assert!(find([&tcp, &off]).is_empty());
    }

    #[test]
    fn an_overlap_names_the_shared_ports() {
        let rules = [rule(&[":100-200"], Protocols::Tcp), rule(&["1.2.3.4:150-300"], Protocols::Tcp)];
        let found = find(&rules);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ports.first(), found[0].ports.last()), (150, 200));
        assert_eq!((found[0].first.0, found[0].second.0), (0, 1));
        let rules: Vec<&Rule> = rules.iter().collect();
        assert_eq!(
            found[0].shown(&found[0].second, &rules),
            r#""1.2.3.4:150-300" overlaps rule "r" (":100-200") in ports 150-200/tcp"#
        );
    }
}
