//! `relayctl quota`: what is used of quotas, and when things end.

use comfy_table::CellAlignment;

use super::args::Format;
use super::print::{aligned, json, plain_table, size};
use crate::accounting::calendar::Step;
use crate::api::view::{ExpiryView, LedgerView, QuotaView, TermsView};

/// All rules and groups that have any.
pub fn all(terms: &[TermsView], format: Format) -> String {
    match format {
        Format::Json => return json(&terms),
        Format::Tsv => return terms.iter().map(tsv).collect(),
        Format::Table | Format::Wide if terms.is_empty() => {
            return "no rule and no group has a quota or an end\n".into();
        }
        Format::Table | Format::Wide => {}
    }
    let mut table = plain_table();
    table.set_header(["KIND", "NAME", "USED", "LIMIT", "%", "STATE", "RESETS", "EXPIRES"]);
    for column in [2, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for view in terms {
        let quota = view.quota.as_ref();
        let of = |value: fn(&QuotaView) -> String| quota.map_or_else(|| "-".into(), value);
        let expires = view.expires.as_ref().map_or_else(|| "-".into(), end);
        table.add_row([
            view.kind.clone(),
            view.name.clone(),
            of(|quota| size(quota.used_bytes)),
            of(|quota| size(quota.limit_bytes)),
            of(|quota| quota.percent.to_string()),
            of(|quota| quota.state.clone()),
            of(|quota| quota.until_text.clone().unwrap_or_else(|| "never".into())),
            expires,
        ]);
    }
    super::print::lines(&table)
}

/// One of them, with its past.
pub fn one(view: &TermsView, format: Format) -> String {
    match format {
        Format::Json => return json(view),
        Format::Tsv => return tsv(view),
        Format::Table | Format::Wide => {}
    }
    let mut facts = vec![(if view.kind == "group" { "group" } else { "rule" }, view.name.clone())];
    if view.kind == "group" {
        facts.push(("rules", view.rules.join(", ")));
    }
    if !view.rate.is_empty() {
        let rates: Vec<String> = view.rate.iter().map(|(way, rate)| format!("{rate} {way}")).collect();
        facts.push(("rate", rates.join(", ")));
    }
    facts.push(("quota", view.quota.as_ref().map_or_else(|| "none".into(), sentence)));
    facts.extend(view.expires.as_ref().map(|expires| ("expires", end(expires))));
    let mut text = aligned(&facts);
    if !view.ledger.is_empty() {
        let mut table = plain_table();
        table.set_header(["ENDED", "SINCE", "IN", "OUT", "WHY"]);
        view.ledger.iter().for_each(|row| _ = table.add_row(past(row)));
        text.push('\n');
        text += &super::print::lines(&table);
    }
    text
}

/// A quota in words: `12.0 GB of 500.0 GB used (2 %), both; then block; resets 2026-12-01 00:00 CST`.
pub fn sentence(quota: &QuotaView) -> String {
    let QuotaView { used_bytes, limit_bytes, percent, count, over, .. } = quota;
    let (used, limit) = (size(*used_bytes), size(*limit_bytes));
    let until =
        quota.until_text.as_ref().map_or_else(|| "never resets".into(), |until| format!("resets {until}"));
    let state = if quota.state == "open" { String::new() } else { format!(" {},", quota.state) };
    format!("{used} of {limit} used ({percent} %),{state} counts {count}, then {over}, {until}")
}

/// When something ends or has ended.
pub fn end(expires: &ExpiryView) -> String {
    let over = if expires.is_over { " (over)" } else { "" };
    format!("{}{over}", expires.at)
}

fn past(row: &LedgerView) -> [String; 5] {
    let time = |seconds: u64| if seconds == 0 { "-".into() } else { Step::Minute.label(seconds) };
    [time(row.at), time(row.since), size(row.ingress_bytes), size(row.egress_bytes), row.why.clone()]
}

fn tsv(view: &TermsView) -> String {
    let quota = view.quota.as_ref();
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let cells = [
        view.kind.clone(),
        view.name.clone(),
        number(quota.map(|quota| quota.used_bytes)),
        number(quota.map(|quota| quota.limit_bytes)),
        quota.map(|quota| quota.state.clone()).unwrap_or_default(),
        number(quota.and_then(|quota| quota.until)),
        view.expires.as_ref().map(|expires| expires.at.clone()).unwrap_or_default(),
    ];
    format!("{}\n", cells.join("\t"))
}
