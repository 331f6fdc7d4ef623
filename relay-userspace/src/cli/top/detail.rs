//! One rule in full: its way, its last minutes, its backends, what is refused.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::figures::{bars, rate};
use super::model::{Rates, Row};
use super::paint::Paint;
use crate::cli::print::size;

/// Lines that a graph is high.
const GRAPH: u16 = 3;

/// `scrolled`: how many lines of the tables are above the first that is shown.
pub fn draw(frame: &mut Frame<'_>, area: Rect, (row, scrolled): (&Row, usize), paint: Paint) {
    let facts = facts(row, paint);
    let lines = u16::try_from(facts.len()).unwrap_or(u16::MAX);
    let parts = [
        Constraint::Length(lines),
        Constraint::Length(GRAPH + 1),
        Constraint::Length(GRAPH + 1),
        Constraint::Min(0),
    ];
    let [top, ingress, egress, rest] = Layout::vertical(parts).areas(area);
    frame.render_widget(Paragraph::new(facts), top);
    graph(frame, ingress, row, (0, "in", paint.ingress()));
    graph(frame, egress, row, (1, "out", paint.egress()));
    let tables = backends(row, paint).chain(drops(row, paint)).collect::<Vec<_>>();
    let most = tables.len().saturating_sub(rest.height.into());
    let shown = tables.into_iter().skip(scrolled.min(most)).collect::<Vec<_>>();
    frame.render_widget(Paragraph::new(shown), rest);
}

fn facts(row: &Row, paint: Paint) -> Vec<Line<'static>> {
    let view = &row.view;
    let note = view.note.as_ref().map(|note| format!("  {note}")).unwrap_or_default();
    let mut lines = vec![
        Line::from(vec![
            Span::styled(view.name.clone(), paint.head()),
            Span::raw("  "),
            Span::styled(view.state.clone(), paint.state(&view.state)),
            Span::raw(note),
        ]),
        Line::raw(format!(
            "{} {}  IPv4 {}, IPv6 {}  {}",
            view.protocol,
            view.listen.join(","),
            view.plane.ipv4.short(),
            view.plane.ipv6.short(),
            view.balance,
        )),
    ];
    lines.extend(view.faults.iter().map(|fault| Line::styled(fault.clone(), paint.trouble())));
    let flows = view.counters.flows;
    let new = row.rates.as_ref().map_or("-".into(), |rates| rate(rates.new_flows));
    lines.push(Line::raw(format!(
        "flows: {} active, {new} new a second, {} in all",
        flows.active, flows.total
    )));
    lines
}

/// The last bits a second of one way, a column an answer.
fn graph(frame: &mut Frame<'_>, area: Rect, row: &Row, (way, name, style): (usize, &str, Style)) {
    let [title, plot] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let traffic = [row.view.counters.ingress, row.view.counters.egress][way];
    let most = row.history.iter().map(|both| both[way]).fold(0.0, f64::max);
    let of = |value: fn(&Rates) -> [f64; 2]| {
        row.rates.as_ref().map_or("-".into(), |rates| rate(value(rates)[way]))
    };
    let text = format!(
        "{name}: {}b/s, {} p/s; at most {}b/s; {} in {} packets",
        of(|rates| rates.bits),
        of(|rates| rates.packets),
        rate(most),
        size(traffic.bytes),
        traffic.packets,
    );
    frame.render_widget(Paragraph::new(text), title);
    // from the top: what is above this line's lower edge
    let lines = (0..plot.height).rev().map(|line| {
        let height = f64::from(plot.height);
        let above = row.history.iter().map(|both| both[way] / most.max(1.0) * height - f64::from(line));
        Line::styled(bars(above.map(|part| part.min(1.0)), plot.width.into(), 1.0), style)
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), plot);
}

fn backends(row: &Row, paint: Paint) -> impl Iterator<Item = Line<'static>> {
    let width = row.view.to.iter().map(|to| to.addr.len()).max().unwrap_or(0).max(8);
    let all: u64 = row.view.to.iter().map(|to| to.flows.active).sum();
    let head = format!(
        "{:width$}  {:10} {:>6} {:>6} {:>7} {:>7}",
        "BACKEND", "STATE", "SHARE", "FLOWS", "NEW/s", "FAILED"
    );
    let lines = row.view.to.iter().enumerate().map(move |(at, to)| {
        let share = (to.flows.active * 100).checked_div(all).map_or("-".into(), |share| format!("{share}%"));
        let new =
            row.rates.as_ref().and_then(|rates| rates.backends.get(at).copied()).map_or("-".into(), rate);
        let failures: u64 = to.judged().map(|(_, judged)| judged.failures).sum();
        Line::from(vec![
            Span::raw(format!("{:width$}  ", to.addr)),
            Span::styled(format!("{:10} ", to.state), paint.state(&to.state)),
            Span::raw(format!("{share:>6} {:>6} {new:>7} {:>7}", to.flows.active, failures + to.failed)),
        ])
    });
    std::iter::once(Line::styled(head, paint.head())).chain(lines)
}

fn drops(row: &Row, paint: Paint) -> impl Iterator<Item = Line<'static>> {
    let drops = &row.view.counters.drops;
    let head = (!drops.is_empty())
        .then(|| Line::styled(format!("{:24} {:>10} {:>8}", "DROPS", "IN ALL", "NOW/s"), paint.head()));
    let lines = drops.iter().map(move |(reason, count)| {
        let now = row.rates.as_ref().and_then(|rates| rates.drops.get(reason)).copied();
        let style = if now > Some(0.0) { paint.trouble() } else { Style::new() };
        Line::styled(format!("{reason:24} {count:>10} {:>8}", now.map_or("-".into(), rate)), style)
    });
    head.into_iter().chain(lines)
}
