//! What is told, when, and what remains.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::{Case, hosts, probe, quick};
use crate::health::judge::{Reason, Signal, Standing, State};
use crate::health::{Probe, ProbeError, ProbeId};
use crate::rule::{Check, CheckKind};

const ID: ProbeId = ProbeId(7);
const HOUR: Duration = Duration::from_secs(3600);

/// Listens where somebody listened before.
fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("socket");
    socket.set_reuse_address(true).expect("option");
    socket.bind(&address.into()).expect("bind");
    socket.listen(64).expect("listen");
    socket.into()
}

#[test]
fn it_comes_goes_and_comes_again() {
    let mut case = Case::new();
    let address = hosts::refusing();
    case.prober.set(ID, probe(address, quick(CheckKind::Tcp)), None);
    let news = case.next();
    assert_eq!((news.id, news.change.from, news.change.to), (ID, State::Untried, State::Unanswered));
    assert_eq!(news.change.reason, Reason::Probe(ProbeError::Refused));
    for _ in 0..3 {
        let listener = listen(address);
        let news = case.next();
        assert_eq!((news.change.to, news.change.reason), (State::Up, Reason::Answers));
        drop(listener);
        assert_eq!(case.next_state(), State::Down);
    }
    case.prober.remove(ID);
    assert_eq!(case.prober.board().standing(ID), None);
    let _listener = listen(address);
    std::thread::sleep(Duration::from_millis(300));
    assert!(case.news.try_recv().is_err());
}

#[test]
fn a_change_is_told_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let mut late = Vec::new();
    for _ in 0..5 {
        let mut case = Case::new();
        case.prober.set(ID, probe(hosts::mute(), quick(CheckKind::Tcp)), None);
        let news = runtime.block_on(case.news.recv()).expect("news");
        late.push(news[0].at.elapsed());
    }
    let best = late.iter().min().expect("one");
    assert!(*best < Duration::from_millis(1), "{late:?}");
}

#[test]
fn a_bad_sign_brings_the_next_probe_forward() {
    let mut case = Case::new();
    let address = hosts::refusing();
    let listener = listen(address);
    let check = Check { interval: HOUR, ..quick(CheckKind::Tcp) };
    case.prober.set(ID, probe(address, check), None);
    assert_eq!(case.next_state(), State::Up);
    drop(listener);
    let began = Instant::now();
    let down = loop {
        case.prober.signal(ID, Signal::Refused);
        if let Ok(news) = case.news.try_recv() {
            break news;
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(down[0].change.to, State::Down);
    assert_eq!(down[0].change.reason, Reason::Probe(ProbeError::Refused));
    // a thousand of them are not a thousand probes
    let before = case.prober.board().standing(ID).expect("standing").totals.failures;
    for _ in 0..1000 {
        case.prober.signal(ID, Signal::Refused);
        std::thread::sleep(Duration::from_micros(500));
    }
    let probes = case.prober.board().standing(ID).expect("standing").totals.failures - before;
    assert!((1..=8).contains(&probes), "{probes}");
}

#[test]
fn without_probes_clients_decide() {
    let mut case = Case::new();
    let check = Check { cooldown: Duration::from_millis(100), ..quick(CheckKind::Passive) };
    // nobody is there: it would be noticed if it were asked
    case.prober.set(ID, probe(hosts::refusing(), check), None);
    case.prober.answered(ID);
    assert_eq!(case.next_state(), State::Up);
    case.prober.signal(ID, Signal::Reset);
    case.prober.signal(ID, Signal::TimedOut);
    let news = case.next();
    assert_eq!((news.change.to, news.change.reason), (State::Down, Reason::Signal(Signal::TimedOut)));
    let news = case.next();
    assert_eq!((news.change.to, news.change.reason), (State::Untried, Reason::CooledDown));
    case.prober.signal(ID, Signal::SynUnanswered);
    assert_eq!([case.next_state(), case.next_state()], [State::Down, State::Untried]);
}

#[test]
fn what_was_known_is_gone_on_from() {
    let mut case = Case::new();
    let now = Instant::now();
    let known =
        Standing { state: State::Down, answered: true, last_failure: Some(now), ..Standing::new(now) };
    let check = Check { cooldown: HOUR, ..quick(CheckKind::Tcp) };
    case.prober.set(ID, probe(hosts::mute(), check.clone()), Some(known));
    let standing = case.wait(ID, |standing| standing.successes > 3);
    assert_eq!((standing.state, standing.since), (State::Down, now));
    // another question keeps the verdict
    let other = Check { cooldown: HOUR, timeout: HOUR, ..check };
    case.prober.set(ID, probe(hosts::mute(), other), None);
    let standing = case.wait(ID, |standing| standing.successes > 6);
    assert_eq!(standing.state, State::Down);
    // and an order ends it
    case.prober.pardon(ID);
    assert_eq!([case.next_state(), case.next_state()], [State::Untried, State::Up]);
}

#[test]
fn many_are_asked_beside_silent_ones() {
    let mut case = Case::new();
    let ((silent, _sockets), mute) = (hosts::silent(), hosts::mute());
    let check = Arc::new(Check { timeout: HOUR, ..quick(CheckKind::Tcp) });
    for number in 0..400 {
        let address = if number % 2 == 0 { silent } else { mute };
        let probe = Probe { check: check.clone(), ..probe(address, Check::default()) };
        case.prober.set(ProbeId(number), probe, None);
    }
    let until = Instant::now() + Duration::from_secs(10);
    let mut up = 0;
    while up < 200 {
        assert!(Instant::now() < until, "{up}");
        up += case.news.try_recv().map_or(0, |news| news.len());
        std::thread::sleep(Duration::from_millis(1));
    }
    let standings = case.prober.standings();
    assert!(standings.iter().all(|(id, standing)| (standing.state == State::Up) == (id.0 % 2 == 1)));
}

#[test]
fn the_end_does_not_wait_for_probes() {
    let case = Case::new();
    let (silent, _sockets) = hosts::silent();
    case.prober.set(ID, probe(silent, Check { timeout: HOUR, ..quick(CheckKind::Tcp) }), None);
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    drop(case);
    assert!(began.elapsed() < Duration::from_secs(1));
}
