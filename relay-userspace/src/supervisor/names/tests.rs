//! Tests of what is known of names, and for how long.

use super::kept::in_order;
use super::*;
use crate::config::dns::Prefer;
use crate::net::resolve::Family;

/// Longer than a label may be, so that no name server is asked.
fn impossible() -> Host {
    Host::Name("x".repeat(64).into())
}

fn named() -> Host {
    Host::Name("backend.example".into())
}

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn addresses<const N: usize>(texts: [&str; N]) -> Vec<IpAddr> {
    texts.map(address).to_vec()
}

fn answer(texts: &[&str], seconds: u64) -> Result<Answer, String> {
    let addresses = texts.iter().copied().map(address).collect();
    Ok(Answer { addresses, ttl: Some(Duration::from_secs(seconds)), unheard: None })
}

fn open(folder: &tempfile::TempDir) -> Names {
    Names::open(folder.path(), &Dns::default())
}

/// What an answer changes; and how long the name is left alone then.
fn told(names: &mut Names, answer: Result<Answer, String>) -> (News, u64) {
    let mut news = News::default();
    names.take(named(), answer, &mut news);
    let due = names.upkeep.of(&named()).expect("looked up").due.expect("due");
    (news, due.duration_since(Instant::now()).as_secs())
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_later_and_later() {
    let folder = tempfile::tempdir().expect("folder");
    let mut names = open(&folder);
    let nothing = BTreeSet::new();
    names.tend(BTreeSet::from([impossible()]), &nothing);
    assert_eq!(names.answered().await.names, BTreeSet::from([impossible()]));
    assert!(matches!(names.known().get(&impossible()), Some(Err(_))));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let start = Instant::now();
        assert_eq!(names.answered().await, News::default(), "the same failure is no news");
        pauses.push(start.elapsed().as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    names.retry_now();
    let start = Instant::now();
    names.answered().await;
    names.answered().await;
    assert_eq!(start.elapsed().as_secs(), 1, "at once, and then as patiently as at first");
    // nobody wants it any more, so nothing is ever tried
    names.tend(nothing, &BTreeSet::from([impossible()]));
    assert!(names.known().is_empty() && names.upkeep.lock().is_empty() && names.under_way.is_empty());
}

#[tokio::test]
async fn addresses_are_kept_over_failures_and_restarts() {
    let folder = tempfile::tempdir().expect("folder");
    let (wanted, nothing) = (BTreeSet::from([named()]), BTreeSet::new());
    let mut names = open(&folder);
    told(&mut names, answer(&["203.0.113.1", "2001:db8::1"], 60));
    names.tend(wanted.clone(), &nothing);
    let mut names = open(&folder);
    let known = addresses(["203.0.113.1", "2001:db8::1"]);
    assert_eq!(addresses_of(names.known().get(&named())), known, "written down");
    let (news, _) = told(&mut names, Err("no answer".into()));
    assert_eq!(news, News::default());
    assert_eq!(addresses_of(names.known().get(&named())), known);
    let kept = names.upkeep.of(&named()).expect("upkeep");
    assert_eq!((kept.error.as_deref(), kept.failures), (Some("no answer"), 1), "but tried again");
    names.look_up_again(&wanted);
    assert_eq!(addresses_of(names.known().get(&named())), known, "until there is an answer");
    names.tend(nothing.clone(), &wanted);
    assert_eq!(open(&folder).known().len(), 1, "a rule that needs it not now may need it again");
    names.tend(nothing.clone(), &nothing);
    assert_eq!(open(&folder).known().len(), 0, "forgotten");
}

#[tokio::test(start_paused = true)]
async fn an_answer_holds_for_its_time_within_limits() {
    let folder = tempfile::tempdir().expect("folder");
    let mut names = open(&folder);
    for (ttl, from, to) in [(0, 5, 5), (60, 60, 66), (86_400, 300, 330), (u64::from(u32::MAX), 300, 330)] {
        let (_, due) = told(&mut names, answer(&["203.0.113.1"], ttl));
        assert!((from..=to).contains(&due), "{ttl}: {due}");
    }
}

#[tokio::test]
async fn changes_are_told_and_other_orders_are_none() {
    let folder = tempfile::tempdir().expect("folder");
    let mut names = open(&folder);
    let (news, _) = told(&mut names, answer(&["203.0.113.1", "203.0.113.2"], 60));
    assert_eq!((news.names.len(), news.changes), (1, vec![]), "a first answer changes nothing");
    let (news, _) = told(&mut names, answer(&["203.0.113.2", "203.0.113.1"], 60));
    assert_eq!(news, News::default());
    let (news, _) = told(&mut names, answer(&["203.0.113.9", "203.0.113.2"], 60));
    let change = "backend.example is 203.0.113.2, 203.0.113.9 now, and no longer 203.0.113.1, 203.0.113.2";
    assert_eq!(news.changes, [change]);
    let known = [[203, 0, 113, 2], [203, 0, 113, 9]].map(IpAddr::from);
    assert_eq!(*names.addresses(&named()), known);
}

#[tokio::test(start_paused = true)]
async fn a_family_that_nobody_has_heard_of_keeps_its_addresses() {
    let folder = tempfile::tempdir().expect("folder");
    let mut names = open(&folder);
    told(&mut names, answer(&["203.0.113.1", "2001:db8::1"], 60));
    let half = |unheard| {
        let answer = answer(&["2001:db8::2"], 60).expect("answer");
        Ok(Answer { unheard, ..answer })
    };
    let (_, due) = told(&mut names, half(Some(Family::Ipv4)));
    let known = addresses(["203.0.113.1", "2001:db8::2"]);
    assert_eq!(addresses_of(names.known().get(&named())), known);
    assert!(due <= 1, "and is asked for again soon: {due}");
    told(&mut names, half(None));
    assert_eq!(addresses_of(names.known().get(&named())), addresses(["2001:db8::2"]));
}

#[test]
fn families_take_turns_and_what_is_still_right_keeps_its_place() {
    let all = addresses(["2001:db8::1", "203.0.113.1", "203.0.113.2"]);
    for (found, before, prefer, order) in [
        (&all[..], vec![], Prefer::Ipv4, &["203.0.113.1", "2001:db8::1", "203.0.113.2"][..]),
        (&all, vec![], Prefer::Ipv6, &["2001:db8::1", "203.0.113.1", "203.0.113.2"]),
        (&all, vec![all[2]], Prefer::Ipv4, &["203.0.113.2", "2001:db8::1", "203.0.113.1"]),
        (&all[..1], all.clone(), Prefer::Ipv4, &["2001:db8::1"]),
        (&[all[1], all[1]], vec![], Prefer::Ipv4, &["203.0.113.1"]),
    ] {
        let order: Vec<IpAddr> = order.iter().copied().map(address).collect();
        assert_eq!(&*in_order(found, &before, prefer), &order[..]);
    }
}
