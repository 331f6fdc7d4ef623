//! What can be typed after `relayd`, and what it means.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, ValueHint};

use super::Misuse;
use crate::config::files::Config;
use crate::config::problem::Problems;
use crate::config::{Origin, decode, encode};
use crate::rule::{Backend, Listener, Rule, RuleName};
use crate::supervisor::Launch;

const DEFAULT_CONFIG: &str = "/etc/relay/relay.toml";

/// The Relay daemon: forwards ports, in the kernel where it can.
///
/// Reads relay.toml and the files in conf.d beside it. SIGHUP reads them again. When relayd stops, the kernel plane
/// goes on forwarding; `relayctl down` detaches it.
#[derive(Debug, Parser)]
#[command(name = "relayd", version, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 stopped by a signal, 1 failed, 2 wrong usage, 4 configuration invalid."
)]
pub struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Where relayctl reaches us
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where state is kept
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the programs and tables are pinned, on a bpffs
    #[arg(long, value_name = "DIR")]
    pub bpf_dir: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(short = 't', long)]
    pub check: bool,
    /// Check the configuration, print what it comes to, and exit
    #[arg(short = 'T', long)]
    pub dump: bool,
    /// A rule without a file: accept here; goes with the -r at the same place
    #[arg(short, long, value_name = "LISTEN")]
    pub listen: Vec<String>,
    /// Where the rule goes
    #[arg(short = 'r', long = "remote", value_name = "TO")]
    pub to: Vec<String>,
    /// Log what the programs decide about each packet of a rule
    #[arg(long, value_name = "RULE")]
    pub trace_packets: Option<String>,
}

impl Args {
    /// Reads the configuration and adds what was typed.
    pub fn launch(&self) -> anyhow::Result<Launch> {
        let own_rules = self.own_rules()?;
        let config_path = match &self.config {
            Some(path) => Some(std::path::absolute(path)?),
            None if own_rules.is_empty() => Some(DEFAULT_CONFIG.into()),
            None => None,
        };
        let config = match &config_path {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        let mut config = config.with_typed(&own_rules)?;
        let settings = &mut config.settings;
        for (given, setting) in [
            (&self.socket, &mut settings.socket),
            (&self.state_dir, &mut settings.state_dir),
            (&self.bpf_dir, &mut settings.bpf_dir),
        ] {
            if let Some(path) = given {
                *setting = std::path::absolute(path)?;
            }
        }
        let trace = self.traced(&config)?;
        Ok(Launch { config_path, config, own_rules, trace })
    }

    fn own_rules(&self) -> anyhow::Result<Vec<(Arc<Rule>, Origin)>> {
        if self.listen.len() != self.to.len() {
            let (listens, targets) = (self.listen.len(), self.to.len());
            let text = format!("each -l needs its -r, but there are {listens} -l and {targets} -r");
            return Err(Misuse(text).into());
        }
        let mut problems = Problems::default();
        let pairs = self.listen.iter().zip(&self.to);
        let rules = pairs.filter_map(|(listen, to)| typed_rule(listen, to, &mut problems));
        let rules = rules.map(|rule| (Arc::new(rule), Origin::CommandLine)).collect();
        Ok(problems.into_result(rules)?)
    }

    fn traced(&self, config: &Config) -> anyhow::Result<Option<RuleName>> {
        let Some(text) = &self.trace_packets else { return Ok(None) };
        let rule = config.rules.iter().find(|(rule, _)| rule.name.as_str() == text);
        match rule {
            Some((rule, _)) => Ok(Some(rule.name.clone())),
            None => Err(Misuse(format!("--trace-packets: there is no rule {text:?}")).into()),
        }
    }
}

/// The rule that a pair of `-l` and `-r` stands for, called by its port.
fn typed_rule(listen: &str, to: &str, problems: &mut Problems) -> Option<Rule> {
    let mut wrong = |what: &str, text: &str, error: &dyn std::fmt::Display, forms: &str| {
        problems.add(None, what, format!("{text:?}: {error}"), Some(&format!("write {forms}")));
    };
    let listener = Listener::parse(listen).map_err(|error| wrong("-l", listen, &error, Listener::FORMS)).ok();
    let backend = Backend::parse(to).map_err(|error| wrong("-r", to, &error, Backend::FORMS)).ok();
    let (listener, backend) = (listener?, backend?);
    if !backend.fits(listener.ports) {
        problems.add(None, "-r", decode::misfit(&backend, &listener), None);
        return None;
    }
    let name = RuleName::parse(&listener.ports.to_string())?;
    Some(Rule::new(name, vec![listener], vec![backend]))
}

/// What a configuration comes to: every setting with its value, every alert without its secrets, then every rule.
pub fn dump(config: &Config) -> String {
    let settings = &config.settings;
    let interfaces = match &settings.interfaces {
        Some(names) => format!("interfaces = {names:?}\n"),
        None => String::new(),
    };
    let flows = settings.max_flows.map(|flows| format!("max_flows = {flows}\n")).unwrap_or_default();
    let metrics =
        settings.metrics.map(|address| format!("\n[metrics]\nlisten = \"{address}\"\n")).unwrap_or_default();
    let mut text = format!(
        "[daemon]\nsocket = {:?}\nstate_dir = {:?}\nbpf_dir = {:?}\n{interfaces}hook = \"{}\"\n{flows}\n[log]\nlevel = \"{}\"\nformat = \"{}\"\nconnections = {}\n{metrics}",
        settings.socket,
        settings.state_dir,
        settings.bpf_dir,
        settings.hook.as_str(),
        settings.log_level.as_str(),
        settings.log_format.as_str(),
        settings.log_connections,
    );
    for alert in &config.alerts {
        text.push('\n');
        text += &encode::alert::shown(alert);
    }
    for (name, group) in &*config.groups {
        text.push('\n');
        text += &encode::group_to_toml(name, group);
    }
    for (rule, _) in &config.rules {
        text.push('\n');
        text += &encode::to_toml(rule);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../packaging/relay.toml");

    fn checked(text: &str) -> Launch {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("relay.toml");
        std::fs::write(&file, text).expect("write");
        let args = ["relayd", "--check", "--config"].map(std::ffi::OsString::from);
        let args = Args::try_parse_from(args.into_iter().chain([file.into()])).expect("arguments");
        args.launch().expect("valid")
    }

    #[test]
    fn the_example_is_valid_with_and_without_what_it_has_in_comments() {
        assert!(checked(EXAMPLE).config.rules.is_empty());
        let setting = |line: &str| {
            line.starts_with("[[") || line.split_once(" = ").is_some_and(|(key, _)| !key.trim().contains(' '))
        };
        let whole: String = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| setting(rest)).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let Launch { config, .. } = checked(&whole);
        let names: Vec<_> = config.rules.iter().map(|(rule, _)| rule.name.as_str()).collect();
        assert_eq!(names, ["tokyo", "games", "web"]);
        assert_eq!(config.alerts.len(), 1);
        assert!(config.settings.metrics.is_some() && config.settings.max_flows.is_some(), "{whole}");
    }
}
