//! What is known of endpoints and ordered for backends, across restarts: a JSON file in the state folder.

mod read;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use relay_common::net::Protocol;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::judge::{Standing, State};
use super::tiers::Held;
use crate::config::save::save;
use crate::rule::RuleName;

/// What the file is called in `state_dir`.
pub const FILE: &str = "health.json";
/// The number of the file's format.
const FORMAT: u64 = 1;

/// Everything that is kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Saved {
    pub endpoints: HashMap<EndpointKey, Standing>,
    pub rules: BTreeMap<RuleName, RuleMemory>,
}

/// An endpoint by what it is in the configuration and where it is.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EndpointKey {
    pub rule: RuleName,
    /// As the configuration has it.
    pub backend: Box<str>,
    pub address: SocketAddr,
    /// Whose flows are judged.
    pub protocol: Protocol,
}

/// What is remembered of a rule beside its endpoints.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RuleMemory {
    /// The tiers that have new flows.
    pub held: BTreeMap<Protocol, Held<Box<str>>>,
    pub orders: BTreeMap<Box<str>, BackendOrder>,
}

/// What somebody has ordered for a backend by hand.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendOrder {
    /// It gets no new flow, and keeps those that it has.
    Drain,
    /// It is taken as down, whatever it answers.
    Down,
}

impl BackendOrder {
    pub const ALL: [Self; 2] = [Self::Drain, Self::Down];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Down => "down",
        }
    }
}

/// One moment by both clocks: what is kept must outlast the host's uptime.
#[derive(Clone, Copy, Debug)]
struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Saved {
    /// Reads what the relayd before has left. What cannot be read is as if there were nothing, and is logged.
    pub fn load(path: &Path) -> Self {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::warn!("{}: {error}; the states of endpoints are found out anew", path.display());
                return Self::default();
            }
        };
        match Self::from_text(&text, Moment::now()) {
            Ok((saved, 0)) => saved,
            Ok((saved, damaged)) => {
                let path = path.display();
                tracing::warn!(
                    "{path}: {damaged} entries are damaged; what they were about is found out anew"
                );
                saved
            }
            Err(why) => {
                tracing::warn!("{}: {why}; the states of endpoints are found out anew", path.display());
                Self::default()
            }
        }
    }

    /// Replaces the file.
    ///
    /// # Errors
    ///
    /// The state folder cannot be written to.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        save(path, &(self.to_json(Moment::now()).to_string() + "\n"))
    }

    /// The second: how many entries are damaged.
    fn from_text(text: &str, now: Moment) -> Result<(Self, usize), String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match value["format"].as_u64() {
            Some(FORMAT) => read::saved(&value, now).ok_or_else(|| "it is damaged".into()),
            Some(other) => Err(format!("format {other} is another relayd's, this one writes {FORMAT}")),
            None => Err("it has no format number".into()),
        }
    }

    fn to_json(&self, now: Moment) -> Value {
        let mut endpoints: Vec<(&EndpointKey, &Standing)> = self.endpoints.iter().collect();
        endpoints.sort_unstable_by_key(|(key, _)| *key);
        let endpoints: Vec<Value> =
            endpoints.into_iter().map(|(key, standing)| endpoint(key, standing, now)).collect();
        let rules = self.rules.iter().map(|(name, memory)| (name.as_str().to_owned(), rule(memory)));
        json!({ "format": FORMAT, "endpoints": endpoints, "rules": Value::Object(rules.collect()) })
    }
}

fn endpoint(key: &EndpointKey, standing: &Standing, now: Moment) -> Value {
    json!({
        "rule": key.rule.as_str(),
        "backend": key.backend,
        "address": key.address.to_string(),
        "protocol": key.protocol.as_str(),
        "state": state_name(standing.state),
        "since": now.milliseconds(standing.since),
        "answered": standing.answered,
        "successes": standing.successes,
        "failures": standing.failures,
        "last_failure": standing.last_failure.map(|at| now.milliseconds(at)),
        "last_error": standing.last_error,
    })
}

fn rule(memory: &RuleMemory) -> Value {
    let orders = memory.orders.iter().map(|(backend, order)| (backend.to_string(), order.as_str().into()));
    let held = memory.held.iter().map(|(protocol, held)| (protocol.as_str().to_owned(), json!(held.0)));
    json!({ "held": Value::Object(held.collect()), "orders": Value::Object(orders.collect()) })
}

/// Other than for display, both kinds of `unknown` have names.
const fn state_name(state: State) -> &'static str {
    match state {
        State::Untried => "untried",
        State::Unanswered => "unanswered",
        State::Up => "up",
        State::Down => "down",
    }
}

impl Moment {
    fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// Unix time of an instant in the past.
    fn milliseconds(self, at: Instant) -> u64 {
        let wall = self.wall.checked_sub(self.monotonic.saturating_duration_since(at));
        let since = wall.and_then(|wall| wall.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// The instant of a Unix time. A clock that was set back since has it now.
    fn instant(self, milliseconds: u64) -> Instant {
        let wall = UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds));
        let age = wall.and_then(|wall| self.wall.duration_since(wall).ok()).unwrap_or_default();
        self.monotonic.checked_sub(age).unwrap_or(self.monotonic)
    }
}

#[cfg(test)]
mod tests;
