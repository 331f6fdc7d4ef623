//! What the supervisor can be asked to do.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::backends::BackendCall;
use crate::accounting::allowances::Owner;
use crate::api::problem::ApiProblem;
use crate::api::view::{ChangeView, DownView};
use crate::rule::{Host, Rule, RuleName};

/// A request and where its answer goes.
pub struct Command {
    pub action: Action,
    pub dry_run: bool,
    pub reply: oneshot::Sender<Result<Reply, ApiProblem>>,
    /// Names that have been looked up for it.
    pub asked: BTreeSet<Host>,
}

/// How an action is to be carried out.
#[derive(Clone, Copy)]
pub struct Manner<'a> {
    pub dry_run: bool,
    pub asked: &'a BTreeSet<Host>,
}

/// Why an action was not carried out.
pub enum Setback {
    Refused(ApiProblem),
    /// These names must be looked up before.
    Unknown(BTreeSet<Host>),
}

impl From<ApiProblem> for Setback {
    fn from(problem: ApiProblem) -> Self {
        Self::Refused(problem)
    }
}

pub enum Action {
    Add(Box<Rule>),
    /// Keys to set as in the file; null clears one.
    Set(RuleName, Map<String, Value>),
    Remove(RuleName),
    Drain(RuleName),
    /// Ends a drain too.
    Enable(RuleName),
    /// One of a rule's backends, by its text.
    Backend(RuleName, String, BackendCall),
    /// Has a quota begin anew.
    ResetQuota(Owner),
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
