//! The list's columns: which there is room for, what stands in them, what rules can be sorted by.

use std::cmp::Ordering;

use super::figures::{bars, count, rate};
use super::model::{Rates, Row};

/// A column. In the order in which they stand.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Column {
    Name,
    Ingress,
    Egress,
    PacketsIn,
    PacketsOut,
    Flows,
    New,
    Drops,
    Backends,
    State,
    Trend,
    Listen,
}

/// In the order in which they are left out, the last one first.
const BY_WEIGHT: [Column; 12] = [
    Column::Name,
    Column::Ingress,
    Column::Egress,
    Column::Flows,
    Column::New,
    Column::Drops,
    Column::Trend,
    Column::Backends,
    Column::State,
    Column::PacketsIn,
    Column::PacketsOut,
    Column::Listen,
];

/// The longest name of a rule that gets its whole length.
const LONG_NAME: u16 = 32;
/// Room between columns.
pub const GAP: u16 = 1;

impl Column {
    pub const fn title(self) -> &'static str {
        match self {
            Self::Name => "RULE",
            Self::Ingress => "IN b/s",
            Self::Egress => "OUT b/s",
            Self::PacketsIn => "IN p/s",
            Self::PacketsOut => "OUT p/s",
            Self::Flows => "FLOWS",
            Self::New => "NEW/s",
            Self::Drops => "DROP/s",
            Self::Backends => "BACKENDS",
            Self::State => "STATE",
            Self::Trend => "TREND",
            Self::Listen => "LISTEN",
        }
    }

    /// With room for the arrow of the column that rules are sorted by.
    const fn width(self) -> u16 {
        match self {
            Self::Name => 12,
            Self::Ingress | Self::Egress | Self::PacketsIn | Self::PacketsOut | Self::Drops => 7,
            Self::Flows | Self::New => 6,
            Self::Backends | Self::State => 8,
            Self::Trend => 10,
            Self::Listen => 20,
        }
    }

    /// Numbers stand to the right.
    pub const fn is_number(self) -> bool {
        !matches!(self, Self::Name | Self::Backends | Self::State | Self::Trend | Self::Listen)
    }

    const fn sorts_by(self) -> Option<SortBy> {
        Some(match self {
            Self::Name => SortBy::Name,
            Self::Ingress => SortBy::Ingress,
            Self::Egress => SortBy::Egress,
            Self::Flows => SortBy::Flows,
            Self::New => SortBy::New,
            Self::Drops => SortBy::Drops,
            Self::State => SortBy::State,
            Self::Trend => SortBy::Traffic,
            Self::PacketsIn | Self::PacketsOut | Self::Backends | Self::Listen => return None,
        })
    }

    /// The column's head, with an arrow if rules are sorted by it.
    pub fn head(self, order: Order) -> String {
        let arrow = match self.sorts_by() {
            Some(by) if by == order.by && order.is_descending => "↓",
            Some(by) if by == order.by => "↑",
            _ => "",
        };
        format!("{}{arrow}", self.title())
    }

    /// What stands there.
    pub fn text(self, row: &Row, width: u16) -> String {
        let of = |value: fn(&Rates) -> f64| row.rates.as_ref().map_or("-".into(), |rates| rate(value(rates)));
        match self {
            Self::Name => row.view.name.clone(),
            Self::Ingress => of(|rates| rates.bits[0]),
            Self::Egress => of(|rates| rates.bits[1]),
            Self::PacketsIn => of(|rates| rates.packets[0]),
            Self::PacketsOut => of(|rates| rates.packets[1]),
            Self::Flows => count(row.view.counters.flows.active),
            Self::New => of(|rates| rates.new_flows),
            Self::Drops => of(Rates::all_drops),
            Self::Backends => backends(row),
            Self::State => row.view.state.clone(),
            Self::Trend => bars(row.trend(), width.into(), row.trend().fold(0.0, f64::max)),
            Self::Listen => row.view.listen.join(","),
        }
    }
}

/// `up`, `2/3 up`.
fn backends(row: &Row) -> String {
    match (row.usable_backends(), &row.view.to[..]) {
        (_, [only]) => only.state.clone(),
        ((usable, all), _) => format!("{usable}/{all} up"),
    }
}

/// The columns that fit into a width, and how wide each is; the longest name among the rules may have what is left.
pub fn fit(width: u16, longest: usize) -> Vec<(Column, u16)> {
    let mut left = width;
    let mut columns = Vec::new();
    for column in BY_WEIGHT {
        let gap = if columns.is_empty() { 0 } else { GAP };
        match left.checked_sub(column.width() + gap) {
            Some(rest) => left = rest,
            // a name is always there, cut short if need be
            None if columns.is_empty() => {
                return vec![(column, width)];
            }
            None => break,
        }
        columns.push((column, column.width()));
    }
    columns.sort();
    let longest = u16::try_from(longest).unwrap_or(u16::MAX).min(LONG_NAME);
    for (column, width) in &mut columns {
        let more = match column {
            Column::Name => longest.saturating_sub(*width).min(left),
            _ => continue,
        };
        *width += more;
        left -= more;
    }
    if let Some((_, width)) = columns.iter_mut().find(|(column, _)| *column == Column::Trend) {
        *width += left;
    }
    columns
}

/// What rules can be sorted by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SortBy {
    /// Bits both ways.
    #[default]
    Traffic,
    Name,
    Ingress,
    Egress,
    Flows,
    New,
    Drops,
    State,
}

impl SortBy {
    /// As the columns stand.
    const ALL: [Self; 8] = [
        Self::Name,
        Self::Ingress,
        Self::Egress,
        Self::Flows,
        Self::New,
        Self::Drops,
        Self::State,
        Self::Traffic,
    ];

    /// The one so many columns to the right.
    pub fn beside(self, by: isize) -> Self {
        let at = Self::ALL.iter().position(|&one| one == self).unwrap_or(0);
        let to = (at.cast_signed() + by).rem_euclid(Self::ALL.len().cast_signed());
        Self::ALL[to.cast_unsigned()]
    }
}

/// The list's order. Rules that are alike stand by name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Order {
    pub by: SortBy,
    pub is_descending: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self { by: SortBy::Traffic, is_descending: true }
    }
}

impl Order {
    /// By another column: the most first, names from A on. By the same one: the other way round.
    #[must_use]
    pub fn by(self, by: SortBy) -> Self {
        let is_descending =
            if by == self.by { !self.is_descending } else { !matches!(by, SortBy::Name | SortBy::State) };
        Self { by, is_descending }
    }

    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { is_descending: !self.is_descending, ..self }
    }

    pub fn compare(self, one: &Row, other: &Row) -> Ordering {
        let of = |row: &Row, value: fn(&Rates) -> f64| row.rates.as_ref().map_or(0.0, value);
        let by = |value: fn(&Rates) -> f64| of(one, value).total_cmp(&of(other, value));
        let found = match self.by {
            SortBy::Traffic => by(Rates::both_ways),
            SortBy::Name => one.view.name.cmp(&other.view.name),
            SortBy::Ingress => by(|rates| rates.bits[0]),
            SortBy::Egress => by(|rates| rates.bits[1]),
            SortBy::Flows => one.view.counters.flows.active.cmp(&other.view.counters.flows.active),
            SortBy::New => by(|rates| rates.new_flows),
            SortBy::Drops => by(Rates::all_drops),
            SortBy::State => one.view.state.cmp(&other.view.state),
        };
        let found = if self.is_descending { found.reverse() } else { found };
        found.then_with(|| one.view.name.cmp(&other.view.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_give_way_by_width() {
        let titles =
            |width| -> Vec<&str> { fit(width, 9).iter().map(|(column, _)| column.title()).collect() };
        assert_eq!(
            titles(80),
            ["RULE", "IN b/s", "OUT b/s", "FLOWS", "NEW/s", "DROP/s", "BACKENDS", "STATE", "TREND"]
        );
        assert_eq!(titles(40), ["RULE", "IN b/s", "OUT b/s", "FLOWS"]);
        assert_eq!((titles(3), fit(3, 9)), (vec!["RULE"], vec![(Column::Name, 3)]));
        assert_eq!(titles(200).len(), BY_WEIGHT.len());
        for width in 0..300 {
            let columns = fit(width, 40);
            let used: u16 = columns.iter().map(|(_, width)| width + GAP).sum::<u16>() - GAP;
            assert!(used <= width, "{used} of {width}");
        }
    }

    #[test]
    fn sorting_by_the_same_turns_it_round() {
        let order = Order::default().by(SortBy::Name);
        assert!(!order.is_descending && order.by(SortBy::Name).is_descending);
        assert_eq!(SortBy::Traffic.beside(1), SortBy::Name);
        assert_eq!(SortBy::Name.beside(-1), SortBy::Traffic);
    }
}
