//! What the supervisor can be asked to do.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::api::problem::ApiProblem;
use crate::api::view::{ChangeView, DownView};
use crate::rule::{Rule, RuleName};

/// A request and where its answer goes.
pub struct Command {
    pub action: Action,
    pub dry_run: bool,
    pub reply: oneshot::Sender<Result<Reply, ApiProblem>>,
}

pub enum Action {
    Add(Box<Rule>),
    /// Keys to set as in the file; null clears one.
    Set(RuleName, Map<String, Value>),
    Remove(RuleName),
    Drain(RuleName),
    /// Ends a drain too.
    Enable(RuleName),
    Reload,
    /// Makes a text the main configuration, for good or until it is confirmed.
    Apply {
        text: String,
        confirm: Option<Duration>,
    },
    Confirm,
    /// What a text, or the file, would change.
    Diff(Option<String>),
    Down,
}

pub enum Reply {
    Change(ChangeView),
    Down(DownView),
}
