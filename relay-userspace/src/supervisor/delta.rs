//! Where two lists of rules differ. One changed rule among ten thousand should not cost ten thousand lookups, so what
//! both have in common at their ends is left out first; rules that did not change are the same `Arc`.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::state::Rules;
use crate::api::view::RuleChange;
use crate::config::encode;
use crate::rule::{Rule, RuleName};

/// The stretch of each list that is left between a common beginning and a common end.
pub fn middles<T>(before: &[T], after: &[T], same: impl Fn(&T, &T) -> bool) -> (Range<usize>, Range<usize>) {
    let start = before.iter().zip(after).take_while(|(before, after)| same(before, after)).count();
    let ends = before[start..].iter().rev().zip(after[start..].iter().rev());
    let end = ends.take_while(|(before, after)| same(before, after)).count();
    (start..before.len() - end, start..after.len() - end)
}

/// Rules that differ between two sets.
struct Delta<'a> {
    /// Those of the old set that may differ, by name.
    old: HashMap<&'a RuleName, &'a Arc<Rule>>,
    /// Rules of the new set that are not in the old one as they are.
    changed: Vec<Arc<Rule>>,
    /// Names that are only in the old set.
    gone: Vec<RuleName>,
}

fn delta<'a>(before: &'a Rules, after: &'a Rules) -> Delta<'a> {
    let (old, new) = middles(before, after, |(before, _), (after, _)| Arc::ptr_eq(before, after));
    let before = &before[old];
    let old: HashMap<_, _> = before.iter().map(|(rule, _)| (&rule.name, rule)).collect();
    let new: Vec<&Arc<Rule>> = after[new].iter().map(|(rule, _)| rule).collect();
    let wanted: HashSet<&RuleName> = new.iter().map(|rule| &rule.name).collect();
    let gone = before.iter().map(|(rule, _)| &rule.name);
    let gone = gone.filter(|name| !wanted.contains(name)).cloned().collect();
    let same =
        |rule: &Arc<Rule>| old.get(&rule.name).is_some_and(|old| Arc::ptr_eq(old, rule) || *old == rule);
    let changed = new.into_iter().filter(|rule| !same(rule)).cloned().collect();
    Delta { old, changed, gone }
}

/// Rules of `after` that are not in `before` as they are, and names that are only in `before`.
pub fn different(before: &Rules, after: &Rules) -> (Vec<Arc<Rule>>, Vec<RuleName>) {
    let Delta { changed, gone, .. } = delta(before, after);
    (changed, gone)
}

/// What changes between two sets of rules, for people.
pub fn changes(before: &Rules, after: &Rules) -> Vec<RuleChange> {
    let Delta { old, changed, gone } = delta(before, after);
    let shown = |name: &RuleName| old.get(name).map(|rule| encode::shown(rule, None));
    let mut changes: Vec<RuleChange> = changed
        .iter()
        .map(|rule| {
            let before = shown(&rule.name);
            let action = if before.is_some() { "changed" } else { "added" }.into();
            let after = Some(encode::shown(rule, old.get(&rule.name).map(|rule| &***rule)));
            RuleChange { action, name: rule.name.to_string(), before, after, ..RuleChange::default() }
        })
        .collect();
    changes.extend(gone.iter().map(|name| RuleChange {
        action: "removed".into(),
        name: name.to_string(),
        before: shown(name),
        ..RuleChange::default()
    }));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_leave_out_what_is_common() {
        for (before, after, old, new) in [
            ("abc", "abc", 3..3, 3..3),
            ("abc", "abcd", 3..3, 3..4),
            ("abc", "abd", 2..3, 2..3),
            ("abc", "ac", 1..2, 1..1),
            ("", "a", 0..0, 0..1),
            ("aaa", "aa", 2..3, 2..2),
            ("abcd", "acbd", 1..3, 1..3),
        ] {
            let found = middles(before.as_bytes(), after.as_bytes(), |a, b| a == b);
            assert_eq!(found, (old, new), "{before} {after}");
        }
    }
}
