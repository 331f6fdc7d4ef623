//! Ports that are counted by themselves: `count_ports`.

use relay_common::counters::COUNTED_PORTS;

use super::Rule;

/// What helps where there are too many.
pub const TOO_MANY: &str = "leave `count_ports` out of a rule with many ports";

/// The first rule, by its index, with which all rules together count more ports than there are counters for, and what is said of it.
pub fn too_many<'a>(rules: impl Iterator<Item = &'a Rule>) -> Option<(usize, String)> {
    let mut all = 0_u64;
    for (index, rule) in rules.enumerate().filter(|(_, rule)| rule.count_ports) {
        all += ports(rule);
        if all > u64::from(COUNTED_PORTS) {
            let text = format!(
                "rules with `count_ports` have {all} ports so far, and there are counters for {COUNTED_PORTS}"
            );
            return Some((index, text));
        }
    }
    None
}

/// Ports that a rule listens on, each once.
fn ports(rule: &Rule) -> u64 {
    let mut ranges: Vec<_> = rule.listen.iter().map(|listener| listener.ports).collect();
    ranges.sort_unstable_by_key(|range| range.first());
    let (mut count, mut next) = (0, 0);
    for range in ranges {
        let (first, behind) = (u64::from(range.first()).max(next), u64::from(range.last()) + 1);
        count += behind.saturating_sub(first);
        next = next.max(behind);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Listener, RuleName};

    #[test]
    fn as_many_ports_as_there_are_counters_for() {
        let listener = |text: &str| Listener::parse(text).expect(text);
        let rule = |name: &str, listen: &str, count_ports| Rule {
            count_ports,
            ..Rule::new(
                RuleName::parse(name).expect(name),
                vec![listener(listen), listener(listen)],
                Vec::new(),
            )
        };
        let mut rules =
            vec![rule("a", ":1-65535", true), rule("b", ":1-65535", false), rule("c", ":80", true)];
        assert_eq!(too_many(rules.iter()), None);
        rules.push(rule("d", ":81", true));
        let (index, text) = too_many(rules.iter()).expect("one too many");
        assert_eq!(index, 3);
        assert!(text.contains("65537 ports") && text.contains("65536"), "{text}");
    }
}
