//! Falling, rising and cooling down, second by second.

use super::*;

/// An endpoint and its clock.
struct Case {
    judge: Judge,
    check: Check,
    start: Instant,
}

impl Case {
    fn new(check: Check) -> Self {
        let start = Instant::now();
        Self { judge: Judge::new(start), check, start }
    }

    fn passive() -> Self {
        Self::new(Check { kind: CheckKind::Passive, ..Check::default() })
    }

    /// One that is up, or has been.
    fn up(check: Check) -> Self {
        let mut case = Self::new(check);
        assert_eq!(case.answer(0), Some((State::Untried, State::Up)));
        case
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn answer(&mut self, second: u64) -> Option<(State, State)> {
        let change = self.judge.probed(Ok(Duration::from_millis(7)), &self.check, self.at(second));
        change.map(|change| (change.from, change.to))
    }

    fn fail(&mut self, second: u64) -> Option<(State, State)> {
        let change = self.judge.probed(Err(ProbeError::Refused), &self.check, self.at(second));
        change.map(|change| (change.from, change.to))
    }

    fn signal(&mut self, second: u64) -> Option<(State, State)> {
        let change = self.judge.signalled(Signal::Reset, &self.check, self.at(second));
        change.map(|change| (change.from, change.to))
    }

    fn state(&self) -> State {
        self.judge.standing().state
    }
}

#[test]
fn it_falls_after_failures_in_a_row() {
    let mut case = Case::up(Check { fall: 3, ..Check::default() });
    assert_eq!([case.fail(4), case.fail(8), case.answer(12)], [None; 3]);
    assert_eq!([case.fail(16), case.fail(20)], [None; 2]);
    assert_eq!(case.fail(24), Some((State::Up, State::Down)));
    assert_eq!(case.fail(28), None);
    let standing = case.judge.standing();
    assert_eq!((standing.since, standing.failures), (case.at(24), 4));
    assert_eq!(standing.last_error.as_deref(), Some("connection refused"));
    assert_eq!(standing.latency, Some(Duration::from_millis(7)));
    assert_eq!(standing.totals, Totals { successes: 2, failures: 6, signals: 0 });
}

#[test]
fn it_rises_after_successes_in_a_row_and_the_cooldown() {
    let mut case = Case::up(Check { rise: 3, cooldown: Duration::from_secs(10), ..Check::default() });
    assert_eq!([case.fail(4), case.fail(8)], [None, Some((State::Up, State::Down))]);
    assert_eq!([case.answer(12), case.answer(16)], [None; 2]);
    assert_eq!(case.answer(20), Some((State::Down, State::Up)));

    assert_eq!([case.fail(24), case.fail(28)], [None, Some((State::Up, State::Down))]);
    assert_eq!([29, 30, 31, 37].map(|second| case.answer(second)), [None; 4]);
    assert_eq!(case.answer(38), Some((State::Down, State::Up)));
}

#[test]
fn the_cooldown_counts_from_the_last_failure() {
    let mut case = Case::up(Check::default());
    assert_eq!([case.fail(4), case.fail(8)], [None, Some((State::Up, State::Down))]);
    for second in (12..124).step_by(4) {
        assert_eq!(case.answer(second), None);
    }
    assert_eq!(case.fail(124), None);
    for second in (128..244).step_by(4) {
        assert_eq!(case.answer(second), None, "{second}");
    }
    assert_eq!(case.answer(244), Some((State::Down, State::Up)));
}

#[test]
fn one_that_flaps_stays_down() {
    let mut case = Case::up(Check::default());
    case.fail(4);
    assert_eq!(case.fail(8), Some((State::Up, State::Down)));
    for second in (12..3600).step_by(60) {
        assert_eq!([case.answer(second), case.answer(second + 4), case.fail(second + 8)], [None; 3]);
    }
    assert_eq!(case.state(), State::Down);
    // every second probe alone is no reason to leave it, since half of the clients do get through
    let mut case = Case::up(Check::default());
    for second in (4..100).step_by(8) {
        assert_eq!([case.fail(second), case.answer(second + 4)], [None; 2]);
    }
}

#[test]
fn one_that_never_answered_is_unknown_and_avoided() {
    let mut case = Case::new(Check::default());
    assert_eq!(case.state().fitness(), Fitness::Good);
    assert_eq!(case.fail(0), None);
    assert_eq!(case.fail(4), Some((State::Untried, State::Unanswered)));
    assert_eq!((case.state().as_str(), case.state().fitness()), ("unknown", Fitness::Doubtful));
    assert_eq!([case.fail(8), case.answer(12)], [None; 2]);
    // there is no cooldown for who was never gone
    assert_eq!(case.answer(16), Some((State::Unanswered, State::Up)));
}

#[test]
fn one_that_answered_once_is_down_then() {
    let mut case = Case::new(Check::default());
    assert_eq!([case.fail(0), case.fail(4)], [None, Some((State::Untried, State::Unanswered))]);
    assert_eq!([case.answer(8), case.fail(12)], [None; 2]);
    assert_eq!(case.fail(16), Some((State::Unanswered, State::Down)));
}

#[test]
fn signals_decide_nothing_where_probes_do() {
    let mut case = Case::up(Check::default());
    assert_eq!([1, 2, 3].map(|second| case.signal(second)), [None; 3]);
    assert_eq!(case.judge.standing().totals.signals, 3);
    assert_eq!(case.judge.tries_again_at(&case.check), None);
}

#[test]
fn without_probes_signals_decide_and_clients_try_again() {
    let mut case = Case::passive();
    assert_eq!(case.judge.answered(&case.check, case.at(0)).map(|change| change.to), Some(State::Up));
    assert_eq!([case.signal(1), case.signal(2)], [None, Some((State::Up, State::Down))]);
    let again = case.judge.tries_again_at(&case.check);
    assert_eq!(again, Some(case.at(122)));
    assert_eq!(case.judge.try_again(&case.check, case.at(121)), None);
    let change = case.judge.try_again(&case.check, case.at(122)).expect("a change");
    assert_eq!((change.to, change.reason), (State::Untried, Reason::CooledDown));
    assert_eq!(case.judge.tries_again_at(&case.check), None);
    // one client is enough to know
    assert_eq!(case.signal(123), Some((State::Untried, State::Down)));
    case.judge.try_again(&case.check, case.at(243));
    assert_eq!(case.judge.answered(&case.check, case.at(244)).map(|change| change.to), Some(State::Up));
    assert_eq!(case.signal(245), None);
}

#[test]
fn an_order_ends_the_cooldown() {
    let mut case = Case::up(Check::default());
    assert_eq!([case.fail(4), case.fail(8)], [None, Some((State::Up, State::Down))]);
    let change = case.judge.pardon(case.at(9)).expect("a change");
    assert_eq!((change.from, change.to, change.reason), (State::Down, State::Untried, Reason::Order));
    assert_eq!(case.answer(12), Some((State::Untried, State::Up)));
    assert_eq!(case.judge.pardon(case.at(13)), None);
}

#[test]
fn what_was_known_goes_on() {
    let mut case = Case::up(Check { rise: 1, ..Check::default() });
    assert_eq!([case.fail(4), case.fail(8)], [None, Some((State::Up, State::Down))]);
    case.judge = Judge::resume(case.judge.standing().clone());
    assert_eq!(case.answer(127), None);
    assert_eq!(case.answer(128), Some((State::Down, State::Up)));
}
