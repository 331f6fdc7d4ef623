//! Options, medians and tables.

use std::fs;
use std::io::Write as _;

/// What to measure, and how often.
pub struct Options {
    /// packets, bulk, programs, choice, cost, tcp, udp, memory, tunnels, families, failover, health, scale, limits; empty: all.
    pub parts: Vec<String>,
    pub rounds: usize,
    pub flows: Vec<u32>,
    /// Contenders, by a part of their names; empty: all.
    pub only: Vec<String>,
}

impl Options {
    /// `bench [--rounds N] [--flows N,N] [--only NAME,NAME] [PART...]`
    pub fn from_args() -> Self {
        let mut options = Self { parts: Vec::new(), rounds: 5, flows: vec![1000], only: Vec::new() };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--rounds" => options.rounds = args.next().and_then(|n| n.parse().ok()).expect("--rounds N"),
                "--flows" => {
                    let list = args.next().expect("--flows N,N");
                    options.flows = list.split(',').map(|n| n.parse().expect("a number of flows")).collect();
                }
                "--only" => {
                    let list = args.next().expect("--only NAME,NAME");
                    options.only = list.split(',').map(ToOwned::to_owned).collect();
                }
                part => options.parts.push(part.to_owned()),
            }
        }
        options
    }
}

/// Prints a line.
pub fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").expect("standard output");
}

/// What this was measured on.
pub fn heading() {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = cpu.lines().filter(|line| line.starts_with("processor")).count();
    say(&format!(
        "machine: {cpus} x {}, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim()
    ));
}

/// Measurements of one contender, one per round.
#[derive(Clone, Debug, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// Half the distance between the quartiles' outer neighbours, as a share of the median.
    pub fn spread(&self) -> f64 {
        let (low, high) =
            self.0.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
        (high - low) / 2.0 / self.median()
    }

    /// Median of the ratios round by round: both had the same moment of the machine.
    pub fn ratio_to(&self, base: &Self) -> f64 {
        Self(self.0.iter().zip(&base.0).map(|(own, base)| own / base).collect()).median()
    }
}

/// A table of contenders with their ratios to some of them.
pub fn table(title: &str, unit: &str, rows: &[(String, Series)], bases: &[&str]) {
    say(&format!("\n## {title}\n"));
    let heads: String = bases.iter().map(|base| format!(" x {base} |")).collect();
    say(&format!("| contender | {unit} | spread |{heads}"));
    say(&format!("|---|---|---|{}", "---|".repeat(bases.len())));
    for (name, series) in rows {
        let ratios: String = bases
            .iter()
            .map(|base| match rows.iter().find(|(other, _)| other == base) {
                Some((_, base)) => format!(" {:.2} |", series.ratio_to(base)),
                None => " - |".into(),
            })
            .collect();
        let mark = if series.spread() > 0.15 { " (!)" } else { "" };
        say(&format!("| {name} | {:.3} | {:.0} %{mark} |{ratios}", series.median(), series.spread() * 100.0));
    }
}

/// What is measured of a contender in a round: a title, with the unit behind a colon, and the value.
pub type Figures = Vec<(String, f64)>;

/// Measures every contender in every round, and prints a table for each figure.
pub fn in_turns<T>(rounds: usize, contenders: &[(&str, T)], bases: &[&str], measure: impl Fn(&T) -> Figures) {
    let mut tables: Vec<(String, Vec<(String, Series)>)> = Vec::new();
    for _ in 0..rounds {
        for (index, (_, contender)) in contenders.iter().enumerate() {
            for (at, (title, value)) in measure(contender).into_iter().enumerate() {
                if tables.len() <= at {
                    let rows = contenders.iter().map(|(name, _)| ((*name).to_owned(), Series::default()));
                    tables.push((title, rows.collect()));
                }
                tables[at].1[index].1.0.push(value);
            }
        }
    }
    for (title, rows) in tables {
        let (what, unit) = title.rsplit_once(": ").unwrap_or((&title, ""));
        table(what, unit, &rows, bases);
    }
}
