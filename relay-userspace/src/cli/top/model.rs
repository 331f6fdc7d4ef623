//! What `relayctl top` knows: rates made of two answers, what they were before, and what the keys have chosen. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::columns::{Order, SortBy};
use super::poll::Sample;
use crate::api::view::{CountersView, RuleView, StatusView};

/// Rates that are remembered: five minutes at one a second.
const REMEMBERED: usize = 300;

/// All of it.
#[derive(Debug)]
pub struct Model {
    pub rows: Vec<Row>,
    pub status: StatusView,
    /// Drops of no rule, a second.
    pub stray_drops: BTreeMap<String, f64>,
    pub link: Link,
    pub order: Order,
    pub filter: String,
    pub mode: Mode,
    pub paused: bool,
    pub interval: Duration,
    /// By name, so that it stays with its rule when rules change places. `None`: whichever is first.
    pub selected: Option<String>,
    /// How many rows are above the first that is shown.
    pub offset: usize,
    /// Lines of a rule's backends and drops that are above the first that is shown.
    pub scrolled: usize,
    taken: Option<Instant>,
}

/// Whether relayd answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Link {
    Up,
    Lost { since: Instant, why: String },
}

/// What is on the screen, and what keys mean.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    List,
    /// The filter is being typed.
    Filter,
    /// One rule, the selected.
    Detail,
    Help,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Row {
    pub view: RuleView,
    /// `None`: it has been seen once so far.
    pub rates: Option<Rates>,
    /// Bits a second that came from clients and went to them, oldest first.
    pub history: VecDeque<[f64; 2]>,
}

/// What happened in a second, on average between two answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// From clients, to clients.
    pub bits: [f64; 2],
    pub packets: [f64; 2],
    pub new_flows: f64,
    pub drops: BTreeMap<String, f64>,
    /// New flows of each backend.
    pub backends: Vec<f64>,
}

impl Rates {
    fn between(before: &RuleView, now: &RuleView, seconds: f64) -> Self {
        // less than before: relayd counts anew
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let (old, new) = (&before.counters, &now.counters);
        let ways = |of: fn(&CountersView) -> [u64; 2]| {
            let (old, new) = (of(old), of(new));
            [rate(old[0], new[0]), rate(old[1], new[1])]
        };
        let known: HashMap<&str, u64> =
            before.to.iter().map(|backend| (backend.addr.as_str(), backend.flows.total)).collect();
        let backends = now.to.iter().map(|backend| {
            let total = backend.flows.total;
            known.get(backend.addr.as_str()).map_or(0.0, |&before| rate(before, total))
        });
        Self {
            bits: ways(|counters| [counters.ingress.bytes, counters.egress.bytes]).map(|bytes| bytes * 8.0),
            packets: ways(|counters| [counters.ingress.packets, counters.egress.packets]),
            new_flows: rate(old.flows.total, new.flows.total),
            drops: drop_rates(&old.drops, &new.drops, seconds),
            backends: backends.collect(),
        }
    }

    pub fn all_drops(&self) -> f64 {
        self.drops.values().sum()
    }

    pub fn both_ways(&self) -> f64 {
        self.bits.iter().sum()
    }
}

fn drop_rates(
    before: &BTreeMap<String, u64>,
    now: &BTreeMap<String, u64>,
    seconds: f64,
) -> BTreeMap<String, f64> {
    let rate = |(reason, &count): (&String, &u64)| {
        let before = before.get(reason).copied().unwrap_or(0);
        (reason.clone(), count.saturating_sub(before) as f64 / seconds)
    };
    now.iter().map(rate).collect()
}

impl Row {
    /// How many backends can be used, and how many there are.
    pub fn usable_backends(&self) -> (usize, usize) {
        let usable = |state: &str| !matches!(state, "down" | "unresolved");
        (self.view.to.iter().filter(|to| usable(&to.state)).count(), self.view.to.len())
    }

    /// Bits a second, both ways, oldest first.
    pub fn trend(&self) -> impl DoubleEndedIterator<Item = f64> {
        self.history.iter().map(|both| both.iter().sum())
    }

    fn matches(&self, filter: &str) -> bool {
        let filter = filter.to_lowercase();
        let RuleView { name, note, listen, to, state, protocol, .. } = &self.view;
        let texts = [name, state, protocol].into_iter().chain(note).chain(listen);
        texts.chain(to.iter().map(|to| &to.addr)).any(|text| text.to_lowercase().contains(&filter))
    }
}

impl Model {
    pub fn new(interval: Duration) -> Self {
        Self {
            rows: Vec::new(),
            status: StatusView::default(),
            stray_drops: BTreeMap::new(),
            link: Link::Up,
            order: Order::default(),
            filter: String::new(),
            mode: Mode::List,
            paused: false,
            interval,
            selected: None,
            offset: 0,
            scrolled: 0,
            taken: None,
        }
    }

    /// An answer. Nothing changes while it is paused.
    pub fn take(&mut self, sample: Sample) {
        self.link = Link::Up;
        if self.paused {
            return;
        }
        let seconds = self.taken.map(|taken| sample.at.saturating_duration_since(taken).as_secs_f64());
        let seconds = seconds.filter(|&seconds| seconds > 0.0);
        let rows = std::mem::take(&mut self.rows).into_iter();
        let mut before: HashMap<String, Row> = rows.map(|row| (row.view.name.clone(), row)).collect();
        self.rows =
            sample.rules.into_iter().map(|view| next(before.remove(&view.name), view, seconds)).collect();
        self.stray_drops = seconds.map_or_else(BTreeMap::new, |seconds| {
            drop_rates(&self.status.drops, &sample.status.drops, seconds)
        });
        self.status = sample.status;
        self.taken = Some(sample.at);
        self.keep_selection();
    }

    /// There is no answer. What was known stays to be seen; rates begin anew with the next answer.
    pub fn lose(&mut self, why: String, now: Instant) {
        let since = match &self.link {
            Link::Lost { since, .. } => *since,
            Link::Up => now,
        };
        self.link = Link::Lost { since, why };
        self.taken = None;
    }

    /// The rules that the filter lets through, in their order.
    pub fn shown(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.matches(&self.filter)).collect();
        rows.sort_by(|one, other| self.order.compare(one, other));
        rows
    }

    pub fn selection(&self) -> Option<&Row> {
        match &self.selected {
            Some(name) => self.rows.iter().find(|row| row.view.name == *name),
            None => self.shown().first().copied(),
        }
    }

    /// What all rules together carry: bits a second each way.
    pub fn all_bits(&self) -> [f64; 2] {
        let rates = self.rows.iter().filter_map(|row| row.rates.as_ref());
        rates.fold([0.0; 2], |sum, rates| [sum[0] + rates.bits[0], sum[1] + rates.bits[1]])
    }

    /// Moves the selection by so many rows, within the list.
    pub fn step(&mut self, by: isize) {
        let shown = self.shown();
        let Some(last) = shown.len().checked_sub(1) else { return };
        let at = self.position(&shown).unwrap_or(0);
        let to = at.saturating_add_signed(by).min(last);
        self.selected = Some(shown[to].view.name.clone());
        self.scrolled = 0;
    }

    /// Moves over the selected rule's backends and drops by so many lines.
    pub fn scroll(&mut self, by: isize) {
        let lines = self.selection().map_or(0, |row| row.view.to.len() + row.view.counters.drops.len());
        self.scrolled = self.scrolled.saturating_add_signed(by).min(lines);
    }

    /// Has the selected row among so many that there is room for.
    pub fn fit(&mut self, room: usize) {
        let shown = self.shown();
        let (count, at) = (shown.len(), self.position(&shown).unwrap_or(0));
        let most = count.saturating_sub(room);
        let offset = self.offset.min(at).max((at + 1).saturating_sub(room));
        self.offset = offset.min(most);
    }

    pub fn sort(&mut self, by: SortBy) {
        self.order = self.order.by(by);
    }

    fn position(&self, shown: &[&Row]) -> Option<usize> {
        let name = self.selected.as_ref()?;
        shown.iter().position(|row| row.view.name == *name)
    }

    /// The rule that is selected now stays so, wherever it moves.
    pub fn hold_selection(&mut self) {
        self.selected = self.selection().map(|row| row.view.name.clone());
    }

    /// A rule that has gone, or that the filter hides, is not selected, and nobody is shown the details of another one.
    pub fn keep_selection(&mut self) {
        if self.position(&self.shown()).is_none() {
            self.selected = None;
            if self.mode == Mode::Detail {
                self.mode = Mode::List;
            }
        }
    }
}

/// A rule as it is now. `before`: as it was, so many seconds ago.
fn next(before: Option<Row>, view: RuleView, seconds: Option<f64>) -> Row {
    let Some(before) = before else { return Row { view, rates: None, history: VecDeque::new() } };
    let rates = seconds.map(|seconds| Rates::between(&before.view, &view, seconds));
    let mut history = before.history;
    if let Some(rates) = &rates {
        history.push_back(rates.bits);
        let surplus = history.len().saturating_sub(REMEMBERED);
        history.drain(..surplus);
    }
    Row { view, rates, history }
}
