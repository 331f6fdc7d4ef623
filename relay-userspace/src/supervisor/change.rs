//! Carrying out commands: try, apply, save; go back if any of it fails.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::command::{Action, Command, Reply};
use super::shared::not_found;
use super::state::{Prepared, Rules, State, Undo};
use crate::api::problem::{ApiProblem, Code};
use crate::api::view::{ChangeView, RuleChange};
use crate::config::edit::{self, Edit};
use crate::config::save::Staged;
use crate::config::{Origin, encode, patch};
use crate::rule::{Rule, RuleName, overlap};

pub type Done = Result<ChangeView, ApiProblem>;

impl State {
    /// Carries out a command and answers it.
    pub async fn handle(&mut self, command: Command) {
        let Command { action, dry_run, reply } = command;
        let answer = match action {
            Action::Add(rule) => self.add(*rule, dry_run).await.map(Reply::Change),
            Action::Set(name, fields) => self.set(&name, fields, dry_run).await.map(Reply::Change),
            Action::Remove(name) => self.remove(&name, dry_run).await.map(Reply::Change),
            Action::Drain(name) => self.drain(&name, dry_run).await.map(Reply::Change),
            Action::Enable(name) => self.enable(&name, dry_run).await.map(Reply::Change),
            Action::Reload => self.reload().await.map(Reply::Change),
            Action::Apply { text, confirm } => self.replace(text, confirm, dry_run).await.map(Reply::Change),
            Action::Confirm => self.confirm().map(Reply::Change),
            Action::Diff(text) => self.diff(text).map(Reply::Change),
            Action::Down => Ok(Reply::Down(self.take_down())),
        };
        let _caller_gone = reply.send(answer);
    }

    async fn add(&mut self, rule: Rule, dry_run: bool) -> Done {
        if self.rules.iter().any(|(known, _)| known.name == rule.name) {
            let text = format!("there is a rule \"{}\" already; `relayctl set` changes it", rule.name);
            return Err(ApiProblem::new(Code::RuleExists, text));
        }
        let origin = match &self.config_path {
            Some(path) => Origin::File(path.as_path().into()),
            None => Origin::CommandLine,
        };
        let rule = Arc::new(rule);
        let mut rules = self.rules.clone();
        rules.push((rule.clone(), origin.clone()));
        let draining = self.draining.clone();
        let edit = Edit::Add(&rule);
        self.change_one(rules, draining, &rule.name, &origin, Some(&edit), dry_run).await
    }

    async fn set(&mut self, name: &RuleName, fields: Map<String, Value>, dry_run: bool) -> Done {
        let (index, rule, origin) = self.find(name)?;
        let before = encode::to_json(&rule);
        let fields = patch::spelled_out(&before, fields);
        let changed = patch::patched(before, &fields)?;
        if changed.name != *name {
            let text = "a rule keeps its name; add it under the new one and remove the old";
            return Err(ApiProblem::new(Code::Invalid, text));
        }
        let mut rules = self.rules.clone();
        rules[index].0 = Arc::new(changed);
        let edit = Edit::Set(name, &fields);
        let draining = self.draining.clone();
        self.change_one(rules, draining, name, &origin, Some(&edit), dry_run).await
    }

    async fn remove(&mut self, name: &RuleName, dry_run: bool) -> Done {
        let (index, _, origin) = self.find(name)?;
        let mut rules = self.rules.clone();
        rules.remove(index);
        let mut draining = self.draining.clone();
        draining.remove(name);
        let edit = Edit::Remove(name);
        self.change_one(rules, draining, name, &origin, Some(&edit), dry_run).await
    }

    async fn drain(&mut self, name: &RuleName, dry_run: bool) -> Done {
        let (_, _, origin) = self.find(name)?;
        let mut draining = self.draining.clone();
        draining.insert(name.clone());
        let rules = self.rules.clone();
        self.change_one(rules, draining, name, &origin, None, dry_run).await
    }

    async fn enable(&mut self, name: &RuleName, dry_run: bool) -> Done {
        let (index, rule, origin) = self.find(name)?;
        let mut draining = self.draining.clone();
        draining.remove(name);
        let mut rules = self.rules.clone();
        if rule.enabled {
            return self.change_one(rules, draining, name, &origin, None, dry_run).await;
        }
        rules[index].0 = Arc::new(Rule { enabled: true, ..(*rule).clone() });
        let fields = Map::from_iter([("enabled".to_owned(), Value::Null)]);
        let edit = Edit::Set(name, &fields);
        self.change_one(rules, draining, name, &origin, Some(&edit), dry_run).await
    }

    fn find(&self, name: &RuleName) -> Result<(usize, Arc<Rule>, Origin), ApiProblem> {
        let index =
            self.rules.iter().position(|(rule, _)| rule.name == *name).ok_or_else(|| not_found(name))?;
        let (rule, origin) = self.rules[index].clone();
        Ok((index, rule, origin))
    }

    /// Changes one rule: it must work, in the kernel and in its file, or nothing changes.
    async fn change_one(
        &mut self,
        rules: Rules,
        draining: BTreeSet<RuleName>,
        name: &RuleName,
        origin: &Origin,
        edit: Option<&Edit<'_>>,
        dry_run: bool,
    ) -> Done {
        if self.pending.is_some() {
            let text = "an apply waits for its confirmation; confirm it or let it lapse first";
            return Err(ApiProblem::new(Code::NotPossible, text));
        }
        self.refuse_overlap(&rules, name)?;
        let mut view = ChangeView { changes: changes(&self.rules, &rules), dry_run, ..ChangeView::default() };
        let prepared = self.prepare(rules, draining, Strictness::Rule(name)).await?;
        if dry_run {
            view.degraded =
                prepared.planned.iter().any(|planned| planned.rule.name == *name && planned.is_ill());
            self.rehold(&prepared.changed);
            return Ok(view);
        }
        let staged =
            match edit.filter(|_| !view.changes.is_empty()).map(|edit| stage(origin, edit)).transpose() {
                Ok(staged) => staged.flatten(),
                Err(problem) => {
                    self.rehold(&prepared.changed);
                    return Err(problem);
                }
            };
        let undo = self.carry_out(prepared)?;
        if let Some((path, staged)) = staged {
            if let Err(error) = staged.commit() {
                self.go_back(undo);
                return Err(not_saved(&format!("{}: {error}", path)));
            }
            view.saved = Some(path);
        } else if edit.is_some() && !view.changes.is_empty() {
            view.notes.push("not saved: the rule lives on relayd's command line".into());
        }
        self.finish(&mut view, name);
        Ok(view)
    }

    fn finish(&mut self, view: &mut ChangeView, name: &RuleName) {
        for change in &view.changes {
            let kind = format!("rule.{}", change.action);
            self.shared.tell(&kind, Some(name), format!("rule {} {}", change.name, change.action));
            tracing::info!(RULE = change.name, "rule {} {}", change.name, change.action);
        }
        view.degraded = self.planned.iter().any(|planned| planned.rule.name == *name && planned.is_ill());
        self.publish();
    }

    /// Overlaps of the changed rule with others, named.
    fn refuse_overlap(&self, rules: &Rules, name: &RuleName) -> Result<(), ApiProblem> {
        let list: Vec<&Rule> = rules.iter().map(|(rule, _)| &**rule).collect();
        let Some(changed) = list.iter().position(|rule| rule.name == *name) else { return Ok(()) };
        let overlaps = overlap::find_with(&list, changed);
        let Some(found) = overlaps.first() else { return Ok(()) };
        let (own, other) = if found.first.0 == changed {
            (&found.first, &found.second)
        } else {
            (&found.second, &found.first)
        };
        let text = format!(
            "\"{}\" takes {}/{} that rule \"{}\" has as \"{}\"; choose other ports, or remove one of them",
            own.1, found.ports, found.protocol, list[other.0].name, other.1
        );
        Err(ApiProblem::new(Code::NotPossible, text))
    }

    /// Makes other rules the current ones. On error nothing has changed.
    pub async fn switch(
        &mut self,
        rules: Rules,
        draining: BTreeSet<RuleName>,
        strictness: Strictness<'_>,
    ) -> Result<Undo, ApiProblem> {
        let prepared = self.prepare(rules, draining, strictness).await?;
        self.carry_out(prepared)
    }

    /// All that a switch needs before the kernel plane is touched: facts, ports, the plan.
    async fn prepare(
        &mut self,
        rules: Rules,
        draining: BTreeSet<RuleName>,
        strictness: Strictness<'_>,
    ) -> Result<Prepared, ApiProblem> {
        let changed = self.changed(&rules);
        let again = matches!(strictness, Strictness::Reload);
        self.facts.resolve(&changed, again).await;
        self.hold(&rules, &changed);
        self.facts.find_paths(&changed).await;
        let planned = self.plan(&rules, &draining, again);
        if let Strictness::Rule(name) = strictness
            && let Some(fault) = planned
                .iter()
                .find(|planned| planned.rule.name == *name && planned.rule.enabled)
                .and_then(|planned| planned.faults.iter().find(|fault| !fault.may_pass()))
        {
            let text = format!("rule \"{name}\": {fault}");
            self.rehold(&changed);
            return Err(ApiProblem::new(Code::NotPossible, text));
        }
        Ok(Prepared { rules, draining, planned, changed })
    }

    fn carry_out(&mut self, prepared: Prepared) -> Result<Undo, ApiProblem> {
        let Prepared { rules, draining, planned, changed } = prepared;
        match self.apply(&planned) {
            Err(error) => {
                self.rehold(&changed);
                Err(ApiProblem::new(Code::NotApplied, format!("nothing changed: {error}")))
            }
            Ok(desired) => Ok(Undo {
                rules: std::mem::replace(&mut self.rules, rules),
                draining: std::mem::replace(&mut self.draining, draining),
                planned: std::mem::replace(&mut self.planned, planned),
                desired: std::mem::replace(&mut self.desired, desired),
            }),
        }
    }

    /// Undoes a switch.
    pub fn go_back(&mut self, undo: Undo) {
        let changed = self.changed(&undo.rules);
        if let Err(error) = self.apply(&undo.planned) {
            tracing::error!("cannot go back: {error}");
        }
        let Undo { rules, draining, planned, desired } = undo;
        (self.rules, self.draining, self.planned, self.desired) = (rules, draining, planned, desired);
        self.rehold(&changed);
        self.publish();
    }

    /// Rules of `next` that are not among the current ones as they are.
    fn changed(&self, next: &Rules) -> Vec<Arc<Rule>> {
        let current: HashMap<&RuleName, &Arc<Rule>> =
            self.rules.iter().map(|(rule, _)| (&rule.name, rule)).collect();
        let same = |rule: &Arc<Rule>| {
            current.get(&rule.name).is_some_and(|known| Arc::ptr_eq(known, rule) || *known == rule)
        };
        next.iter().map(|(rule, _)| rule).filter(|rule| !same(rule)).cloned().collect()
    }

    fn hold(&mut self, rules: &Rules, changed: &[Arc<Rule>]) {
        let all: HashSet<&RuleName> = rules.iter().map(|(rule, _)| &rule.name).collect();
        self.facts.hold(changed, &all);
    }

    /// Takes the ports of the current rules again, after a change that did not come to be.
    fn rehold(&mut self, changed: &[Arc<Rule>]) {
        let names: HashSet<&RuleName> = changed.iter().map(|rule| &rule.name).collect();
        let all: HashSet<&RuleName> = self.rules.iter().map(|(rule, _)| &rule.name).collect();
        let back = self.rules.iter().map(|(rule, _)| rule).filter(|rule| names.contains(&rule.name));
        let back: Vec<Arc<Rule>> = back.cloned().collect();
        self.facts.hold(&back, &all);
    }
}

/// Writes a change beside the rule's file, whose path comes along. `None`: the rule has no file.
fn stage(origin: &Origin, edit: &Edit<'_>) -> Result<Option<(String, Staged)>, ApiProblem> {
    match origin {
        Origin::CommandLine => Ok(None),
        Origin::File(path) => {
            let staged = edit::stage(path, edit).map_err(|error| not_saved(&error))?;
            Ok(Some((path.display().to_string(), staged)))
        }
    }
}

fn not_saved(error: &dyn std::fmt::Display) -> ApiProblem {
    ApiProblem::new(Code::NotSaved, format!("not saved, and nothing changed: {error}"))
}

/// How much must be right for a switch to happen.
#[derive(Clone, Copy)]
pub enum Strictness<'a> {
    /// This rule must work as written.
    Rule(&'a RuleName),
    /// Rules with faults are kept, as far as they work, and names are resolved again.
    Reload,
}

/// What changes between two sets of rules.
pub fn changes(before: &Rules, after: &Rules) -> Vec<RuleChange> {
    let old: HashMap<&RuleName, &Arc<Rule>> = before.iter().map(|(rule, _)| (&rule.name, rule)).collect();
    let new: HashSet<&RuleName> = after.iter().map(|(rule, _)| &rule.name).collect();
    let mut changes = Vec::new();
    for (rule, _) in after {
        let (action, before) = match old.get(&rule.name) {
            None => ("added", None),
            Some(known) if Arc::ptr_eq(known, rule) || *known == rule => continue,
            Some(known) => ("changed", Some(encode::to_json(known))),
        };
        let (name, after) = (rule.name.to_string(), Some(encode::to_json(rule)));
        changes.push(RuleChange { action: action.into(), name, before, after });
    }
    for (rule, _) in before.iter().filter(|(rule, _)| !new.contains(&rule.name)) {
        let (name, before) = (rule.name.to_string(), Some(encode::to_json(rule)));
        changes.push(RuleChange { action: "removed".into(), name, before, after: None });
    }
    changes
}
