//! Planning a watch: a port that the host's own programs have is counted, and nothing else.

use std::sync::Arc;

use super::ends::{deaf, listeners_v4, listeners_v6, missing};
use super::{Carriage, Fault, PlannedRule, UserRule, undecided};
use crate::config::Origin;
use crate::plan::Facts;
use crate::rule::{ListenOn, Rule};

pub(super) fn watch(rule: &Arc<Rule>, origin: &Origin, facts: &Facts<'_>) -> PlannedRule {
    let mut planned = PlannedRule { faults: missing(rule, facts.host), ..undecided(rule, origin, &[]) };
    if let (true, Err(why)) = (rule.enabled, facts.kernel) {
        planned.faults.push(Fault::Uncounted(why.into()));
    }
    let (heard_v4, heard_v6) = (listeners_v4(rule, facts.host), listeners_v6(rule, facts.host));
    let family = |name: &str, takes: fn(&ListenOn) -> bool, is_heard: bool| match (facts.kernel, is_heard) {
        _ if !rule.enabled => Carriage::None("the watch is disabled".into()),
        (Err(why), _) => Carriage::None(why.into()),
        (Ok(_), true) => Carriage::Watched,
        (Ok(_), false) => {
            let why = deaf(rule, facts.host, name, takes);
            Carriage::None(
                why.unwrap_or_else(|| "only the host itself talks to it, which is not counted".into()),
            )
        }
    };
    planned.ipv4 = family("IPv4", ListenOn::takes_ipv4, !heard_v4.is_empty());
    planned.ipv6 = family("IPv6", ListenOn::takes_ipv6, !heard_v6.is_empty());
    let [ipv4, ipv6] = [&planned.ipv4, &planned.ipv6].map(|carriage| *carriage == Carriage::Watched);
    if ipv4 || ipv6 {
        planned.watched = Some(Arc::new(UserRule {
            protocols: rule.protocols,
            ipv4,
            ipv6,
            ends: Box::default(),
            balance: rule.balance,
            timeouts: rule.timeouts.clone(),
            udp_nat: rule.udp_nat,
            accept: rule.accept.clone(),
            connect: rule.connect.clone(),
            acceptor: None,
            connector: None,
            heard_v4: if ipv4 { heard_v4 } else { Arc::default() },
            heard_v6: if ipv6 { heard_v6 } else { Arc::default() },
        }));
    }
    planned
}
