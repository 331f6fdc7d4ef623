//! The database: what is written is there, what is damaged is told, and how large it gets.

use std::sync::Arc;

use super::*;
use crate::accounting::allowances::AllowanceEntries;
use crate::accounting::ports::PortEntries;

const NOW: u64 = 1_793_491_200;

fn name(text: &str) -> RuleName {
    RuleName::parse(text).expect(text)
}

fn amounts(bytes: u64) -> Amounts {
    Amounts { ingress_bytes: bytes, ingress_packets: 1, egress_bytes: 2 * bytes, egress_packets: 2, flows: 1 }
}

/// What one rule carried in one minute.
fn entries(text: &str, minute: u64, bytes: u64, total: Amounts) -> Entries {
    let source = Source { boot: Arc::from("boot"), map: 3, slot: 1 };
    let account = Account::restored(total, Some((source, total)));
    let interfaces = vec![("eth0".into(), account.clone())];
    let accounts = vec![(name(text), account)];
    Entries {
        ports: PortEntries::default(),
        accounts,
        minutes: vec![(name(text), minute, amounts(bytes))],
        interfaces,
        quotas: AllowanceEntries::default(),
    }
}

fn sum(rows: &[HistoryRow]) -> Amounts {
    rows.iter().fold(Amounts::default(), |mut sum, (_, amounts)| {
        sum += *amounts;
        sum
    })
}

#[test]
fn all_tables_know_the_same() {
    let folder = tempfile::tempdir().expect("folder");
    let mut total = Amounts::default();
    let mut store = Store::open(folder.path()).expect("new");
    // 26 hours over the end of a month, some minutes twice, and a clock that goes back
    let minutes = (0..26 * 60).step_by(7).chain([90, 30, 30]);
    for minute in minutes {
        total += amounts(minute + 1);
        store.write(&entries("a", NOW / 60 - 600 + minute, minute + 1, total)).expect("write");
    }
    drop(store);
    let store = Store::open(folder.path()).expect("again");
    let account = store.accounts().expect("accounts").remove(&name("a")).expect("account");
    assert_eq!((account.total, account.kernel.map(|(_, seen)| seen)), (total, Some(total)));
    let interface = store.interfaces().expect("interfaces").remove("eth0").expect("account");
    assert_eq!(interface.total, total);
    for step in [Step::Minute, Step::Hour, Step::Day, Step::Month] {
        let rows = store.history("a", step, 0, NOW * 2).expect("read").expect("known");
        assert_eq!(sum(&rows), total, "{step:?}");
        assert!(rows.is_sorted_by(|(a, _), (b, _)| a < b), "{step:?}");
    }
    let months = store.history("a", Step::Month, 0, NOW * 2).expect("read").expect("known");
    assert_eq!(
        months.iter().map(|(start, _)| Step::Month.label(*start)).collect::<Vec<_>>(),
        ["2026-10", "2026-11"]
    );
    assert_eq!(store.history("b", Step::Day, 0, NOW).expect("read"), None);
}

#[test]
fn minutes_are_a_rules_own_and_as_asked_for() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path()).expect("new");
    for minute in 0..150 {
        for (rule, bytes) in [("a", 1), ("b", 1000)] {
            store.write(&entries(rule, NOW / 60 + minute, bytes, amounts(1))).expect("write");
        }
    }
    // hours that are over, the one that goes on, and both
    for (since, until) in [(10, 50), (130, 140), (55, 125), (119, 121)] {
        let rows = store.history("a", Step::Minute, NOW + since * 60 + 30, NOW + until * 60);
        let rows = rows.expect("read").expect("known");
        let expected: Vec<HistoryRow> =
            (since..until).map(|minute| (NOW + minute * 60, amounts(1))).collect();
        assert_eq!(rows, expected, "{since} to {until}");
    }
}

#[test]
fn what_is_old_goes_table_by_table() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path()).expect("new");
    for days in [0, 3, 61, 401] {
        store.write(&entries("a", NOW / 60 - days * 1440, 1, amounts(1))).expect("write");
    }
    store.prune(NOW).expect("prune");
    let left = |step| store.history("a", step, 0, NOW * 2).expect("read").expect("known").len();
    assert_eq!([Step::Minute, Step::Hour, Step::Day].map(left), [1, 2, 3]);
}

#[test]
fn what_is_of_no_use_is_moved_aside() {
    let folder = tempfile::tempdir().expect("folder");
    let newer = Connection::open(folder.path().join(FILE)).expect("database");
    newer.pragma_update(None, "user_version", FORMAT + 1).expect("version");
    let refused = Store::open(folder.path()).expect_err("foreign");
    assert!(matches!(&refused, StoreError::Unusable(why) if why.contains("another program")), "{refused}");
    newer.pragma_update(None, "application_id", APPLICATION).expect("application");
    drop(newer);
    let refused = Store::open(folder.path()).expect_err("newer");
    assert!(matches!(&refused, StoreError::Unusable(why) if why.contains("newer relayd")), "{refused}");
    fs::write(folder.path().join(FILE), "no database".repeat(1000)).expect("write");
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Unusable(_))));
    let aside = move_aside(folder.path(), 7).expect("moved");
    assert!(aside.ends_with("history.db.broken-7") && aside.exists());
    Store::open(folder.path()).map(drop).expect("a new one");
}

/// A day of a thousand rules that all have traffic, each minute of another size, written every ten seconds.
#[test]
#[ignore = "takes minutes; run it for the figures"]
#[expect(clippy::print_stdout, reason = "they are what it is for")]
fn figures_of_a_day() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path()).expect("new");
    let names: Vec<RuleName> = (0..1000).map(|index| name(&format!("rule-{index}"))).collect();
    let began = std::time::Instant::now();
    for write in 0..1440 * 6 {
        let minute = write / 6;
        let mut all = Entries::default();
        for (index, rule) in (0_u64..).zip(&names) {
            let bytes = (minute * 7919 + index * 104_729) % 2_000_000 / 6 + write % 6;
            let came =
                Amounts { ingress_packets: bytes / 700, egress_packets: bytes / 350, ..amounts(bytes) };
            all.accounts.push((rule.clone(), Account::restored(came, None)));
            all.minutes.push((rule.clone(), NOW / 60 + minute, came));
        }
        store.write(&all).expect("write");
    }
    let took = began.elapsed() / (1440 * 6);
    store.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("checkpoint");
    let size = fs::metadata(folder.path().join(FILE)).expect("file").len();
    println!("{size} bytes for a day, {took:?} a write");
    assert!(size <= 40_000_000, "{size} bytes");
}
