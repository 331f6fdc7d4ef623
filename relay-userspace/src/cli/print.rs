//! What `relayctl` prints for people and for `cut`.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;
use similar::TextDiff;

use super::args::Format;
use super::{backends, quotas};
use crate::api::view::{
    ChangeView, DownView, ExplainView, InterfaceView, RuleChange, RuleView, StatusView, age,
};

pub use crate::api::view::size;

/// All rules.
pub fn rules(rules: &[RuleView], format: Format) -> String {
    match format {
        Format::Tsv => rules_tsv(rules),
        Format::Json => json(&rules),
        Format::Table | Format::Wide if rules.is_empty() => {
            "no rules yet; add one: relayctl add 8388 203.0.113.10:8388\n".into()
        }
        Format::Table | Format::Wide => rules_table(rules, format == Format::Wide),
    }
}

/// Values with tabs between as a spreadsheet takes them (RFC 4180).
pub fn csv(tsv: &str) -> String {
    let field = |field: &str| {
        if field.contains([',', '"', '\r']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.to_owned()
        }
    };
    tsv.lines().map(|line| line.split('\t').map(field).collect::<Vec<_>>().join(",") + "\n").collect()
}

pub fn json<T: serde::Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn rules_table(rules: &[RuleView], wide: bool) -> String {
    let mut heads = vec!["NAME", "LISTEN", "PROTO", "TO", "IPV4", "IPV6", "STATE", "FLOWS", "IN", "OUT"];
    if wide {
        heads.extend(["TOTAL FLOWS", "PACKETS IN", "PACKETS OUT", "DROPS", "NOTE", "EVER IN", "EVER OUT"]);
    }
    let has_tunnels = rules.iter().any(has_tunnel);
    if has_tunnels {
        heads.push("TRANSPORT");
    }
    let mut table = plain_table();
    table.set_header(heads);
    for rule in rules {
        let counters = &rule.counters;
        let mut row = vec![
            rule.name.clone(),
            rule.listen.join(","),
            rule.protocol.clone(),
            if wide { backends::all(rule) } else { backends::first(rule) },
            rule.plane.ipv4.short(),
            rule.plane.ipv6.short(),
            rule.state.clone(),
            counters.flows.active.to_string(),
            size(counters.ingress.bytes),
            size(counters.egress.bytes),
        ];
        if wide {
            row.extend([
                counters.flows.total.to_string(),
                counters.ingress.packets.to_string(),
                counters.egress.packets.to_string(),
                counters.drops.values().sum::<u64>().to_string(),
                rule.note.clone().unwrap_or_default(),
                size(counters.lifetime.ingress.bytes),
                size(counters.lifetime.egress.bytes),
            ]);
        }
        if has_tunnels {
            row.push(format!("{} > {}", rule.accept.transport, rule.connect.transport));
        }
        table.add_row(row);
    }
    for index in (7..10).chain(10..if wide { 14 } else { 10 }) {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = lines(&table);
    let remarks = remarks(rules);
    if !remarks.is_empty() {
        let _infallible = write!(text, "\n{remarks}");
    }
    text
}

fn has_tunnel(rule: &RuleView) -> bool {
    !rule.accept.is_plain() || !rule.connect.is_plain()
}

/// Columns without lines.
pub(super) fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Names that are spelled out before the rest is counted.
const MOST_NAMES: usize = 3;

/// Why rules are not carried, or not by a faster plane, and which backends are down: each reason once, with the rules
/// that it holds for.
fn remarks(rules: &[RuleView]) -> String {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for rule in rules.iter().filter(|rule| rule.enabled) {
        let families = [("IPv4", &rule.plane.ipv4), ("IPv6", &rule.plane.ipv6)].into_iter();
        let planes = families.filter_map(|(family, plane)| {
            let reason = plane.reason.as_ref().filter(|_| rule.faults.is_empty())?;
            Some(format!("{family} {}: {reason}", plane.short()))
        });
        for text in planes.chain(rule.faults.iter().cloned()).chain(backends::complaints(rule)) {
            match reasons.iter_mut().find(|(known, _)| *known == text) {
                Some((_, names)) => names.push(&rule.name),
                None => reasons.push((text, vec![&rule.name])),
            }
        }
    }
    reasons.iter().map(|(text, names)| format!("{}: {text}\n", names_of(names, rules.len()))).collect()
}

fn names_of(names: &[&str], all: usize) -> String {
    match names.len() {
        count if count == all && all > 1 => "all rules".into(),
        count if count > MOST_NAMES => {
            format!("{} and {} more", names[..MOST_NAMES].join(", "), count - MOST_NAMES)
        }
        _ => names.join(", "),
    }
}

/// A table without the blanks at the ends of its lines.
pub(super) fn lines(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        text.push('\n');
    }
    text
}

fn rules_tsv(rules: &[RuleView]) -> String {
    let mut text = String::from(
        "name\tlisten\tprotocol\tto\tipv4\tipv6\tstate\tflows_active\tflows_total\tingress_packets\tingress_bytes\tegress_packets\tegress_bytes\tdrops\tnote\taccept\tconnect\n",
    );
    for rule in rules {
        let counters = &rule.counters;
        let _infallible = writeln!(
            text,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            rule.name,
            rule.listen.join(","),
            rule.protocol,
            backends::all(rule),
            rule.plane.ipv4.short(),
            rule.plane.ipv6.short(),
            rule.state,
            counters.flows.active,
            counters.flows.total,
            counters.ingress.packets,
            counters.ingress.bytes,
            counters.egress.packets,
            counters.egress.bytes,
            counters.drops.values().sum::<u64>(),
            rule.note.as_deref().unwrap_or(""),
            rule.accept.transport,
            rule.connect.transport,
        );
    }
    text
}

/// One rule, a fact per line.
pub fn rule(rule: &RuleView, format: Format) -> String {
    match format {
        Format::Json => return json(rule),
        Format::Tsv => return rules_tsv(std::slice::from_ref(rule)),
        Format::Table | Format::Wide => {}
    }
    let counters = &rule.counters;
    let mut facts: Vec<(&str, String)> = vec![("name", rule.name.clone())];
    facts.extend(rule.note.clone().map(|note| ("note", note)));
    facts.push(("listen", rule.listen.join(", ")));
    facts.push(("protocol", rule.protocol.clone()));
    let legs = [("accept", &rule.accept), ("connect", &rule.connect)].into_iter();
    facts.extend(legs.filter(|(_, leg)| !leg.is_plain()).map(|(name, leg)| (name, leg.sentence())));
    facts.extend(backends::facts(rule));
    if backends::are_shared(rule) {
        facts.push(("balance", rule.balance.clone()));
    }
    if !rule.rate.is_empty() {
        let rates: Vec<String> = rule.rate.iter().map(|(way, rate)| format!("{rate} {way}")).collect();
        facts.push(("rate", rates.join(", ")));
    }
    facts.extend(rule.quota.as_ref().map(|quota| ("quota", quotas::sentence(quota))));
    facts.extend(rule.expires.as_ref().map(|expires| ("expires", quotas::end(expires))));
    facts.extend(rule.group.clone().map(|group| ("group", group)));
    facts.push(("state", rule.state.clone()));
    facts.extend(rule.faults.iter().map(|fault| ("fault", fault.clone())));
    for (family, plane) in [("ipv4", &rule.plane.ipv4), ("ipv6", &rule.plane.ipv6)] {
        let reason = plane.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        facts.push((family, format!("{}{reason}", plane.short())));
    }
    for (direction, traffic) in [("ingress", counters.ingress), ("egress", counters.egress)] {
        facts.push((direction, format!("{} in {} packets", size(traffic.bytes), traffic.packets)));
    }
    facts.push(("flows", format!("{} active, {} in all", counters.flows.active, counters.flows.total)));
    let ever = &counters.lifetime;
    let (ingress, egress) = (size(ever.ingress.bytes), size(ever.egress.bytes));
    facts.push(("lifetime", format!("{ingress} in, {egress} out, {} flows", ever.flows)));
    facts.extend(counters.drops.iter().map(|(reason, count)| ("drops", format!("{count} {reason}"))));
    aligned(&facts)
}

/// A rule's backends.
pub fn backends_of(rule: &RuleView, format: Format) -> String {
    match format {
        Format::Json => json(&rule.to),
        Format::Tsv => backends::tsv(rule),
        Format::Table | Format::Wide => backends::table(rule),
    }
}

fn facts_in(facts: &[(&str, String)], format: Format) -> String {
    match format {
        Format::Tsv => facts.iter().map(|(name, value)| format!("{name}\t{value}\n")).collect(),
        Format::Table | Format::Wide | Format::Json => aligned(facts),
    }
}

pub fn aligned(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

pub fn explain(view: &ExplainView, format: Format) -> String {
    if format == Format::Json {
        return json(view);
    }
    let mut text = format!("rule {} is {} (kept in {})\n", view.rule.name, view.rule.state, view.origin);
    for line in &view.lines {
        let _infallible = writeln!(text, "  {line}");
    }
    text
}

pub fn status(view: &StatusView, format: Format) -> String {
    if format == Format::Json {
        return json(view);
    }
    let mut facts = vec![
        ("relayd", format!("{} (pid {}), up {}", view.version, view.pid, age(view.uptime_seconds))),
        ("config", view.config.clone().unwrap_or_else(|| "command line".into())),
    ];
    facts.push(match (&view.kernel.reason, &view.kernel.hook) {
        (Some(reason), _) => ("kernel", format!("not used: {reason}")),
        (None, hook) => {
            let adopted = if view.kernel.adopted { ", flows of the last run taken over" } else { "" };
            ("kernel", format!("forwarding at {}{adopted}", hook.as_deref().unwrap_or("tc")))
        }
    });
    let full = view.kernel.full.iter();
    facts.extend(full.map(|(table, text)| ("full", format!("the kernel plane's table {table}: {text}"))));
    facts.extend(view.interfaces.iter().map(|interface| ("interface", interface_line(interface))));
    let traffic = &view.traffic;
    facts.push((
        "traffic",
        format!(
            "{} over interfaces, {} of it of no rule",
            size(traffic.interface_bytes),
            size(traffic.unexplained_bytes)
        ),
    ));
    let flows = &view.flows;
    facts.push((
        "flows",
        format!(
            "{} tcp, {} udp of {} each; {} unproven",
            flows.tcp, flows.udp, flows.max_flows, flows.unproven
        ),
    ));
    let rules: Vec<String> = view.rules.iter().map(|(state, count)| format!("{count} {state}")).collect();
    facts.push(("rules", if rules.is_empty() { "none".into() } else { rules.join(", ") }));
    facts.push(match &view.reload.error {
        None => ("config read", format!("{} ago", age(view.reload.age_seconds))),
        Some(error) => ("config read", format!("{} ago, and refused: {error}", age(view.reload.age_seconds))),
    });
    facts.extend(view.sysctls.iter().map(|name| ("sysctl", format!("{name} (put back by `relayctl down`)"))));
    facts.extend(view.drops.iter().map(|(reason, count)| ("drops", format!("{count} {reason}"))));
    facts.extend((view.observers > 0).then(|| ("observers", view.observers.to_string())));
    facts.extend(
        view.unconfirmed_seconds
            .map(|left| ("apply", format!("undone in {left} s unless `relayctl confirm`"))),
    );
    facts_in(&facts, format)
}

/// What is attached to an interface, and what it has carried.
fn interface_line(interface: &InterfaceView) -> String {
    let xdp = interface.xdp.as_ref().map(|xdp| format!(", xdp {xdp}")).unwrap_or_default();
    let paced = if interface.paced { ", fq" } else { "" };
    let uncounted = interface.uncounted.as_ref();
    let uncounted = uncounted.map(|why| format!(", what leaves is not counted: {why}")).unwrap_or_default();
    let carried = interface
        .lifetime
        .as_ref()
        .map(|lifetime| format!(", {} in, {} out", size(lifetime.received.bytes), size(lifetime.sent.bytes)));
    let carried = carried.unwrap_or_default();
    format!("{}: {}{xdp}{paced}{carried}{uncounted}", interface.name, interface.tc)
}

/// What a change did, as a difference between rules.
pub fn change(view: &ChangeView, format: Format) -> String {
    if format == Format::Json {
        return json(view);
    }
    let mut text = String::new();
    if format == Format::Tsv {
        let rules = view.changes.iter().map(|change| format!("{}\t{}\n", change.action, change.name));
        let alerts = view.alerts.iter().map(|change| format!("{}\t{}\talert\n", change.action, change.name));
        return rules.chain(alerts).collect();
    }
    for change in &view.changes {
        text += &difference(change);
    }
    for change in &view.alerts {
        let _infallible = writeln!(text, "alert {} {}", change.name, change.action);
    }
    let is_nothing = view.changes.is_empty() && view.alerts.is_empty();
    match &view.saved {
        Some(path) => {
            let _infallible = writeln!(text, "saved in {path}");
        }
        None if is_nothing => text += "nothing to change\n",
        None => {}
    }
    for note in &view.notes {
        let _infallible = writeln!(text, "note: {note}");
    }
    if view.dry_run && !is_nothing {
        text += "(dry run: nothing was changed)\n";
    }
    text
}

/// What `relayctl down` took off.
pub fn down(view: &DownView, format: Format) -> String {
    if format == Format::Json {
        return json(view);
    }
    let (done, back) =
        if view.dry_run { ("would be removed", "would be put back") } else { ("removed", "put back") };
    let mut text = match (view.hooks, view.pins) {
        (0, 0) => "nothing is attached\n".to_owned(),
        (hooks, pins) => format!("{hooks} hooks and {pins} pins {done}\n"),
    };
    text.extend(view.sysctls.iter().map(|name| format!("{back}: {name}\n")));
    text.extend(view.failed.iter().map(|what| format!("not removed: {what}\n")));
    if view.dry_run {
        text += "(dry run: nothing was changed)\n";
    }
    text
}

fn difference(change: &RuleChange) -> String {
    if let Some(backend) = &change.backend {
        let action = match change.action.as_str() {
            "draining" => "drains: no new flows, old ones go on",
            "down" => "is down by order",
            "up" => "is judged by its answers again",
            action => action,
        };
        return format!("rule {}: backend {backend} {action}\n", change.name);
    }
    let block = |rule: &Option<serde_json::Map<String, Value>>| -> String {
        let entries = rule.iter().flatten();
        entries
            .map(|(key, value)| format!("{key} = {}\n", crate::config::encode::toml_value(value)))
            .collect()
    };
    let (before, after) = (block(&change.before), block(&change.after));
    let action = match change.action.as_str() {
        "draining" => "drains: no new flows, old ones go on",
        "resumed" => "takes new flows again",
        action => action,
    };
    let kind = if change.is_group { "group" } else { "rule" };
    let mut text = format!("{kind} {} {action}\n", change.name);
    if change.action == "changed" {
        for line in TextDiff::from_lines(&before, &after).iter_all_changes() {
            if line.tag() != similar::ChangeTag::Equal {
                let _infallible = write!(text, "  {} {line}", line.tag());
            }
        }
    }
    text
}

/// Columns of the terminal; 80 where there is none.
pub fn width() -> usize {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one `winsize`, which lives on this stack
    let asked = unsafe { window_size(nix::libc::STDOUT_FILENO, &raw mut size) };
    if asked.is_ok() && size.ws_col > 0 { usize::from(size.ws_col) } else { 80 }
}

/// Clears a terminal before a repeated output.
pub fn clear() -> &'static str {
    if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::LegView;

    #[test]
    fn transports_are_shown_where_a_rule_has_one() {
        let leg = |transport: &str, path: &str| LegView {
            transport: transport.into(),
            path: Some(path.into()),
            ..LegView::default()
        };
        let rule = |name: &str, connect| {
            let traffic = serde_json::json!({ "packets": 0, "bytes": 0 });
            let value = serde_json::json!({
                "name": name, "listen": [":80"], "protocol": "tcp", "to": [{ "addr": "a:1", "weight": 1, "state": "up" }],
                "enabled": true, "state": "active", "plane": { "ipv4": { "plane": "user" }, "ipv6": { "plane": "user" } },
                "counters": { "unit": "ip", "ingress": traffic, "egress": traffic,
                    "flows": { "active": 0, "total": 0 }, "drops": {} },
            });
            RuleView { connect, ..serde_json::from_value(value).expect("rule") }
        };
        let (plain, tunnel) = (rule("a", LegView::default()), rule("b", leg("wss", "/ws")));
        assert!(!rules(std::slice::from_ref(&plain), Format::Table).contains("TRANSPORT"));
        let both = [plain, tunnel];
        let table = rules(&both, Format::Table);
        let ends: Vec<&str> = table.lines().filter_map(|line| line.rsplit("  ").next()).collect();
        assert_eq!(ends, ["TRANSPORT", "plain > plain", "plain > wss"], "{table}");
        assert!(rules(&both, Format::Tsv).ends_with("\tplain\twss\n"));
        assert!(super::rule(&both[1], Format::Table).contains("connect   wss, path /ws\n"));
        assert!(!super::rule(&both[1], Format::Table).contains("accept"));
    }

    #[test]
    fn facts_line_up() {
        assert_eq!(aligned(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2\n");
    }

    #[test]
    fn commas_and_quotes_stay_in_their_field() {
        assert_eq!(
            csv("name\tnote\nweb\tfor \"us\", and them\n"),
            "name,note\nweb,\"for \"\"us\"\", and them\"\n"
        );
    }
}
