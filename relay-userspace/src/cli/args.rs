//! What can be typed after `relayctl`.

mod looking;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

pub use self::looking::{Flows, History, Observe, Top};

use crate::alert::AlertName;
use crate::config::quantity::{DURATION_FORMS, parse_duration};
use crate::import::Kind;
use crate::import::conflict::OnConflict;
use crate::rule::{self, RuleName};

/// Manages Relay's port forwarding rules.
///
/// Talks to relayd over its Unix socket. A change takes effect at once and is saved into the file that the rule came
/// from; if it cannot be applied, nothing changes.
#[derive(Debug, Parser)]
#[command(name = "relayctl", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 relayd not reachable, 4 configuration \
                        invalid, 5 applied but some rules are degraded."
)]
pub struct Cli {
    /// relayd's socket
    #[arg(long, global = true, env = "RELAY_SOCKET", default_value = "/run/relay/relay.sock", value_hint = ValueHint::FilePath)]
    pub socket: PathBuf,

    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    #[command(subcommand)]
    pub command: Command,
}

/// What can be asked for with `-o`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// JSON, as the API answers it
    Json,
    /// Tab-separated values with raw numbers
    Tsv,
    /// Comma-separated values with raw numbers
    Csv,
}

impl Output {
    pub const fn format(self) -> Format {
        match self {
            Self::Table => Format::Table,
            Self::Wide => Format::Wide,
            Self::Json => Format::Json,
            Self::Tsv | Self::Csv => Format::Tsv,
        }
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Columns for people.
    Table,
    /// More of them.
    Wide,
    /// What the API answers.
    Json,
    /// Values with tabs between, and raw numbers.
    Tsv,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a rule
    #[command(
        after_help = "Examples:\n  relayctl add 8388 203.0.113.10\n  relayctl add :443 203.0.113.10:8443 --name web --protocol tcp\n  relayctl add 10000-19000 203.0.113.10:20000\n  relayctl add 80 203.0.113.10 203.0.113.11 --balance iphash --set check.kind=http\n  relayctl add 443 203.0.113.10 --set accept.transport=tls\n  relayctl add 8388 203.0.113.10:443 --set connect.transport=wss --set connect.path=/ws"
    )]
    Add(Add),
    /// Change keys of a rule
    #[command(
        after_help = "Examples:\n  relayctl set web to=203.0.113.11:8443\n  relayctl set web note=\"moved on Monday\" timeout.udp=30s\n  relayctl set web listen+=:8443 to+=203.0.113.12:8443\n  relayctl set web balance=leastconn check.kind=http check.path=/health\n  relayctl set web note="
    )]
    Set(Set),
    /// Remove rules; their flows end
    #[command(visible_alias = "del")]
    Rm(Names),
    /// List all rules with their counters
    #[command(visible_alias = "ls")]
    List(Watch),
    /// Show one rule in full
    Show(Show),
    /// Switch rules on; ends a drain too
    Enable(Names),
    /// Switch rules off; their flows end
    Disable(Names),
    /// Let rules run dry: no new flows, old ones go on
    Drain(Names),
    /// Show a rule's backends; weigh, drain or order one of them
    #[command(
        after_help = "An order lasts until the backend is ordered --up, over restarts too; weights are saved in the file.\n\nExamples:\n  relayctl backend web\n  relayctl backend web 203.0.113.11:8443 --weight 4\n  relayctl backend web 203.0.113.11 --drain"
    )]
    Backend(Backend),
    /// Say which plane carries a rule, by which way, and why
    Explain(One),
    /// Walk a rule's way, from its listeners to each backend, and say where it ends and why
    #[command(
        after_help = "Connects to each backend as a session would, opens its tunnel, and sends it an empty line unless it speaks first. Counts as no flow, and judges nobody. Exit status 1: something failed.\n\nExamples:\n  relayctl test web\n  relayctl test web -o json"
    )]
    Test(One),
    /// Check a configuration file; relayd need not run
    Check(CheckFile),
    /// Show what a file would change, without changing anything
    Diff(MaybeFile),
    /// Make a file the configuration
    Apply(Apply),
    /// Take over the rules of another tool, all in one change or none
    #[command(
        after_help = "Files are read and never run. What is not carried is said with its file and line.\n\nExamples:\n  relayctl import realm /etc/realm/config.toml --dry-run\n  nft list ruleset | relayctl import nftables - --on-conflict skip\n  relayctl import auto old.conf --to relay.toml"
    )]
    Import(Import),
    /// Keep what `apply --confirm` has changed
    Confirm,
    /// Read the configuration again
    Reload(DryRun),
    /// Show what a rule has carried and when, also one that is gone; without a name, what each has carried in all
    #[command(
        after_help = "Times are in UTC. Minutes are kept for 2 days, hours for 60, days for 400; totals for ever.\n\nExamples:\n  relayctl history web --since 7d\n  relayctl history web --by month --count max --factor 2\n  relayctl history web --by hour --plot"
    )]
    History(History),
    /// Show what is used of quotas and when rules and groups end; have one begin anew
    #[command(
        after_help = "Examples:\n  relayctl quota\n  relayctl quota alice --group\n  relayctl quota web --reset"
    )]
    Quota(Quota),
    /// Show how relayd is doing
    Status(Watch),
    /// Show live flows and sessions, those with the most bytes first
    #[command(
        after_help = "Bytes are those of IP packets in the kernel plane, of payload in the user plane.\n\nExamples:\n  relayctl flows web --limit 20\n  relayctl flows --client 198.51.100.0/24 --protocol udp\n  relayctl flows --backend 203.0.113.11 --sort age -o json"
    )]
    Flows(Flows),
    /// Watch what happens to flows, as it happens: opened, closed, refused, dropped
    #[command(
        after_help = "Nothing is told while nobody watches. Of a flood a sample is shown, and how many events are missing. Times are in UTC; -o json prints one object a line.\n\nExamples:\n  relayctl observe web\n  relayctl observe --drops --client 198.51.100.0/24\n  relayctl observe web --kind closed -n 100 -o json"
    )]
    Observe(Observe),
    /// Watch all rules live: rates, flows, backends, drops
    #[command(
        after_help = "Keys: ? lists them; / filters, Enter shows one rule in full, p pauses, q quits. NO_COLOR is honoured."
    )]
    Top(Top),
    /// Show alerts and how they are doing, or try them
    #[command(subcommand)]
    Alert(Alert),
    /// Write what other programs watch relayd with
    #[command(subcommand)]
    Export(Export),
    /// Detach everything from the kernel; traffic is no longer forwarded
    Down(Down),
    /// Print a completion script
    Completion { shell: Shell },
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man { folder: PathBuf },
}

#[derive(Debug, Args)]
pub struct Add {
    /// Where to accept: 8388, :8388, 1.2.3.4:80, [2001:db8::1]:80, %eth0:80, 10000-19000
    #[arg(value_name = "LISTEN")]
    pub listen: String,
    /// Where it goes, one or several: 203.0.113.10:8388, host.example.com:443; without a port the same port
    #[arg(value_name = "TO", required = true)]
    pub to: Vec<String>,
    /// Name of the rule; the port if left out
    #[arg(long)]
    pub name: Option<String>,
    /// tcp, udp or tcp+udp
    #[arg(long)]
    pub protocol: Option<String>,
    /// Who of several backends gets a new flow: roundrobin, iphash, leastconn or first; "roundrobin: 4, 2, 1" with weights
    #[arg(long)]
    pub balance: Option<String>,
    /// auto, kernel or user
    #[arg(long)]
    pub plane: Option<String>,
    /// A remark
    #[arg(long)]
    pub note: Option<String>,
    /// How much it may carry: 500GB, 100GiB; --set quota.reset=monthly:1 and others say more
    #[arg(long, value_name = "SIZE")]
    pub quota: Option<String>,
    /// When it ends: 2027-01-03T00:00:00+08:00
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// The group whose quota, rate and end hold, too
    #[arg(long)]
    pub group: Option<String>,
    /// Add it switched off
    #[arg(long)]
    pub disabled: bool,
    /// Take a port that another program listens on
    #[arg(long)]
    pub force: bool,
    /// Any other key of the rule
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub fields: Vec<String>,
    #[command(flatten)]
    pub dry: DryRun,
}

#[derive(Debug, Args)]
pub struct Quota {
    /// A rule, with the periods that have ended; all rules and groups if left out
    #[arg(value_parser = rule_name)]
    pub name: Option<RuleName>,
    /// The name is a group's
    #[arg(long, requires = "name")]
    pub group: bool,
    /// Have its quota begin anew, with nothing used; the ledger keeps what was
    #[arg(long, requires = "name")]
    pub reset: bool,
    /// Say whether that is possible, and change nothing
    #[arg(long, requires = "reset")]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Set {
    #[arg(value_parser = rule_name)]
    pub name: RuleName,
    /// Keys as in the file, dotted for tables; `listen+=` and `listen-=` for lists; an empty value clears a key
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub fields: Vec<String>,
    #[command(flatten)]
    pub dry: DryRun,
}

#[derive(Debug, Args)]
pub struct Names {
    #[arg(value_name = "NAME", required = true, value_parser = rule_name)]
    pub names: Vec<RuleName>,
    #[command(flatten)]
    pub dry: DryRun,
}

#[derive(Debug, Args)]
pub struct Backend {
    #[arg(value_parser = rule_name)]
    pub name: RuleName,
    /// One of its backends as `show` has it; without the port, if the rule has one backend there
    #[arg(value_name = "ADDR", requires = "call")]
    pub addr: Option<String>,
    #[command(flatten)]
    pub call: Option<Call>,
    #[arg(long, requires = "addr")]
    /// Say what would change, and change nothing
    pub dry_run: bool,
}

/// What to do with a backend.
#[derive(Debug, Args)]
#[group(id = "call", multiple = false, requires = "addr")]
pub struct Call {
    /// Its share of new flows beside the others' weights, 0 to 1000; 0: none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=i64::from(rule::Backend::MOST_WEIGHT)))]
    pub weight: Option<u16>,
    /// No new flows; those that it has go on
    #[arg(long)]
    pub drain: bool,
    /// Take it as down, whatever it answers
    #[arg(long)]
    pub down: bool,
    /// End an order, forget failures, and have it asked at once
    #[arg(long)]
    pub up: bool,
}

#[derive(Debug, Args)]
pub struct One {
    #[arg(value_parser = rule_name)]
    pub name: RuleName,
}

#[derive(Debug, Args)]
pub struct Show {
    #[arg(value_parser = rule_name)]
    pub name: RuleName,
    /// What each of its ports has carried, for ever, if the rule has `count_ports`
    #[arg(long)]
    pub ports: bool,
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// Print again every second
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Subcommand)]
pub enum Alert {
    /// List all alerts: what each is about, what it has sent, what went wrong
    #[command(visible_alias = "ls")]
    List(Watch),
    /// Send a real message now through relayd, and say what came of it
    #[command(
        after_help = "Exit status 1: one was not taken.\n\nExamples:\n  relayctl alert test\n  relayctl alert test phone"
    )]
    Test {
        /// This alert; all of them without
        #[arg(value_parser = alert_name)]
        name: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Export {
    /// The rules of a configuration file that realm can carry, as its TOML; the others are named on standard error
    Realm(CheckFile),
    /// A dashboard, for Grafana to import
    Grafana,
    /// Alerting rules for Prometheus, about the rules that there are now
    #[command(
        after_help = "Example:\n  relayctl export prometheus-rules > /etc/prometheus/relay-alerts.yml\nand in prometheus.yml: rule_files: ['relay-alerts.yml']"
    )]
    PrometheusRules {
        /// What Prometheus calls its scraping of relayd (job_name)
        #[arg(long, default_value = "relay", value_parser = job_name)]
        job: String,
    },
}

#[derive(Debug, Args)]
pub struct DryRun {
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct CheckFile {
    #[arg(default_value = "/etc/relay/relay.toml", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct MaybeFile {
    /// The file; without one, relayd's own, as it is on disk now
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Apply {
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Undo it unless it is confirmed within this time, such as 60s
    #[arg(long, value_name = "TIME", value_parser = waiting_time)]
    pub confirm: Option<String>,
    #[command(flatten)]
    pub dry: DryRun,
}

#[derive(Debug, Args)]
pub struct Import {
    /// Whose files they are
    #[arg(value_enum)]
    pub kind: Kind,
    /// A file, a folder of realm's files, or - for standard input
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// What to do with rules whose name or port another rule has
    #[arg(long, value_enum, default_value = "fail")]
    pub on_conflict: OnConflict,
    /// Write them into this file instead, without relayd; - for standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub to: Option<PathBuf>,
    #[command(flatten)]
    pub dry: DryRun,
}

#[derive(Debug, Args)]
pub struct Down {
    /// Where the pins are, for when relayd does not run
    #[arg(long, default_value = "/run/relay-bpf", value_hint = ValueHint::DirPath)]
    pub bpf_dir: PathBuf,
    /// Where relayd keeps its state, for when it does not run
    #[arg(long, default_value = "/var/lib/relay", value_hint = ValueHint::DirPath)]
    pub state_dir: PathBuf,
    #[command(flatten)]
    pub dry: DryRun,
}

fn alert_name(text: &str) -> Result<String, &'static str> {
    AlertName::parse(text).map(|name| name.to_string()).ok_or(AlertName::FORM)
}

fn rule_name(text: &str) -> Result<RuleName, &'static str> {
    RuleName::parse(text).ok_or(RuleName::FORM)
}

/// Checked here, sent as it was typed.
fn waiting_time(text: &str) -> Result<String, &'static str> {
    let time = parse_duration(text).filter(|time| !time.is_zero());
    time.map(|_| text.to_owned()).ok_or(DURATION_FORMS)
}

fn job_name(text: &str) -> Result<String, &'static str> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let is_plain = !text.is_empty() && text.chars().all(plain);
    is_plain.then(|| text.to_owned()).ok_or("letters, digits, dots, dashes and underscores")
}
