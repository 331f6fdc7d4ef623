//! What the last digests have told, across restarts: a JSON file in the state folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::api::view::RuleView;
use crate::config::save::save;

/// What the file is called in `state_dir`.
const FILE: &str = "digests.json";
/// The number of the file's format.
const FORMAT: u64 = 1;

/// How all rules stood at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// Seconds since 1970.
    pub time: u64,
    /// By rule: all bytes in, all bytes out, all flows.
    pub rules: BTreeMap<String, [u64; 3]>,
}

impl Standing {
    pub fn of(rules: &[RuleView], time: u64) -> Self {
        let totals = |rule: &RuleView| {
            let lifetime = rule.counters.lifetime;
            [lifetime.ingress.bytes, lifetime.egress.bytes, lifetime.flows]
        };
        Self { time, rules: rules.iter().map(|rule| (rule.name.clone(), totals(rule))).collect() }
    }
}

/// The standing at the last digest of each alert, by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    path: PathBuf,
    pub digests: BTreeMap<String, Standing>,
}

impl Kept {
    /// Reads what the relayd before has left. What cannot be read is as if there were nothing, and is logged.
    pub fn open(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let digests = match read(&path) {
            Ok(digests) => digests,
            Err(why) => {
                tracing::warn!("{}: {why}; digests count from now on", path.display());
                BTreeMap::new()
            }
        };
        Self { path, digests }
    }

    /// Replaces the file.
    ///
    /// # Errors
    ///
    /// The state folder cannot be written to.
    pub fn save(&self) -> io::Result<()> {
        let digest = |(name, standing): (&String, &Standing)| {
            (name.clone(), json!({ "time": standing.time, "rules": standing.rules }))
        };
        let digests: Map<String, Value> = self.digests.iter().map(digest).collect();
        save(&self.path, &(json!({ "format": FORMAT, "digests": digests }).to_string() + "\n"))
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Standing>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.to_string()),
    };
    let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    match value["format"].as_u64() {
        Some(FORMAT) => digests(&value["digests"]).ok_or_else(|| "it is damaged".into()),
        Some(other) => Err(format!("format {other} is another relayd's, this one writes {FORMAT}")),
        None => Err("it has no format number".into()),
    }
}

/// `None`: it is not what relayd writes.
fn digests(value: &Value) -> Option<BTreeMap<String, Standing>> {
    let digests = value.as_object()?.iter();
    digests.map(|(name, value)| Some((name.clone(), standing(value)?))).collect()
}

fn standing(value: &Value) -> Option<Standing> {
    let totals = |value: &Value| {
        let numbers: Option<Vec<u64>> = value.as_array()?.iter().map(Value::as_u64).collect();
        numbers?.try_into().ok()
    };
    let rules = value["rules"].as_object()?.iter().map(|(name, value)| Some((name.clone(), totals(value)?)));
    Some(Standing { time: value["time"].as_u64()?, rules: rules.collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_known_after_a_restart() {
        let folder = tempfile::tempdir().expect("folder");
        let mut kept = Kept::open(folder.path());
        assert!(kept.digests.is_empty());
        let standing = Standing { time: 7, rules: BTreeMap::from([("web".to_owned(), [1, 2, 3])]) };
        kept.digests.insert("phone".into(), standing);
        kept.save().expect("save");
        assert_eq!(Kept::open(folder.path()), kept);
        for damaged in [
            "",
            "{",
            r#"{"format":2,"digests":{}}"#,
            r#"{"format":1,"digests":[]}"#,
            r#"{"format":1,"digests":{"a":{"time":1,"rules":{"b":[1,2]}}}}"#,
        ] {
            fs::write(folder.path().join(FILE), damaged).expect("write");
            assert!(Kept::open(folder.path()).digests.is_empty(), "{damaged}");
        }
    }
}
