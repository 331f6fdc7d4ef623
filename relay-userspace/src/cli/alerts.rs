//! `relayctl alert`: how alerts are doing, and what came of a test.

use super::args::Format;
use super::print::{json, lines, plain_table};
use crate::accounting::calendar;
use crate::api::view::{AlertTestView, AlertView, age};

/// All alerts.
pub fn list(alerts: &[AlertView], format: Format) -> String {
    match format {
        Format::Json => json(&alerts),
        Format::Tsv => alerts.iter().map(row).collect(),
        Format::Table | Format::Wide if alerts.is_empty() => {
            "no alerts; write an [[alert]] into relay.toml, see `man relay.toml`\n".into()
        }
        Format::Table | Format::Wide => table(alerts),
    }
}

fn table(alerts: &[AlertView]) -> String {
    let mut table = plain_table();
    table.set_header([
        "NAME",
        "KIND",
        "EVENTS",
        "RULES",
        "DIGEST",
        "WAITING",
        "SENT",
        "FAILED",
        "DROPPED",
        "LAST ERROR",
    ]);
    let now = calendar::now();
    for alert in alerts {
        let ago = alert.last_error_time.map(|time| format!("{} ago: ", age(now.saturating_sub(time))));
        let error = alert.last_error.as_ref().map(|error| ago.unwrap_or_default() + error);
        table.add_row([
            alert.name.clone(),
            alert.kind.clone(),
            alert.events.join(","),
            alert.rules.as_ref().map_or_else(|| "all".into(), |rules| rules.join(",")),
            alert.digest.clone().unwrap_or_default(),
            alert.waiting.to_string(),
            alert.sent.to_string(),
            alert.failed.to_string(),
            alert.dropped.to_string(),
            error.unwrap_or_default(),
        ]);
    }
    lines(&table)
}

/// Name, kind, events, rules, digest, waiting, sent, failed, dropped, time of the last error, last error.
fn row(alert: &AlertView) -> String {
    let columns = [
        alert.name.clone(),
        alert.kind.clone(),
        alert.events.join(","),
        alert.rules.as_ref().map(|rules| rules.join(",")).unwrap_or_default(),
        alert.digest.clone().unwrap_or_default(),
        alert.waiting.to_string(),
        alert.sent.to_string(),
        alert.failed.to_string(),
        alert.dropped.to_string(),
        alert.last_error_time.map(|time| time.to_string()).unwrap_or_default(),
        alert.last_error.clone().unwrap_or_default(),
    ];
    columns.join("\t") + "\n"
}

/// What came of tests.
pub fn tested(views: &[AlertTestView], format: Format) -> String {
    match format {
        Format::Json => json(&views),
        Format::Tsv => {
            let row = |view: &AlertTestView| {
                let result = if view.ok { "sent" } else { "failed" };
                let error = view.error.clone().unwrap_or_default();
                format!("{}\t{}\t{result}\t{}\t{error}\n", view.name, view.kind, view.ms)
            };
            views.iter().map(row).collect()
        }
        Format::Table | Format::Wide if views.is_empty() => "there are no alerts to test\n".into(),
        Format::Table | Format::Wide => {
            let line = |view: &AlertTestView| match &view.error {
                None => format!("{} ({}): sent, in {:.0} ms\n", view.name, view.kind, view.ms),
                Some(error) => format!("{} ({}): FAILED: {error}\n", view.name, view.kind),
            };
            views.iter().map(line).collect()
        }
    }
}
