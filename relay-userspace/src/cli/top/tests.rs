//! The screen and the keys, without a terminal and without relayd.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::{Value, json};

use super::draw;
use super::keys::Step;
use super::model::{Mode, Model};
use super::paint::Paint;
use super::poll::Sample;

const PLAIN: Paint = Paint { coloured: false };

fn rule(name: &str, bytes: u64, drops: u64) -> Value {
    json!({
        "name": name, "listen": [":80"], "protocol": "tcp", "enabled": true, "state": "active",
        "to": [
            { "addr": "10.0.0.9:80", "weight": 1, "state": "up", "flows": { "active": 3, "total": bytes / 10 } },
            { "addr": "10.0.0.8:80", "weight": 1, "state": "down", "flows": { "active": 1, "total": 1 } },
        ],
        "plane": { "ipv4": { "plane": "kernel", "hook": "tc" }, "ipv6": { "plane": "none" } },
        "counters": { "unit": "ip", "ingress": { "packets": bytes / 100, "bytes": bytes },
            "egress": { "packets": 0, "bytes": 2 * bytes }, "flows": { "active": 4, "total": bytes / 10 },
            "drops": { "no_route": drops } },
    })
}

fn sample(at: Instant, rules: &[Value]) -> Sample {
    let rules = serde_json::from_value(rules.into()).expect("rules");
    Sample { at, rules, status: crate::api::view::StatusView::default() }
}

/// Two rules that carry, seen twice, two seconds apart.
fn busy(start: Instant) -> Model {
    let mut model = Model::new(Duration::from_secs(1));
    model.take(sample(start, &[rule("quiet", 0, 0), rule("busy", 1000, 7)]));
    model.take(sample(start + Duration::from_secs(2), &[rule("quiet", 0, 0), rule("busy", 251_000, 17)]));
    model
}

fn screen_with(model: &mut Model, (width, height): (u16, u16), paint: Paint, now: Instant) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("terminal");
    let drawn = terminal.draw(|frame| {
        model.fit(draw::room(frame.area()));
        draw::all(frame, model, paint, now);
    });
    drawn.expect("drawn");
    terminal.backend().clone()
}

fn screen(model: &mut Model, size: (u16, u16), now: Instant) -> Vec<String> {
    let text = screen_with(model, size, PLAIN, now).to_string();
    text.lines().map(|line| line.trim_matches('"').trim_end().to_owned()).collect()
}

fn press(model: &mut Model, keys: &str) -> Step {
    let press = |letter| {
        let code = match letter {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            letter => KeyCode::Char(letter),
        };
        model.press(KeyEvent::new(code, KeyModifiers::NONE))
    };
    keys.chars().map(press).last().unwrap_or(Step::GoOn)
}

#[test]
fn rates_are_what_was_counted_in_between() {
    let start = Instant::now();
    let mut model = busy(start);
    let shown = screen(&mut model, (80, 24), start);
    assert_eq!(shown.len(), 24);
    let columns: Vec<&str> = shown[2].split_whitespace().collect();
    assert_eq!(
        columns,
        ["RULE", "IN", "b/s", "OUT", "b/s", "FLOWS", "NEW/s", "DROP/s", "BACKENDS", "STATE", "TREND↓"]
    );
    // 250,000 bytes in two seconds are a million bits a second
    let first: Vec<&str> = shown[3].split_whitespace().collect();
    assert_eq!(first, ["busy", "1.00M", "2.00M", "4", "12.5k", "5.0", "1/2", "up", "active", "█"]);
    assert!(shown[4].starts_with("quiet") && shown[5].is_empty(), "{shown:?}");
    assert!(shown[0].contains("in 1.00Mb/s  out 2.00Mb/s"), "{shown:?}");
}

#[test]
fn counters_that_begin_anew_are_no_traffic() {
    let start = Instant::now();
    let mut model = busy(start);
    model.take(sample(start + Duration::from_secs(3), &[rule("busy", 10, 0)]));
    let rates = model.rows[0].rates.as_ref().expect("rates");
    assert_eq!((rates.bits, rates.all_drops(), rates.new_flows), ([0.0; 2], 0.0, 0.0));
    assert_eq!(model.rows.len(), 1, "a rule that has gone");
}

#[test]
fn keys_sort_filter_and_choose() {
    let start = Instant::now();
    let mut model = busy(start);
    let names =
        |model: &Model| -> Vec<String> { model.shown().iter().map(|row| row.view.name.clone()).collect() };
    assert_eq!(names(&model), ["busy", "quiet"]);
    press(&mut model, "nr");
    assert_eq!(names(&model), ["quiet", "busy"]);
    press(&mut model, "/bu");
    assert!(screen(&mut model, (80, 24), start)[23].starts_with("/bu_"), "what is typed is shown");
    press(&mut model, "\n");
    assert_eq!(names(&model), ["busy"]);
    assert_eq!(model.selection().map(|row| row.view.name.as_str()), Some("busy"));
    press(&mut model, "/zz\n");
    assert!(screen(&mut model, (80, 24), start)[3].contains("no rule has that"));
    press(&mut model, "\u{1b}jj");
    assert_eq!(model.selected.as_deref(), Some("busy"), "the list ends there");
    assert_eq!(press(&mut model, "q"), Step::Quit);
    let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
    assert_eq!((model.press(control('c')), model.press(control('z'))), (Step::Quit, Step::Suspend));
}

#[test]
fn a_rule_is_shown_in_full() {
    let start = Instant::now();
    let mut model = busy(start);
    model.selected = Some("busy".into());
    press(&mut model, "\n");
    let shown = screen(&mut model, (80, 24), start).join("\n");
    for text in [
        "tcp :80  IPv4 kernel/tc, IPv6 none",
        "flows: 4 active, 12.5k new a second, 25100 in all",
        "in: 1.00Mb/s, 1.25k p/s; at most 1.00Mb/s; 245.1 KiB in 2510 packets",
        "10.0.0.9:80  up            75%      3   12.5k       0",
        "10.0.0.8:80  down          25%      1       0       0",
        "no_route                         17      5.0",
    ] {
        assert!(shown.contains(text), "{text} is not in\n{shown}");
    }
    press(&mut model, "\u{1b}");
    assert_eq!(model.mode, Mode::List);
    press(&mut model, "?");
    assert!(screen(&mut model, (80, 24), start).join("\n").contains("Ctrl-Z"));
}

#[test]
fn many_backends_can_be_scrolled_and_a_rule_that_goes_takes_its_details_along() {
    let start = Instant::now();
    let mut model = Model::new(Duration::from_secs(1));
    let mut many = rule("many", 0, 1);
    let backends = (0..100).map(|at| json!({ "addr": format!("10.0.1.{at}:80"), "weight": 1, "state": "up", "flows": { "active": 0, "total": 0 } }));
    many["to"] = backends.collect();
    model.take(sample(start, &[many, rule("other", 0, 0)]));
    press(&mut model, "jk\n");
    let page = |model: &mut Model, code| {
        model.press(KeyEvent::new(code, KeyModifiers::NONE));
        screen(model, (80, 24), start).join("\n")
    };
    let first = screen(&mut model, (80, 24), start).join("\n");
    assert!(first.contains("10.0.1.0:80") && !first.contains("10.0.1.15:80"), "{first}");
    let second = page(&mut model, KeyCode::PageDown);
    assert!(!second.contains("10.0.1.0:80") && second.contains("10.0.1.15:80"), "{second}");
    for _ in 0..20 {
        page(&mut model, KeyCode::PageDown);
    }
    let last = screen(&mut model, (80, 24), start).join("\n");
    assert!(last.contains("10.0.1.99:80") && last.contains("no_route"), "{last}");
    model.take(sample(start + Duration::from_secs(1), &[rule("other", 0, 0)]));
    assert_eq!(model.mode, Mode::List);
}

#[test]
fn a_relayd_that_has_gone_is_said_and_comes_back() {
    let start = Instant::now();
    let mut model = busy(start);
    model.lose("it is gone".into(), start);
    model.lose("it is gone".into(), start + Duration::from_secs(1));
    let shown = screen(&mut model, (80, 24), start + Duration::from_secs(5));
    assert_eq!(shown[1], "no answer for 5 s, trying again: it is gone");
    assert!(shown[3].starts_with("busy"), "what was known is there: {shown:?}");
    model.take(sample(start + Duration::from_secs(6), &[rule("busy", 500_000, 17)]));
    let shown = screen(&mut model, (80, 24), start);
    assert!(!shown[1].contains("no answer") && shown[3].contains(" - "), "{shown:?}");
}

#[test]
fn nothing_moves_while_it_is_paused() {
    let start = Instant::now();
    let mut model = busy(start);
    press(&mut model, "p");
    let before = screen(&mut model, (80, 24), start);
    assert!(before[1].starts_with("paused"), "{before:?}");
    model.take(sample(start + Duration::from_secs(3), &[rule("busy", 900_000, 17)]));
    assert_eq!(screen(&mut model, (80, 24), start), before);
    press(&mut model, "p+");
    assert_eq!(model.interval, Duration::from_secs(2));
}

#[test]
fn every_size_and_many_rules_can_be_drawn() {
    let start = Instant::now();
    let mut model = Model::new(Duration::from_secs(1));
    for second in 0..3 {
        let rules: Vec<Value> =
            (0..500).map(|number| rule(&format!("rule-{number:03}"), second * number, 0)).collect();
        model.take(sample(start + Duration::from_secs(second), &rules));
    }
    for keys in ["", "n", "\n", "\u{1b}?", "?/r", "\n"] {
        press(&mut model, keys);
        for width in [1, 7, 20, 79, 80, 200] {
            for height in [0, 1, 2, 3, 5, 24, 60] {
                assert_eq!(screen(&mut model, (width, height), start).len(), usize::from(height));
            }
        }
    }
    model.selected = Some("rule-499".into());
    let shown = screen(&mut model, (80, 24), start);
    assert!(shown[22].starts_with("rule-499"), "the selection is in sight: {shown:?}");
}

#[test]
fn without_colours_there_are_none() {
    let start = Instant::now();
    let mut model = busy(start);
    model.lose("it is gone".into(), start);
    let colours = |model: &mut Model, coloured| {
        let backend = screen_with(model, (80, 24), Paint { coloured }, start);
        backend.buffer().content.iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert_eq!(colours(&mut model, false), 0);
    assert!(colours(&mut model, true) > 0);
}
