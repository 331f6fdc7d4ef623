//! The screen, as the model has it.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

use super::columns::{Column, GAP, fit};
use super::detail;
use super::figures::{count, rate};
use super::keys::KEYS;
use super::model::{Link, Mode, Model, Row};
use super::paint::Paint;
use crate::api::view::age;

/// Lines of the screen that are no rules: two above, the columns' heads, one below.
const OTHER_LINES: u16 = 4;

/// Rules that there is room for.
pub fn room(screen: Rect) -> usize {
    screen.height.saturating_sub(OTHER_LINES).into()
}

pub fn all(frame: &mut Frame<'_>, model: &Model, paint: Paint, now: Instant) {
    let parts = [Constraint::Length(2), Constraint::Min(0), Constraint::Length(1)];
    let [top, middle, bottom] = Layout::vertical(parts).areas(frame.area());
    frame.render_widget(Paragraph::new(vec![summary(model), link(model, paint, now)]), top);
    match (model.mode, model.selection()) {
        (Mode::Help, _) => frame.render_widget(help(paint), middle),
        (Mode::Detail, Some(row)) => detail::draw(frame, middle, (row, model.scrolled), paint),
        _ => list(frame, middle, model, paint),
    }
    frame.render_widget(footer(model, paint), bottom);
}

/// What all of it comes to.
fn summary(model: &Model) -> Line<'static> {
    let status = &model.status;
    let rules: usize = status.rules.values().sum();
    let [ingress, egress] = model.all_bits();
    let flows: u64 = model.rows.iter().map(|row| row.view.counters.flows.active).sum();
    let noun = if rules == 1 { "rule" } else { "rules" };
    Line::raw(format!(
        "relayd {}, up {}  {rules} {noun}  {} flows  in {}b/s  out {}b/s",
        status.version,
        age(status.uptime_seconds),
        count(flows),
        rate(ingress),
        rate(egress),
    ))
}

/// Whether these figures are live; drops that no rule has.
fn link(model: &Model, paint: Paint, now: Instant) -> Line<'static> {
    if let Link::Lost { since, why } = &model.link {
        let seconds = now.saturating_duration_since(*since).as_secs();
        return Line::styled(format!("no answer for {}, trying again: {why}", age(seconds)), paint.trouble());
    }
    let mut spans = Vec::new();
    if model.paused {
        spans.push(Span::styled("paused (p goes on)  ", paint.trouble()));
    }
    if !model.filter.is_empty() || model.mode == Mode::Filter {
        spans.push(Span::styled(format!("only \"{}\"  ", model.filter), paint.head()));
    }
    let states = model.status.rules.iter().map(|(state, count)| format!("{count} {state}"));
    spans.push(Span::raw(states.collect::<Vec<_>>().join(", ")));
    let stray = model.stray_drops.iter().filter(|(_, drops)| **drops > 0.0);
    let stray: Vec<String> = stray.map(|(reason, drops)| format!("{reason} {}/s", rate(*drops))).collect();
    if !stray.is_empty() {
        spans.push(Span::styled(format!("  drops of no rule: {}", stray.join(", ")), paint.trouble()));
    }
    Line::from(spans)
}

fn list(frame: &mut Frame<'_>, area: Rect, model: &Model, paint: Paint) {
    let shown = model.shown();
    let longest = shown.iter().map(|row| row.view.name.len()).max().unwrap_or(0);
    let columns = fit(area.width, longest);
    let heads = columns.iter().map(|&(column, _)| cell(column, column.head(model.order), Style::new()));
    let head = TableRow::new(heads).style(paint.head());
    let selected = model.selection().map(|row| &row.view.name);
    let visible = shown.iter().skip(model.offset).take(area.height.saturating_sub(1).into());
    let rows = visible.map(|row| {
        let is_selected = selected == Some(&row.view.name);
        let cells = columns
            .iter()
            .map(|&(column, width)| cell(column, column.text(row, width), style(column, row, paint)));
        TableRow::new(cells).style(if is_selected { paint.selected() } else { Style::new() })
    });
    let widths = columns.iter().map(|&(_, width)| Constraint::Length(width));
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(GAP), area);
    if shown.is_empty() {
        let text = if model.rows.is_empty() { "no rules yet" } else { "no rule has that" };
        let below = Rect { y: area.y.saturating_add(1), height: 1, ..area }.intersection(area);
        frame.render_widget(Paragraph::new(text).style(paint.quiet()), below);
    }
}

fn cell(column: Column, text: String, style: Style) -> Cell<'static> {
    let alignment = if column.is_number() { Alignment::Right } else { Alignment::Left };
    Cell::from(Line::styled(text, style).alignment(alignment))
}

fn style(column: Column, row: &Row, paint: Paint) -> Style {
    match column {
        Column::State => paint.state(&row.view.state),
        Column::Backends => match row.usable_backends() {
            (usable, all) if usable < all => paint.trouble(),
            _ => Style::new(),
        },
        Column::Drops if row.rates.as_ref().is_some_and(|rates| rates.all_drops() > 0.0) => paint.trouble(),
        Column::Trend => paint.ingress(),
        _ => Style::new(),
    }
}

fn help(paint: Paint) -> Paragraph<'static> {
    let width = KEYS.iter().map(|(keys, _)| keys.chars().count()).max().unwrap_or(0);
    let lines = KEYS.iter().map(|(keys, what)| {
        let blanks = " ".repeat(width - keys.chars().count());
        Line::from(vec![
            Span::styled(format!("{keys}{blanks}"), paint.head()),
            Span::raw(format!("  {what}")),
        ])
    });
    let rest =
        "In and out: IP bytes from and to clients. FLOWS: live ones, NEW/s: opened, DROP/s: packets refused.";
    Paragraph::new(lines.chain([Line::raw(""), Line::styled(rest, paint.quiet())]).collect::<Vec<_>>())
}

fn footer(model: &Model, paint: Paint) -> Paragraph<'static> {
    if model.mode == Mode::Filter {
        return Paragraph::new(format!("/{}_   Enter keeps it, Esc clears it", model.filter));
    }
    let back = if model.mode == Mode::Detail { "Esc back" } else { "Enter details" };
    let every = model.interval.as_secs_f64();
    let text = format!("every {every} s   {back}  / filter  < > r sort  p pause  + - pace  ? help  q quit");
    Paragraph::new(text).style(paint.quiet())
}
