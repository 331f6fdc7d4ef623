//! `[daemon]`, `[log]`, `[metrics]` and `[dns]`: how relayd runs.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::dns::Dns;
use super::fields::Fields;
use super::node::{Node, Table, Value};
use super::problem::Problems;

/// How relayd runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    /// On a bpffs; pins go below it.
    pub bpf_dir: PathBuf,
    /// `None`: found from addresses and routes.
    pub interfaces: Option<Vec<String>>,
    pub hook: Hook,
    /// Established flows per protocol; `None`: sized by memory.
    pub max_flows: Option<u32>,
    pub log_level: Level,
    pub log_format: LogFormat,
    /// Whether every connection gets a line when it ends.
    pub log_connections: bool,
    pub metrics: Option<SocketAddr>,
    pub dns: Dns,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: "/run/relay/relay.sock".into(),
            state_dir: "/var/lib/relay".into(),
            bpf_dir: "/run/relay-bpf".into(),
            interfaces: None,
            hook: Hook::Auto,
            max_flows: None,
            log_level: Level::Info,
            log_format: LogFormat::Auto,
            log_connections: false,
            metrics: None,
            dns: Dns::default(),
        }
    }
}

/// Where the kernel plane hooks in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hook {
    /// tc.
    #[default]
    Auto,
    Tc,
    /// XDP where the driver can, with tc behind it.
    Xdp,
    /// No kernel plane.
    Off,
}

impl Hook {
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Auto, Self::Tc, Self::Xdp, Self::Off].into_iter().find(|hook| hook.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Off => "off",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Level {
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace]
            .into_iter()
            .find(|level| level.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// Journal fields under systemd, text elsewhere.
    #[default]
    Auto,
    Text,
    Json,
}

impl LogFormat {
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Auto, Self::Text, Self::Json].into_iter().find(|format| format.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

const FEWEST_FLOWS: i64 = 64;
const MOST_FLOWS: i64 = 16_777_216;

impl Settings {
    pub fn daemon(&mut self, node: &Node, problems: &mut Problems) {
        let Some(mut fields) = table(node, "daemon", problems) else { return };
        for (key, slot) in
            [("socket", &mut self.socket), ("state_dir", &mut self.state_dir), ("bpf_dir", &mut self.bpf_dir)]
        {
            if let Some(path) = path(&mut fields, key, problems) {
                *slot = path;
            }
        }
        if let Some(node) = fields.take("interfaces") {
            self.interfaces = interfaces(&fields, node, problems);
        }
        if let Some(hook) = fields.word("hook", &["auto", "tc", "xdp", "off"], Hook::parse, problems) {
            self.hook = hook;
        }
        if let Some(flows) = fields.integer("max_flows", FEWEST_FLOWS..=MOST_FLOWS, problems) {
            self.max_flows = u32::try_from(flows).ok();
        }
        fields.finish(problems);
    }

    pub fn log(&mut self, node: &Node, problems: &mut Problems) {
        let Some(mut fields) = table(node, "log", problems) else { return };
        let levels = ["error", "warn", "info", "debug", "trace"];
        if let Some(level) = fields.word("level", &levels, Level::parse, problems) {
            self.log_level = level;
        }
        if let Some(format) = fields.word("format", &["auto", "text", "json"], LogFormat::parse, problems) {
            self.log_format = format;
        }
        if let Some(connections) = fields.bool("connections", problems) {
            self.log_connections = connections;
        }
        fields.finish(problems);
    }

    pub fn metrics(&mut self, node: &Node, problems: &mut Problems) {
        let Some(mut fields) = table(node, "metrics", problems) else { return };
        if let Some((text, node)) = fields.text("listen", problems) {
            match text.parse() {
                Ok(address) => self.metrics = Some(address),
                Err(_no_address) => {
                    let message = format!("{} is not an address and port", node.shown());
                    let help = "write \"127.0.0.1:9464\" or \"[::1]:9464\"";
                    problems.at(node, &fields.subject_of("listen"), message, Some(help));
                }
            }
        }
        fields.finish(problems);
    }

    pub fn dns(&mut self, node: &Node, problems: &mut Problems) {
        if let Some(fields) = table(node, "dns", problems) {
            self.dns.read(fields, problems);
        }
    }
}

fn table<'a>(node: &'a Node, name: &str, problems: &mut Problems) -> Option<Fields<'a>> {
    if let Value::Table(table) = &node.value {
        let table: &Table = table;
        return Some(Fields::new(table, node.span.clone(), name));
    }
    problems.at(node, name, format!("{} is {}, not a table", node.shown(), node.kind()), None);
    None
}

fn path(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<PathBuf> {
    let (text, node) = fields.text(key, problems)?;
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Some(path);
    }
    let message = format!("{} is not an absolute path", node.shown());
    problems.at(node, &fields.subject_of(key), message, Some("start it with a slash"));
    None
}

fn interfaces(fields: &Fields<'_>, node: &Node, problems: &mut Problems) -> Option<Vec<String>> {
    let Value::Array(items) = &node.value else {
        fields.wrong_kind("interfaces", node, "a list of names", problems);
        return None;
    };
    let mut names = Vec::new();
    for item in items {
        match &item.value {
            Value::Text(name) if !name.is_empty() => names.push(name.clone()),
            _ => fields.wrong_kind("interfaces", item, "an interface name in quotes", problems),
        }
    }
    Some(names)
}
