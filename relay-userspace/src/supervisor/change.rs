//! Carrying out commands: try, apply, save; go back if any of it fails.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::command::{Action, Command, Manner, Reply, Setback};
use super::delta::{changes, different};
use super::names::names_for;
use super::shared::not_found;
use super::state::{Prepared, Rules, State, Undo};
use crate::accounting::allowances::Owner;
use crate::api::problem::{ApiProblem, Code};
use crate::api::view::{ChangeView, RuleChange};
use crate::config::edit::{self, Edit};
use crate::config::files::{NO_GROUP, no_group};
use crate::config::save::Staged;
use crate::config::{Origin, encode, patch};
use crate::plan::PlannedRule;
use crate::rule::{Rule, RuleName, counting, overlap};

pub type Done = Result<ChangeView, Setback>;

impl State {
    /// Carries out a command and answers it. One that needs names is put aside until there are answers.
    pub async fn handle(&mut self, command: Command) {
        let answer = match self.act(&command).await {
            Err(Setback::Unknown(names)) => return self.put_aside(command, names),
            Err(Setback::Refused(problem)) => Err(problem),
            Ok(reply) => Ok(reply),
        };
        self.tend_names();
        let _caller_gone = command.reply.send(answer);
    }

    async fn act(&mut self, command: &Command) -> Result<Reply, Setback> {
        let manner = Manner { dry_run: command.dry_run, asked: &command.asked };
        let view = match &command.action {
            Action::Add(rule) => self.add(rule, manner).await?,
            Action::Set(name, fields) => self.set(name, fields, manner).await?,
            Action::Remove(name) => self.remove(name, manner).await?,
            Action::Drain(name) => self.drain(name, manner).await?,
            Action::Enable(name) => self.enable(name, manner).await?,
            Action::Backend(name, backend, call) => self.call_backend(name, backend, *call, manner).await?,
            Action::ResetQuota(owner) => {
                self.reset_quota(owner, manner.dry_run)?;
                let (name, is_group) = (owner.name().to_string(), matches!(owner, Owner::Group(_)));
                let change =
                    RuleChange { action: "quota reset".into(), name, is_group, ..RuleChange::default() };
                ChangeView { changes: vec![change], dry_run: manner.dry_run, ..ChangeView::default() }
            }
            Action::Reload if manner.dry_run => self.diff(None, manner).await?,
            Action::Reload => self.reload().await?,
            Action::Apply { text, confirm } => self.replace(text, *confirm, manner).await?,
            Action::Import(rules, how) => self.import(rules.clone(), *how, manner).await?,
            Action::Confirm => self.confirm().await?,
            Action::Diff(text) => self.diff(text.as_deref(), manner).await?,
            Action::Down if manner.dry_run => return Ok(Reply::Down(self.would_take_down())),
            Action::Down => return Ok(Reply::Down(self.take_down())),
        };
        Ok(Reply::Change(view))
    }

    async fn add(&mut self, rule: &Rule, manner: Manner<'_>) -> Done {
        if self.rules.iter().any(|(known, _)| known.name == rule.name) {
            let text = format!("there is a rule \"{}\" already; `relayctl set` changes it", rule.name);
            return Err(ApiProblem::new(Code::RuleExists, text).into());
        }
        let origin = match &self.config_path {
            Some(path) => Origin::File(path.as_path().into()),
            None => Origin::CommandLine,
        };
        let rule = Arc::new(rule.clone());
        let mut rules = self.rules.clone();
        rules.push((rule.clone(), origin.clone()));
        let draining = self.draining.clone();
        let edit = Edit::Add(&rule);
        self.change_one(rules, draining, &rule.name, &origin, Some(&edit), manner).await
    }

    pub(super) async fn set(
        &mut self,
        name: &RuleName,
        fields: &Map<String, Value>,
        manner: Manner<'_>,
    ) -> Done {
        let (index, rule, origin) = self.find(name)?;
        let before = encode::to_json(&rule);
        let fields = patch::spelled_out(&before, fields.clone()).map_err(ApiProblem::from)?;
        let changed = patch::patched(before, &fields).map_err(ApiProblem::from)?;
        if changed.name != *name {
            let text = "a rule keeps its name; add it under the new one and remove the old";
            return Err(ApiProblem::new(Code::Invalid, text).into());
        }
        let mut rules = self.rules.clone();
        rules[index].0 = Arc::new(changed);
        let edit = Edit::Set(name, &fields);
        let draining = self.draining.clone();
        self.change_one(rules, draining, name, &origin, Some(&edit), manner).await
    }

    async fn remove(&mut self, name: &RuleName, manner: Manner<'_>) -> Done {
        let (index, _, origin) = self.find(name)?;
        let mut rules = self.rules.clone();
        rules.remove(index);
        let mut draining = self.draining.clone();
        draining.remove(name);
        let edit = Edit::Remove(name);
        self.change_one(rules, draining, name, &origin, Some(&edit), manner).await
    }

    async fn drain(&mut self, name: &RuleName, manner: Manner<'_>) -> Done {
        let (_, _, origin) = self.find(name)?;
        let mut draining = self.draining.clone();
        draining.insert(name.clone());
        let rules = self.rules.clone();
        self.change_one(rules, draining, name, &origin, None, manner).await
    }

    async fn enable(&mut self, name: &RuleName, manner: Manner<'_>) -> Done {
        let (index, rule, origin) = self.find(name)?;
        let mut draining = self.draining.clone();
        draining.remove(name);
        let mut rules = self.rules.clone();
        if rule.enabled {
            return self.change_one(rules, draining, name, &origin, None, manner).await;
        }
        rules[index].0 = Arc::new(Rule { enabled: true, ..(*rule).clone() });
        let fields = Map::from_iter([("enabled".to_owned(), Value::Null)]);
        let edit = Edit::Set(name, &fields);
        self.change_one(rules, draining, name, &origin, Some(&edit), manner).await
    }

    fn find(&self, name: &RuleName) -> Result<(usize, Arc<Rule>, Origin), ApiProblem> {
        let index =
            self.rules.iter().position(|(rule, _)| rule.name == *name).ok_or_else(|| not_found(name))?;
        let (rule, origin) = self.rules[index].clone();
        if rule.is_watch {
            let text = format!(
                "{name} is a watch; change its `[[watch]]` in the file, and `relayctl reload` follows"
            );
            return Err(ApiProblem::new(Code::NotPossible, text));
        }
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
        manner: Manner<'_>,
    ) -> Done {
        if self.pending.is_some() {
            let text = "an apply waits for its confirmation; confirm it or let it lapse first";
            return Err(ApiProblem::new(Code::NotPossible, text).into());
        }
        self.refuse_group(&rules, name)?;
        if let Some((_, text)) = counting::too_many(rules.iter().map(|(rule, _)| &**rule)) {
            let text = format!("rule \"{name}\": count_ports: {text}; {}", counting::TOO_MANY);
            return Err(ApiProblem::new(Code::Invalid, text).into());
        }
        self.refuse_overlap(&rules, name)?;
        self.want_names(&rules, manner)?;
        let mut view = ChangeView {
            changes: changes(&self.rules, &rules),
            dry_run: manner.dry_run,
            ..ChangeView::default()
        };
        view.changes.extend(drain_change(name, self.draining.contains(name), draining.contains(name)));
        if manner.dry_run {
            let planned = self.rehearse(&rules, &draining, Strictness::Rule(name)).await?;
            complain(&mut view, planned.iter().filter(|planned| planned.rule.name == *name));
            return Ok(view);
        }
        let prepared = self.prepare(rules, draining, Strictness::Rule(name)).await?;
        let edit = edit.filter(|_| !view.changes.is_empty());
        let stage = || edit.map_or(Ok(None), |edit| stage(origin, edit));
        // A new rule that has to go again has harmed nobody, so it works first and is saved after. What may end flows
        // waits until only the last step of saving can fail.
        let staged = if matches!(edit, Some(Edit::Add(_))) { None } else { Some(stage()) };
        if let Some(Err(problem)) = staged {
            self.rehold(&prepared.rules);
            return Err(problem.into());
        }
        let memories = self.backends.memories();
        let undo = self.carry_out(prepared)?;
        match staged.unwrap_or_else(stage).and_then(commit) {
            Ok(saved) => {
                self.settle(&undo);
                view.saved = saved;
            }
            Err(problem) => {
                // a rule that was as good as gone has its orders again
                self.backends.set_aside(memories);
                self.backends.recall();
                self.go_back(undo);
                return Err(problem.into());
            }
        }
        if edit.is_some() && view.saved.is_none() {
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
        complain(view, self.planned.iter().filter(|planned| planned.rule.name == *name));
        self.publish();
    }

    /// A group that the changed rule names, and nobody has.
    fn refuse_group(&self, rules: &Rules, name: &RuleName) -> Result<(), ApiProblem> {
        let changed = rules.iter().map(|(rule, _)| rule).find(|rule| rule.name == *name);
        match changed.and_then(|rule| rule.group.as_ref()).filter(|group| !self.groups.contains_key(*group)) {
            None => Ok(()),
            Some(group) => {
                let text = format!("rule \"{name}\": group: {}; {NO_GROUP}", no_group(group));
                Err(ApiProblem::new(Code::Invalid, text))
            }
        }
    }

    /// Overlaps of the changed rule with others, named.
    fn refuse_overlap(&self, rules: &Rules, name: &RuleName) -> Result<(), ApiProblem> {
        let list: Vec<&Rule> = rules.iter().map(|(rule, _)| &**rule).collect();
        let Some(changed) = list.iter().position(|rule| rule.name == *name) else { return Ok(()) };
        let overlaps = overlap::find_with(&list, changed);
        let Some(found) = overlaps.first() else { return Ok(()) };
        let own = if found.second.0 == changed { &found.second } else { &found.first };
        let text = format!("{}; choose other ports, or remove one of them", found.shown(own, &list));
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
        let undo = self.carry_out(prepared)?;
        self.settle(&undo);
        Ok(undo)
    }

    /// Lets go of the ports that only the rules before wanted.
    fn settle(&mut self, undo: &Undo) {
        let (changed, gone) = different(&undo.rules, &self.rules);
        self.facts.settle(&changed, &gone);
    }

    /// All that a switch needs before the kernel plane is touched: facts, ports, the plan.
    async fn prepare(
        &mut self,
        rules: Rules,
        draining: BTreeSet<RuleName>,
        strictness: Strictness<'_>,
    ) -> Result<Prepared, ApiProblem> {
        let (changed, _) = different(&self.rules, &rules);
        let again = matches!(strictness, Strictness::Reload);
        if again {
            self.facts.names.look_up_again(&names_for(rules.iter().map(|(rule, _)| rule)));
        }
        self.facts.hold(&changed);
        self.facts.find_paths(&changed).await;
        let planned = self.plan(&rules, &draining, again);
        if let Err(refused) = refuse_fault(&planned, strictness) {
            self.rehold(&rules);
            return Err(refused);
        }
        Ok(Prepared { rules, draining, planned })
    }

    fn carry_out(&mut self, prepared: Prepared) -> Result<Undo, ApiProblem> {
        let Prepared { rules, draining, planned } = prepared;
        match self.apply(&planned) {
            Err(error) => {
                self.rehold(&rules);
                Err(ApiProblem::new(Code::NotApplied, format!("nothing changed: {error}")))
            }
            Ok(desired) => Ok(Undo {
                rules: std::mem::replace(&mut self.rules, rules),
                draining: std::mem::replace(&mut self.draining, draining),
                planned: std::mem::replace(&mut self.planned, planned),
                desired: std::mem::replace(&mut self.desired, desired),
                groups: None,
                dns: None,
                connections: None,
                alerts: None,
            }),
        }
    }

    /// Plans other rules as a switch would, and touches neither the kernel nor any port.
    pub async fn rehearse(
        &mut self,
        rules: &Rules,
        draining: &BTreeSet<RuleName>,
        strictness: Strictness<'_>,
    ) -> Result<Vec<Arc<PlannedRule>>, ApiProblem> {
        let (changed, _) = different(&self.rules, rules);
        self.facts.find_paths(&changed).await;
        let taken = self.facts.would_be_taken(&changed);
        let taken = std::mem::replace(&mut self.facts.taken, taken);
        let planned = self.plan(rules, draining, false);
        self.facts.taken = taken;
        refuse_fault(&planned, strictness)?;
        Ok(planned)
    }

    /// Undoes a switch.
    pub fn go_back(&mut self, undo: Undo) {
        let Undo { rules, draining, planned, desired, groups, dns, connections, alerts } = undo;
        if let Some(groups) = groups {
            self.groups = groups;
        }
        if let Some(dns) = dns {
            self.use_dns(dns);
        }
        if let Some(on) = connections {
            self.log_connections(on);
        }
        if let Some(alerts) = alerts {
            self.shared.alerts.set(&alerts);
        }
        let (changed, _) = different(&self.rules, &rules);
        self.facts.hold(&changed);
        if let Err(error) = self.apply(&planned) {
            tracing::error!("cannot go back: {error}");
        }
        let undone = std::mem::replace(&mut self.rules, rules);
        (self.draining, self.planned, self.desired) = (draining, planned, desired);
        self.rehold(&undone);
        self.publish();
    }

    /// Goes back to the ports of the current rules, after a change to `undone` that did not come to be.
    fn rehold(&mut self, undone: &Rules) {
        let (changed, gone) = different(undone, &self.rules);
        self.facts.hold(&changed);
        self.facts.settle(&changed, &gone);
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

/// Puts a staged change into the rule's file; returns the file's path.
fn commit(staged: Option<(String, Staged)>) -> Result<Option<String>, ApiProblem> {
    let Some((path, staged)) = staged else { return Ok(None) };
    staged.commit().map_err(|error| not_saved(&format!("{path}: {error}")))?;
    Ok(Some(path))
}

fn not_saved(error: &dyn std::fmt::Display) -> ApiProblem {
    ApiProblem::new(Code::NotSaved, format!("not saved, and nothing changed: {error}"))
}

/// How much must be right for a switch to happen.
#[derive(Clone, Copy)]
pub enum Strictness<'a> {
    /// This rule must work as written.
    Rule(&'a RuleName),
    /// Rules with faults are kept, as far as they work, and names are looked up again, without waiting for answers.
    Reload,
}

/// The first fault of a rule that must work as written.
fn refuse_fault(planned: &[Arc<PlannedRule>], strictness: Strictness<'_>) -> Result<(), ApiProblem> {
    let Strictness::Rule(name) = strictness else { return Ok(()) };
    let rule = planned.iter().find(|planned| planned.rule.name == *name && planned.rule.enabled);
    match rule.and_then(|planned| planned.faults.iter().find(|fault| !fault.may_pass())) {
        None => Ok(()),
        Some(fault) => Err(ApiProblem::new(Code::NotPossible, format!("rule \"{name}\": {fault}"))),
    }
}

/// Rules that are told about one by one.
const MOST_COMPLAINTS: usize = 10;

/// Says of each rule that does not work as written why.
pub fn complain<'a>(view: &mut ChangeView, planned: impl Iterator<Item = &'a Arc<PlannedRule>>) {
    let complaints: Vec<String> = planned.filter_map(|planned| planned.complaint()).collect();
    view.degraded = !complaints.is_empty();
    let more = complaints.len().saturating_sub(MOST_COMPLAINTS);
    view.notes.extend(complaints.into_iter().take(MOST_COMPLAINTS));
    if more > 0 {
        view.notes.push(format!("{more} more rules do not work as written; `relayctl list` shows which"));
    }
}

/// A drain is no change of the configuration, but one all the same.
fn drain_change(name: &RuleName, before: bool, after: bool) -> Option<RuleChange> {
    let action = if after { "draining" } else { "resumed" };
    let change = RuleChange { action: action.into(), name: name.to_string(), ..RuleChange::default() };
    (before != after).then_some(change)
}
