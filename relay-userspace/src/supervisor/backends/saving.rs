//! Keeping what is known for the next relayd.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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
        if let Some((saved, file)) = self.unsaved() {
            let write = thread::Builder::new().name("health".into()).spawn(move || write(&saved, &file));
            // without a thread the next try may have more luck
            self.is_unsaved = write.is_err();
            self.writer = write.ok();
        }
    }

    /// The same, done when this returns.
    pub fn save(&mut self) {
        if let Some(writer) = self.writer.take() {
            // it has said what went wrong with it
            _ = writer.join();
        }
        if let Some((saved, file)) = self.unsaved() {
            write(&saved, &file);
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

fn write(saved: &Saved, file: &Path) {
    if let Err(error) = saved.save(file) {
        tracing::warn!("{}: {error}; the next relayd finds out anew how backends are", file.display());
    }
}
