//! Whose unanswered flows choose anew, and when flows go back.

use std::time::Duration;

use super::*;
use crate::rule::{Check, CheckKind, Failback, Protocols, RuleName};

/// Who is deserted for TCP of three backends in these states, of which some have an order.
fn deserted(states: [State; 3], orders: &[(usize, BackendOrder)]) -> Vec<usize> {
    let to = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"].map(|to| Backend::parse(to).expect("a backend"));
    let rule = Rule::new(RuleName::parse("web").expect("name"), Vec::new(), to.to_vec());
    let key = |index: usize| -> Box<str> { to[index].to_string().into() };
    let verdict = |state| Verdict { state, since: Instant::now() };
    let health = RuleHealth {
        endpoints: (0..3).map(|at| ((Protocol::Tcp, key(at)), verdict(states[at]))).collect(),
        orders: orders.iter().map(|&(at, order)| (key(at), order)).collect(),
        held: BTreeMap::new(),
    };
    let weights = weigh(&rule, Some(&health), &|_| true, Instant::now()).weights;
    (0..3).filter(|&at| weights.is_deserted(Protocol::Tcp, at)).collect()
}

#[test]
fn flows_choose_anew_where_nobody_answers_and_others_do() {
    let [up, down] = [State::Up, State::Down];
    assert_eq!(deserted([up, down, State::Unanswered], &[]), [1, 2]);
    assert_eq!(deserted([down, down, State::Untried], &[]), [0, 1]);
    assert_eq!(deserted([down; 3], &[]), [] as [usize; 0], "all serve for want of others");
    assert_eq!(deserted([down, down, State::Unanswered], &[]), [0, 1], "one does for the others");
    assert_eq!(deserted([up; 3], &[(0, BackendOrder::Drain), (2, BackendOrder::Down)]), [2]);
}

/// Flows of a rule whose check asks nobody, or not for this protocol, prove that a better tier is there again: they have
/// to go there first.
#[test]
fn a_tier_that_nobody_asks_is_gone_back_to_after_a_time() {
    let delay = Duration::from_secs(60);
    let to = ["192.0.2.1:1", "192.0.2.2:1"].map(|to| Backend::parse(to).expect("a backend"));
    let [first, second] = to.clone().map(|to| -> Box<str> { to.to_string().into() });
    let mut rule = Rule::new(RuleName::parse("web").expect("name"), Vec::new(), to.to_vec());
    rule.to[1].priority = 1;
    rule.protocols = Protocols::Udp;
    let check = Check { kind: CheckKind::Passive, failback: Failback::Delay(delay), ..Check::default() };
    rule.check = Some(Box::new(check));
    let begun = Instant::now();
    let verdict = |state| Verdict { state, since: begun };
    let health = RuleHealth {
        endpoints: [(first, State::Untried), (second.clone(), State::Up)]
            .map(|(key, state)| ((Protocol::Udp, key), verdict(state)))
            .into(),
        orders: BTreeMap::new(),
        held: [(Protocol::Udp, Held([second].into()))].into(),
    };
    let at = |now| weigh(&rule, Some(&health), &|_| true, now);
    let early = at(begun + delay / 2);
    assert_eq!((&*early.weights.udp, early.outlook.look_again), (&[0, 1][..], Some(begun + delay)));
    assert_eq!(*at(begun + delay).weights.udp, [1, 0]);
}
