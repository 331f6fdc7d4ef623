//! `relayctl history`: rows, a bill, and a picture of them.

use std::fmt::Write as _;

use super::args::{Format, History};
use super::print::{json, lines, plain_table, size};
use crate::accounting::amounts::Amounts;
use crate::accounting::bill::billed;
use crate::accounting::calendar::Step;
use crate::api::view::{AccountView, HistoryRowView, HistoryView, PortView};

/// The path to ask relayd for.
pub fn path(name: &str, history: &History) -> String {
    let by = history.by;
    let by =
        clap::ValueEnum::to_possible_value(&by).map(|value| value.get_name().to_owned()).unwrap_or_default();
    let times = [("since", &history.since), ("until", &history.until)].into_iter();
    let times = times.filter_map(|(key, time)| Some(format!("&{key}={}", time.as_ref()?)));
    let port = history.port.map(|port| format!("&port={port}")).unwrap_or_default();
    format!("/v1/rules/{name}/history?by={by}{port}{}", times.collect::<String>())
}

/// All accounts.
pub fn accounts(views: &[AccountView], format: Format) -> String {
    match format {
        Format::Json => return json(&views),
        Format::Tsv => {
            let line = |view: &AccountView| {
                let lifetime = view.lifetime;
                format!(
                    "{}\t{}\t{}\t{}\n",
                    view.rule, lifetime.ingress.bytes, lifetime.egress.bytes, lifetime.flows
                )
            };
            return "rule\tingress_bytes\tegress_bytes\tflows\n".to_owned()
                + &views.iter().map(line).collect::<String>();
        }
        Format::Table | Format::Wide => {}
    }
    let mut table = plain_table();
    table.set_header(["NAME", "IN", "OUT", "FLOWS"]);
    for view in views {
        let lifetime = view.lifetime;
        let (ingress, egress) = (size(lifetime.ingress.bytes), size(lifetime.egress.bytes));
        table.add_row([view.rule.clone(), ingress, egress, lifetime.flows.to_string()]);
    }
    lines(&table)
}

/// What a rule's ports have carried.
pub fn ports(views: &[PortView], format: Format) -> String {
    match format {
        Format::Json => return json(&views),
        Format::Tsv => {
            let line = |view: &PortView| {
                let lifetime = view.lifetime;
                format!("{}\t{}\t{}\n", view.port, lifetime.ingress.bytes, lifetime.egress.bytes)
            };
            return "port\tingress_bytes\tegress_bytes\n".to_owned()
                + &views.iter().map(line).collect::<String>();
        }
        Format::Table | Format::Wide => {}
    }
    if views.is_empty() {
        return "no port has carried anything; `relayctl set NAME count_ports=true` has each counted from then on\n".into();
    }
    let mut table = plain_table();
    table.set_header(["PORT", "IN", "OUT"]);
    for view in views {
        let lifetime = view.lifetime;
        table.add_row([view.port.to_string(), size(lifetime.ingress.bytes), size(lifetime.egress.bytes)]);
    }
    lines(&table)
}

/// One rule's history as it was asked for.
pub fn show(view: &HistoryView, history: &History, format: Format, width: usize) -> String {
    match format {
        Format::Json => json(view),
        Format::Tsv => values(view, history),
        Format::Table | Format::Wide if history.plot => plot(view, width),
        Format::Table | Format::Wide => statement(view, history),
    }
}

fn bill(row: &HistoryRowView, history: &History) -> u64 {
    billed(&row.amounts.into(), history.count, history.factor)
}

fn values(view: &HistoryView, history: &History) -> String {
    let heads = [
        "time",
        "start",
        "ingress_bytes",
        "ingress_packets",
        "egress_bytes",
        "egress_packets",
        "flows",
        "billed_bytes",
    ];
    let mut text = heads.join("\t") + "\n";
    for row in &view.rows {
        let numbers = std::iter::once(row.start).chain(Amounts::from(row.amounts).to_array());
        let numbers = numbers.chain([bill(row, history)]).map(|number| format!("\t{number}"));
        let _infallible = writeln!(text, "{}{}", row.time, numbers.collect::<String>());
    }
    text
}

/// Rows and their sum.
fn statement(view: &HistoryView, history: &History) -> String {
    if view.rows.is_empty() {
        return format!("rule {} had no traffic in that time\n", view.rule);
    }
    let mut table = plain_table();
    table.set_header(["TIME (UTC)", "IN", "OUT", "FLOWS", "BILLED"]);
    let (mut sum, mut sum_billed) = (Amounts::default(), 0_u64);
    for row in &view.rows {
        let amounts = Amounts::from(row.amounts);
        let billed = bill(row, history);
        sum += amounts;
        sum_billed = sum_billed.saturating_add(billed);
        table.add_row(cells(row.time.clone(), &amounts, billed));
    }
    table.add_row(cells("total".into(), &sum, sum_billed));
    lines(&table)
}

fn cells(head: String, amounts: &Amounts, billed: u64) -> [String; 5] {
    [head, size(amounts.ingress_bytes), size(amounts.egress_bytes), amounts.flows.to_string(), size(billed)]
}

/// A bar for each row that there is, the longest as wide as there is room.
fn plot(view: &HistoryView, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let most = view.rows.iter().map(both).max().unwrap_or(0).max(1);
    let heads = if matches!(view.by, Step::Minute | Step::Hour) { 16 } else { 10 };
    let room = u64::try_from(width.saturating_sub(heads + 14).max(8)).unwrap_or(8);
    let mut text = String::new();
    for row in &view.rows {
        let eighths = u128::from(both(row)) * u128::from(room) * 8 / u128::from(most);
        let whole = usize::try_from(eighths / 8).unwrap_or(0);
        let rest =
            usize::try_from(eighths % 8).ok().and_then(|index| EIGHTHS.get(index)).copied().unwrap_or(' ');
        let bar = format!("{}{rest}", "█".repeat(whole));
        let _infallible = writeln!(text, "{:heads$} {:>10}  {}", row.time, size(both(row)), bar.trim_end());
    }
    text
}

fn both(row: &HistoryRowView) -> u64 {
    row.amounts.ingress.bytes.saturating_add(row.amounts.egress.bytes)
}

/// A picture for a browser: a column a row, what came in below, what went out on top of it.
pub fn svg(view: &HistoryView) -> String {
    const COLUMN: usize = 12;
    const HEIGHT: u64 = 200;
    let most = u128::from(view.rows.iter().map(both).max().unwrap_or(0).max(1));
    let tall = |bytes: u64| u64::try_from(u128::from(bytes) * u128::from(HEIGHT) / most).unwrap_or(HEIGHT);
    let width = (view.rows.len() * COLUMN).max(200);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {}\" font-family=\"sans-serif\" font-size=\"10\">\n\
         <text x=\"2\" y=\"12\">{}: ingress (blue) and egress (orange), at most {}</text>\n",
        HEIGHT + 24,
        view.rule,
        size(view.rows.iter().map(both).max().unwrap_or(0)),
    );
    for (index, row) in view.rows.iter().enumerate() {
        let (ingress, egress) = (tall(row.amounts.ingress.bytes), tall(row.amounts.egress.bytes));
        let mut foot = HEIGHT + 20;
        for (part, colour) in [(ingress, "#4878a8"), (egress, "#e08838")] {
            foot = foot.saturating_sub(part);
            let _infallible = writeln!(
                text,
                "<rect x=\"{}\" y=\"{foot}\" width=\"{}\" height=\"{part}\" fill=\"{colour}\"><title>{}: {}</title></rect>",
                index * COLUMN,
                COLUMN - 2,
                row.time,
                size(both(row)),
            );
        }
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn view() -> HistoryView {
        let row = |start, bytes| {
            let amounts = Amounts { ingress_bytes: bytes, egress_bytes: 3 * bytes, ..Amounts::default() };
            HistoryRowView { start, time: Step::Month.label(start), amounts: amounts.into() }
        };
        let rows = vec![row(1_790_812_800, 1024), row(1_793_491_200, 512)];
        HistoryView { rule: "a".into(), by: Step::Month, rows, ..HistoryView::default() }
    }

    fn asked(line: &str) -> History {
        match Cli::parse_from(line.split(' ')).command {
            Command::History(history) => history,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn a_months_statement_is_a_bill() {
        let asked = asked("relayctl history a --by month --count max --factor 2 --since 90d");
        assert_eq!(path("a", &asked), "/v1/rules/a/history?by=month&since=90d");
        let text = show(&view(), &asked, Format::Table, 80);
        let last: Vec<&str> = text.lines().last().unwrap_or("").split_whitespace().collect();
        assert_eq!(last, ["total", "1.5", "KiB", "4.5", "KiB", "0", "9.0", "KiB"], "{text}");
        let rows = show(&view(), &asked, Format::Tsv, 80);
        assert_eq!(rows.lines().nth(1), Some("2026-10\t1790812800\t1024\t0\t3072\t0\t0\t6144"));
    }

    #[test]
    fn pictures_are_in_proportion() {
        let text = show(&view(), &asked("relayctl history a --by month --plot"), Format::Table, 40);
        let bars: Vec<usize> = text.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(bars, [16, 8], "{text}");
        let svg = svg(&view());
        assert_eq!(svg.matches("<rect").count(), 4);
        assert!(svg.contains("height=\"150\""), "{svg}");
    }
}
