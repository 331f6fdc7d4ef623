//! Finding live flows on both planes, in a thread that may block, for one reader at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::Shared;
use super::shared::{Snapshot, not_found};
use crate::api::problem::{ApiProblem, Code};
use crate::flows::{Best, Flow, Plane, Query, State};
use crate::kernel::flows::{FlowReader, RulesBySlot};
use crate::proxy::counters::Counters;
use crate::proxy::roster::Live;
use crate::rule::RuleName;

/// Looks at the flow tables.
#[derive(Debug)]
pub struct FlowSeeker {
    reader: Mutex<Option<FlowReader>>,
    /// Several at once would take more of the processor than anybody's packets should have to give.
    turn: Arc<Semaphore>,
}

impl Default for FlowSeeker {
    fn default() -> Self {
        Self { reader: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl FlowSeeker {
    /// `None`: there is no kernel plane.
    pub fn set(&self, reader: Option<FlowReader>) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = reader;
    }

    fn reader(&self) -> Option<FlowReader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    /// The first of the live flows that are asked for, and how many there are in all.
    pub async fn flows(&self, query: Query) -> Result<Best, ApiProblem> {
        let failed = |text: String| ApiProblem::new(Code::NotApplied, text);
        let snapshot = self.snapshot();
        if let Some(name) = query.rule.as_ref().filter(|name| !snapshot.by_name.contains_key(*name)) {
            return Err(not_found(name));
        }
        let reader = self.flow_seeker.reader();
        let turn = self.flow_seeker.turn.clone().acquire_owned().await;
        let turn = turn.map_err(|_closed| failed("relayd is stopping".into()))?;
        // the turn ends with the look, also when nobody waits for it any more
        let look = spawn_blocking(move || {
            let found = look(&snapshot, reader.as_ref(), &query);
            drop(turn);
            found
        });
        look.await.map_err(|error| failed(format!("cannot look at the flows: {error}")))?
    }
}

fn look(snapshot: &Snapshot, reader: Option<&FlowReader>, query: &Query) -> Result<Best, ApiProblem> {
    let mut best = Best::new(query.sort, query.limit);
    if let Some(reader) = reader.filter(|_| query.takes_plane(Plane::Kernel)) {
        let slots: RulesBySlot = snapshot.slots.iter().map(|(name, &slot)| (slot, name.clone())).collect();
        let read = reader.read(query, &slots, &mut best);
        read.map_err(|error| ApiProblem::new(Code::NotApplied, error.to_string()))?;
    }
    if query.takes_plane(Plane::User) {
        let rules = snapshot.sessions.iter().filter(|(name, _)| query.takes_rule(name));
        rules.for_each(|(name, counters)| sessions(name, counters, query, &mut best));
    }
    Ok(best)
}

fn sessions(rule: &RuleName, counters: &Counters, query: &Query, best: &mut Best) {
    let now = Instant::now();
    counters.roster().each(|live: &Live| {
        let backend = live.backend();
        let is_wanted = query.takes_protocol(live.protocol)
            && query.takes_client(live.client.ip())
            && query.takes_backend(backend);
        if !is_wanted {
            return;
        }
        best.offer(Flow {
            rule: rule.clone(),
            protocol: live.protocol,
            plane: Plane::User,
            client: (live.client.ip().to_canonical(), live.client.port()).into(),
            listen: live.asked.map(|asked| (asked.ip().to_canonical(), asked.port()).into()),
            backend: backend.map(|backend| (backend.ip().to_canonical(), backend.port()).into()),
            state: if live.is_open() { State::Open } else { State::Opening },
            age: now.saturating_duration_since(live.begun),
            idle: live.idle(now),
            bytes: live.bytes().map(Some),
        });
    });
}
