//! Saying how new flows are spread over several backends.

use std::collections::BTreeMap;
use std::time::Instant;

use relay_common::balance::FEW;

use super::health::basis;
use super::listed;
use crate::api::view::RuleView;
use crate::health::weigh::weigh;
use crate::plan::PlannedRule;
use crate::rule::{Backend, Balance, Rule};

/// How they are meant to be spread; and how they are at present, where that is different.
pub fn spread(planned: &PlannedRule, view: &RuleView) -> Vec<String> {
    let rule = &*planned.rule;
    let only = match &rule.to[..] {
        [only] => Some(only),
        _ => None,
    };
    if only.is_some_and(|only| only.weight > 0) {
        return Vec::new();
    }
    let mut lines = vec![meant(rule)];
    let drained: Vec<String> = rule.to.iter().filter(|to| to.weight == 0).map(ToString::to_string).collect();
    if !drained.is_empty() {
        lines.push(format!("no new flows, since their weight is 0: {}", listed(&drained)));
    }
    let as_meant = weigh(rule, None, &|_| true, Instant::now()).weights;
    for protocol in rule.protocols.iter() {
        let why = basis(planned, view, protocol);
        if why.is_some() || planned.weights.of(protocol) != as_meant.of(protocol) {
            let now: Vec<String> = rule
                .to
                .iter()
                .zip(planned.weights.of(protocol))
                .filter(|(_, weight)| **weight > 0)
                .map(|(to, _)| to.to_string())
                .collect();
            let now = if now.is_empty() { "nobody".to_owned() } else { listed(&now) };
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            lines.push(format!("at present new flows of {protocol} go to {now}{why}"));
        }
    }
    lines
}

fn meant(rule: &Rule) -> String {
    let mut tiers: BTreeMap<u16, Vec<&Backend>> = BTreeMap::new();
    for to in rule.to.iter().filter(|to| to.weight > 0) {
        tiers.entry(to.priority).or_default().push(to);
    }
    if tiers.is_empty() {
        return "new flows: none".into();
    }
    if rule.balance == Balance::First {
        let order: Vec<String> = tiers.into_values().flatten().map(ToString::to_string).collect();
        return match &order[..] {
            [only] => format!("new flows: {only}"),
            order => format!("new flows: the first that is up of {}", listed(order)),
        };
    }
    let mut text = String::from("new flows: ");
    for (index, tier) in tiers.values().enumerate() {
        if index > 0 {
            text += "; ";
        }
        text += &among(rule.balance, tier);
        if index > 0 {
            text += " only while all of those are down";
        }
    }
    text
}

/// Who gets them of one tier.
fn among(balance: Balance, tier: &[&Backend]) -> String {
    if let [only] = tier {
        return only.to_string();
    }
    let are_equal = tier.windows(2).all(|pair| pair[0].weight == pair[1].weight);
    let shown = |to: &&Backend| match are_equal {
        true => to.to_string(),
        false => format!("{to} (weight {})", to.weight),
    };
    let all = listed(&tier.iter().map(shown).collect::<Vec<_>>());
    let least = if are_equal { "the fewest flows" } else { "the fewest flows for its weight" };
    match balance {
        Balance::RoundRobin => format!("round robin over {all}"),
        Balance::IpHash => format!("each client address to the same one of {all}"),
        Balance::LeastConn if tier.len() <= FEW as usize => format!("the one with {least} of {all}"),
        Balance::LeastConn => {
            format!("of two, one in turn and one by chance, the one with {least}; they are {all}")
        }
        Balance::First => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Listener, RuleName};

    fn said(balance: Balance, to: &[(&str, u16, u16)]) -> String {
        let backend = |&(text, weight, priority): &(&str, u16, u16)| Backend {
            weight,
            priority,
            ..Backend::parse(text).expect(text)
        };
        let listen = vec![Listener::parse(":80").expect("listener")];
        let rule = Rule::new(RuleName::parse("r").expect("name"), listen, to.iter().map(backend).collect());
        meant(&Rule { balance, ..rule })
    }

    #[test]
    fn each_method_is_a_sentence() {
        let same = [("a", 1, 0), ("b", 1, 0)];
        let weighed = [("a", 4, 0), ("b", 1, 0), ("c", 0, 0)];
        assert_eq!(said(Balance::RoundRobin, &same), "new flows: round robin over a, b");
        assert_eq!(
            said(Balance::RoundRobin, &weighed),
            "new flows: round robin over a (weight 4), b (weight 1)"
        );
        assert_eq!(said(Balance::IpHash, &same), "new flows: each client address to the same one of a, b");
        assert_eq!(
            said(Balance::LeastConn, &weighed),
            "new flows: the one with the fewest flows for its weight of a (weight 4), b (weight 1)"
        );
        assert_eq!(said(Balance::First, &weighed), "new flows: the first that is up of a, b");
        assert_eq!(said(Balance::First, &[("a", 0, 0)]), "new flows: none");
    }

    #[test]
    fn tiers_come_one_after_the_other() {
        let tiers = [("c", 1, 9), ("a", 1, 0), ("b", 1, 0), ("d", 1, 2)];
        assert_eq!(
            said(Balance::RoundRobin, &tiers),
            "new flows: round robin over a, b; d only while all of those are down; c only while all of those are down"
        );
        assert_eq!(said(Balance::First, &tiers), "new flows: the first that is up of a, b, d, c");
    }
}
