//! Two and three tiers, up and down, held and edited.

use super::*;

/// A rule's backends and what is held of them.
struct Case {
    candidates: Vec<Candidate<&'static str>>,
    grouping: Grouping,
    failback: Failback,
    held: Option<Held<&'static str>>,
    start: Instant,
}

impl Case {
    /// Backends by name and priority, all of them up since the beginning.
    fn new(failback: Failback, backends: &[(&'static str, u16)]) -> Self {
        let start = Instant::now();
        let candidates = backends.iter().map(|&(key, priority)| Candidate {
            key,
            priority,
            fitness: Fitness::Good,
            up_since: Some(start),
        });
        let candidates = candidates.collect();
        Self { candidates, grouping: Grouping::ByPriority, failback, held: None, start }
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn set(&mut self, key: &str, fitness: Fitness, second: u64) {
        let since = self.at(second);
        let candidate = self.candidates.iter_mut().find(|candidate| candidate.key == key).expect(key);
        candidate.fitness = fitness;
        candidate.up_since = (fitness == Fitness::Good).then_some(since);
    }

    fn choose(&mut self, second: u64) -> Choice<&'static str> {
        let now = self.at(second);
        let choice = choose(&self.candidates, self.grouping, self.failback, self.held.as_ref(), now);
        self.held.clone_from(&choice.held);
        choice
    }

    /// Who gets new flows.
    fn chosen(&mut self, second: u64) -> Vec<&'static str> {
        let choice = self.choose(second);
        choice.members.iter().map(|&index| self.candidates[index].key).collect()
    }
}

const TWO: &[(&str, u16)] = &[("backup", 2), ("main", 1)];

#[test]
fn the_lowest_number_is_tried_first_and_a_tier_shares() {
    let mut case = Case::new(Failback::Auto, &[("c", 5), ("a", 1), ("d", 5), ("b", 1)]);
    assert_eq!(case.chosen(0), ["a", "b"]);
    case.set("a", Fitness::Bad, 1);
    assert_eq!(case.chosen(1), ["b"]);
    case.set("b", Fitness::Bad, 2);
    assert_eq!(case.chosen(2), ["c", "d"]);
    case.set("b", Fitness::Good, 3);
    assert_eq!(case.chosen(3), ["b"]);
}

#[test]
fn first_takes_them_one_by_one() {
    let mut case = Case::new(Failback::Auto, &[("c", 5), ("a", 1), ("d", 5), ("b", 1)]);
    case.grouping = Grouping::Single;
    for (second, expected) in ["a", "b", "c", "d"].into_iter().enumerate() {
        assert_eq!(case.chosen(second as u64), [expected]);
        case.set(expected, Fitness::Bad, second as u64);
    }
}

#[test]
fn manual_goes_back_by_order_alone() {
    let mut case = Case::new(Failback::Manual, TWO);
    assert_eq!(case.chosen(0), ["main"]);
    case.set("main", Fitness::Bad, 1);
    assert_eq!(case.chosen(1), ["backup"]);
    case.set("main", Fitness::Good, 2);
    let choice = case.choose(9999);
    assert_eq!((choice.members, choice.look_again), (vec![0], None));
    case.held = None;
    assert_eq!(case.chosen(10_000), ["main"]);
}

#[test]
fn manual_goes_back_when_what_it_has_goes_down() {
    let mut case = Case::new(Failback::Manual, TWO);
    case.set("main", Fitness::Bad, 1);
    assert_eq!(case.chosen(1), ["backup"]);
    case.set("main", Fitness::Good, 2);
    case.set("backup", Fitness::Bad, 3);
    assert_eq!(case.chosen(3), ["main"]);
    case.set("backup", Fitness::Good, 4);
    assert_eq!(case.chosen(4), ["main"]);
}

#[test]
fn a_delay_counts_from_when_the_better_tier_came_up() {
    let mut case = Case::new(Failback::Delay(Duration::from_secs(60)), TWO);
    // nothing is held yet, so there is nothing to wait for
    assert_eq!(case.chosen(0), ["main"]);
    case.set("main", Fitness::Bad, 10);
    assert_eq!(case.chosen(10), ["backup"]);
    case.set("main", Fitness::Good, 20);
    let choice = case.choose(79);
    assert_eq!((choice.members, choice.look_again), (vec![0], Some(case.at(80))));
    // down again in between: it begins anew
    case.set("main", Fitness::Bad, 79);
    assert_eq!(case.choose(80).look_again, None);
    case.set("main", Fitness::Good, 90);
    assert_eq!(case.chosen(149), ["backup"]);
    assert_eq!(case.chosen(150), ["main"]);
    assert_eq!(case.choose(151).look_again, None);
}

#[test]
fn the_delay_of_the_best_tier_goes_on_when_the_second_is_taken() {
    let mut case = Case::new(Failback::Delay(Duration::from_secs(60)), &[("a", 1), ("b", 2), ("c", 3)]);
    case.set("a", Fitness::Bad, 0);
    case.set("b", Fitness::Bad, 0);
    assert_eq!(case.chosen(0), ["c"]);
    case.set("b", Fitness::Good, 10);
    case.set("a", Fitness::Good, 40);
    let choice = case.choose(70);
    assert_eq!((choice.members, choice.look_again), (vec![1], Some(case.at(100))));
    assert_eq!(case.chosen(100), ["a"]);
}

#[test]
fn all_down_keeps_the_best_tier_and_says_so() {
    let mut case = Case::new(Failback::Manual, TWO);
    case.set("main", Fitness::Bad, 1);
    assert_eq!(case.chosen(1), ["backup"]);
    case.set("backup", Fitness::Bad, 2);
    let choice = case.choose(2);
    assert_eq!((choice.members, choice.basis), (vec![1], Basis::AllDown));
    // the way there was cut, and both are back: who was held is so still
    case.set("main", Fitness::Good, 3);
    case.set("backup", Fitness::Good, 3);
    let choice = case.choose(3);
    assert_eq!((choice.members, choice.basis), (vec![0], Basis::Good));
}

#[test]
fn who_never_answered_is_avoided_but_preferred_to_who_is_down() {
    let mut case = Case::new(Failback::Auto, &[("a", 1), ("b", 1), ("c", 2)]);
    case.set("a", Fitness::Doubtful, 0);
    assert_eq!(case.chosen(0), ["b"]);
    case.set("b", Fitness::Bad, 1);
    assert_eq!(case.chosen(1), ["c"]);
    case.set("c", Fitness::Bad, 2);
    let choice = case.choose(2);
    assert_eq!((choice.members, choice.basis), (vec![0], Basis::Doubtful));
}

#[test]
fn who_is_barred_gets_nothing_even_if_all_are_down() {
    let mut case = Case::new(Failback::Auto, TWO);
    case.set("main", Fitness::Barred, 0);
    assert_eq!(case.chosen(0), ["backup"]);
    case.set("backup", Fitness::Bad, 1);
    let choice = case.choose(1);
    assert_eq!((choice.members, choice.basis), (vec![0], Basis::AllDown));
    case.set("backup", Fitness::Barred, 2);
    let choice = case.choose(2);
    assert_eq!((choice.members, choice.basis), (vec![], Basis::AllBarred));
}

#[test]
fn an_edit_of_the_list_does_not_move_what_is_held() {
    let mut case = Case::new(Failback::Manual, &[("a", 1), ("b", 2), ("c", 2)]);
    case.set("a", Fitness::Bad, 0);
    assert_eq!(case.chosen(0), ["b", "c"]);
    case.set("a", Fitness::Good, 1);
    // others come before it, the order changes, and so do the numbers
    case.candidates.reverse();
    let new = Candidate { key: "new", priority: 0, fitness: Fitness::Good, up_since: None };
    case.candidates.insert(0, new);
    case.candidates.iter_mut().for_each(|candidate| candidate.priority += 7);
    assert_eq!(case.chosen(2), ["c", "b"]);
    // one of it goes elsewhere: what is left of it goes on
    case.candidates.retain(|candidate| candidate.key != "b");
    assert_eq!(case.chosen(3), ["c"]);
    // all of it has gone
    case.candidates.retain(|candidate| candidate.key != "c");
    assert_eq!(case.chosen(4), ["new"]);
}

#[test]
fn nobody_to_choose_from() {
    let mut case = Case::new(Failback::Auto, &[]);
    assert_eq!(case.choose(0).basis, Basis::AllBarred);
}
