//! Whose unanswered flows choose anew.

use super::*;
use crate::rule::RuleName;

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
