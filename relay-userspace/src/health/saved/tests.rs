//! What comes back, after a restart and after a reboot, and what does not.

use super::*;

fn moment() -> Moment {
    // whole milliseconds, since that is what is kept
    Moment { monotonic: Instant::now(), wall: UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
}

fn example(now: Moment) -> Saved {
    let key = |address: &str, protocol| EndpointKey {
        rule: RuleName::parse("tokyo").expect("name"),
        backend: "jp.example.com:8388".into(),
        address: address.parse().expect("address"),
        protocol,
    };
    let ago = |seconds| now.monotonic.checked_sub(Duration::from_secs(seconds)).expect("uptime");
    let down = Standing {
        state: State::Down,
        answered: true,
        failures: 7,
        last_failure: Some(ago(2)),
        last_error: Some("connection refused".into()),
        ..Standing::new(ago(60))
    };
    let unanswered = Standing { state: State::Unanswered, failures: 9, ..Standing::new(ago(5)) };
    let endpoints =
        [(key("192.0.2.1:53", Protocol::Udp), unanswered), (key("[2001:db8::1]:8388", Protocol::Tcp), down)];
    let memory = RuleMemory {
        held: [(Protocol::Tcp, Held(vec!["b".into(), "c".into()]))].into(),
        orders: BTreeMap::from([("a".into(), BackendOrder::Drain), ("d".into(), BackendOrder::Down)]),
    };
    let names = ["tokyo", "osaka"].map(|name| RuleName::parse(name).expect("name"));
    let rules = names.into_iter().zip([memory, RuleMemory::default()]);
    Saved { endpoints: endpoints.into_iter().collect(), rules: rules.collect() }
}

#[test]
fn everything_comes_back() {
    let now = moment();
    let saved = example(now);
    let text = saved.to_json(now).to_string();
    assert_eq!(Saved::from_text(&text, now), Ok((saved, 0)));
}

#[test]
fn time_goes_on_while_relayd_is_away() {
    let now = moment();
    let text = example(now).to_json(now).to_string();
    // the host has been started anew meanwhile: its other clock is no measure
    let later = Moment { wall: now.wall + Duration::from_secs(100), monotonic: now.monotonic };
    let read = Saved::from_text(&text, later).expect("read").0;
    let failures: Vec<Instant> =
        read.endpoints.values().filter_map(|standing| standing.last_failure).collect();
    assert_eq!(failures, [now.monotonic.checked_sub(Duration::from_secs(102)).expect("uptime")]);
    // a clock that was set back: it failed just now
    let earlier = Moment { wall: now.wall - Duration::from_secs(100), monotonic: now.monotonic };
    let read = Saved::from_text(&text, earlier).expect("read").0;
    assert!(read.endpoints.values().all(|standing| standing.since == now.monotonic));
}

#[test]
fn files_are_replaced_and_read() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join(FILE);
    assert_eq!(Saved::load(&path), Saved::default());
    let saved = Saved { endpoints: HashMap::new(), ..example(moment()) };
    saved.save(&path).expect("save");
    assert_eq!(Saved::load(&path), saved);
}

#[test]
fn what_is_not_ours_is_not_used() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join(FILE);
    for (text, why) in [
        (r#"{"format":2,"endpoints":[],"rules":{}}"#, "format 2 is another relayd's, this one writes 1"),
        (r#"{"endpoints":[],"rules":{}}"#, "it has no format number"),
        (r#"{"format":1,"endpoints":{},"rules":{}}"#, "it is damaged"),
        ("{", "EOF while parsing an object at line 1 column 1"),
    ] {
        assert_eq!(Saved::from_text(text, moment()), Err(why.into()));
        fs::write(&path, text).expect("write");
        assert_eq!(Saved::load(&path), Saved::default());
    }
}

#[test]
fn what_is_damaged_takes_nothing_else_along() {
    let now = moment();
    let saved = example(now);
    let mut value = saved.to_json(now);
    value["endpoints"].as_array_mut().expect("endpoints").extend([json!({}), json!("tokyo")]);
    value["rules"]["nagoya"] = json!({ "held": 7, "orders": {} });
    assert_eq!(Saved::from_text(&value.to_string(), now), Ok((saved, 3)));
}
