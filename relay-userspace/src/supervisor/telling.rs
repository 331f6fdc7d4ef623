//! Telling what nobody has asked: that relayd is there, how many flows and sessions have ended with their backends' addresses, which tables are full.

use std::collections::{BTreeMap, HashMap};

use super::shared::Shared;
use super::state::State;
use crate::boot::BootFile;
use crate::rule::RuleName;

/// The file that says so.
const STARTED: &str = "started";

impl Shared {
    /// Of the kernel plane, by slot.
    pub fn tell_gone(&self, gone: &HashMap<u32, u64>) {
        if gone.is_empty() {
            return;
        }
        let snapshot = self.snapshot();
        for (name, slot) in &snapshot.slots {
            if let Some(&flows) = gone.get(slot) {
                self.tell_lost(name, flows, "of the kernel plane's flows");
            }
        }
    }

    fn tell_lost(&self, name: &RuleName, count: u64, what: &str) {
        if count > 0 {
            let text =
                format!("rule {name}: {count} {what} ended: their backend's address is the rule's no more");
            tracing::info!(RULE = name.as_str(), "{text}");
            self.tell("rule.reset", Some(name), text);
        }
    }
}

impl State {
    /// That relayd is there, and whether it has been before since the host started.
    pub fn tell_started(&self, summary: &str) {
        let mut file = BootFile::open(&self.settings.state_dir.join(STARTED));
        let is_again = file.entries.insert(STARTED.into(), String::new()).is_some();
        if let Err(error) = file.save() {
            tracing::warn!("{}: {error}; the next start is told as the first one", file.path().display());
        }
        let (code, word) =
            if is_again { ("daemon.restarted", "restarted") } else { ("daemon.started", "started") };
        self.shared.tell(code, None, format!("relayd {} {word}: {summary}", env!("CARGO_PKG_VERSION")));
    }

    /// Of tables that have become full, and those that have room again. What is missing changes with every route.
    pub fn tell_shortage(&mut self) {
        let Ok(kernel) = &self.kernel else { return };
        let full: BTreeMap<&'static str, String> = kernel.shortage().tables().collect();
        for (table, text) in full.iter().filter(|(table, _)| !self.full.contains(*table)) {
            let text = format!("the kernel plane's table {table} is full: {text}");
            tracing::warn!("{text}");
            self.shared.tell("table.full", None, text);
        }
        for table in self.full.iter().filter(|table| !full.contains_key(*table)) {
            let text = format!("the kernel plane's table {table} has room again");
            tracing::info!("{text}");
            self.shared.tell("table.full", None, text);
        }
        self.full = full.into_keys().collect();
    }

    /// Of the user plane.
    pub fn tell_lost(&self) {
        let Some(serving) = &self.serving else { return };
        for (name, counters) in &*serving.counters() {
            self.shared.tell_lost(name, counters.take_lost(), "of the user plane's sessions");
        }
    }
}
