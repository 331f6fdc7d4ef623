//! Keeping what is known for the next relayd.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;

use super::{Backends, EndName};
use crate::health::saved::{EndpointKey, Saved};
use crate::health::{Prober, Standing};
use crate::rule::RuleName;

impl Backends {
    /// Writes it down if there is anything new. That takes a moment, so a thread of its own does it, one at a time.
    pub fn save_later(&mut self) {
        if self.writer.as_ref().is_some_and(|writer| !writer.is_finished()) {
            return;
        }
        self.take_note_of_writer();
        if let Some((saved, file)) = self.unsaved() {
            let write = thread::Builder::new().name("health".into()).spawn(move || saved.save(&file));
            // without a thread the next try may have more luck
            self.is_unsaved = write.is_err();
            self.writer = write.ok();
        }
    }

    /// The same, done when this returns.
    pub fn save(&mut self) {
        self.take_note_of_writer();
        if let Some((saved, file)) = self.unsaved() {
            let outcome = saved.save(&file);
            self.take_note(outcome);
        }
    }

    /// Waits for the thread, if there is one.
    fn take_note_of_writer(&mut self) {
        if let Some(outcome) = self.writer.take().and_then(|writer| writer.join().ok()) {
            self.take_note(outcome);
        }
    }

    /// What could not be written is written with what comes next, or at the next look whether everything is in place.
    fn take_note(&mut self, outcome: io::Result<()>) {
        let failed_before = std::mem::replace(&mut self.is_unwritable, outcome.is_err());
        let file = self.file.display();
        match outcome {
            Ok(()) if failed_before => tracing::info!("{file}: the states of backends are written again"),
            Ok(()) => {}
            Err(error) => {
                self.is_unsaved = true;
                if !failed_before {
                    tracing::warn!(
                        "{file}: {error}; states of backends and orders are kept in memory until it can be written"
                    );
                }
            }
        }
    }

    fn unsaved(&mut self) -> Option<(Saved, PathBuf)> {
        if !std::mem::take(&mut self.is_unsaved) {
            return None;
        }
        let mut standings = self.prober.as_ref().map(Prober::standings).unwrap_or_default();
        let mut endpoints: HashMap<EndpointKey, Standing> = self
            .saved
            .iter()
            .map(|((rule, end), (at, known))| (key(rule, end, *at), known.clone()))
            .collect();
        for (name, watched) in &self.watched {
            for (end_name, end) in &watched.ends {
                let Some(standing) = standings.remove(&end.id) else { continue };
                endpoints.insert(key(name, end_name, end.probe.address), standing);
            }
        }
        Some((Saved { endpoints, rules: self.memories() }, self.file.clone()))
    }
}

fn key(rule: &RuleName, (protocol, backend): &EndName, address: SocketAddr) -> EndpointKey {
    EndpointKey { rule: rule.clone(), backend: backend.clone(), address, protocol: *protocol }
}
