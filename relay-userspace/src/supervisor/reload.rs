//! Whole configurations: reload, apply with its confirmation, diff.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::alerts;
use super::change::{Done, Strictness, complain};
use super::command::Manner;
use super::delta::changes;
use super::state::{Pending, Rules, State, Undo};
use crate::api::problem::{ApiProblem, Code};
use crate::api::view::ChangeView;
use crate::config::dns::Dns;
use crate::config::edit;
use crate::config::files::Config;
use crate::config::save::{Staged, save};
use crate::config::settings::Settings;
use crate::import::conflict::{self, OnConflict};
use crate::rule::{Rule, RuleName};

impl State {
    /// Reads the configuration again. One that is wrong changes nothing.
    pub async fn reload(&mut self) -> Result<ChangeView, ApiProblem> {
        if self.pending.is_some() {
            let text = "not reloaded: an apply waits for its confirmation; confirm it or let it lapse first";
            tracing::error!("{text}");
            return Err(ApiProblem::new(Code::NotPossible, text));
        }
        self.reloaded = Some(Instant::now());
        let result = match self.read_config() {
            Err(problems) => Err(ApiProblem::from(problems)),
            Ok(config) => self.take_over(config).await,
        };
        self.reload_error = result.as_ref().err().map(|problem| problem.detail.clone());
        match &result {
            Ok(view) => tracing::info!("reloaded: {} rules changed", view.changes.len()),
            Err(problem) => tracing::error!("not reloaded, the old rules stay: {}", problem.detail),
        }
        let text = match &result {
            Ok(_) => "configuration reloaded".to_owned(),
            // the first mistake; those who look find the others
            Err(problem) => {
                format!("configuration refused: {}", problem.detail.lines().next().unwrap_or_default())
            }
        };
        self.shared.tell("reload", None, text);
        self.tend_names();
        self.publish();
        result
    }

    /// What another configuration would change.
    fn changes_to(&self, config: &Config) -> ChangeView {
        let mut notes: Vec<String> = settings_note(&self.settings, &config.settings).into_iter().collect();
        notes.extend(alerts::strangers(&config.alerts, config.rules.iter().map(|(rule, _)| &rule.name)));
        ChangeView {
            changes: changes(&self.rules, &config.rules),
            alerts: alerts::changes(&self.shared.alerts.alerts(), &config.alerts),
            notes,
            ..ChangeView::default()
        }
    }

    /// Switches to a configuration that has been read.
    async fn take_over(&mut self, config: Config) -> Result<ChangeView, ApiProblem> {
        if self.down {
            self.bring_up();
        }
        let view = self.changes_to(&config);
        self.switch_all(config).await?;
        self.publish();
        Ok(view)
    }

    /// Makes another configuration the current one, as far as that needs no restart.
    async fn switch_all(&mut self, config: Config) -> Result<Undo, ApiProblem> {
        let rules = self.keep_known(config.rules);
        let draining = self.still_draining(&rules);
        // names of the new rules are looked up in the new way
        let before = self.use_dns(config.settings.dns);
        let groups = std::mem::replace(&mut self.groups, config.groups);
        match self.switch(rules, draining, Strictness::Reload).await {
            Ok(undo) => {
                let connections = self.log_connections(config.settings.log_connections);
                let alerts = self.shared.alerts.alerts();
                self.shared.alerts.set(&config.alerts);
                Ok(Undo {
                    groups: Some(groups),
                    dns: Some(before),
                    connections: Some(connections),
                    alerts: Some(alerts),
                    ..undo
                })
            }
            Err(problem) => {
                self.use_dns(before);
                self.groups = groups;
                Err(problem)
            }
        }
    }

    /// Looks names up in this way from now on; returns the way before.
    pub fn use_dns(&mut self, dns: Dns) -> Dns {
        self.facts.names.configure(&dns);
        std::mem::replace(&mut self.settings.dns, dns)
    }

    /// Whether connections are logged from now on; returns whether they were.
    pub fn log_connections(&mut self, on: bool) -> bool {
        self.log.switch(on);
        if let Ok(kernel) = &mut self.kernel
            && !self.down
            && let Err(error) = kernel.log_ended(on)
        {
            tracing::error!("connections of the kernel plane are not logged: {error}");
        }
        std::mem::replace(&mut self.settings.log_connections, on)
    }

    /// Has the kernel plane tell of all that it sees while somebody watches.
    pub fn observe(&mut self) {
        let on = self.shared.observatory.is_on();
        if let Ok(kernel) = &mut self.kernel
            && !self.down
            && let Err(error) = kernel.observe(on)
        {
            tracing::error!("the kernel plane cannot be watched: {error}");
        }
        self.shared.observatory.set_ready(on);
    }

    /// Drain marks of rules that stay.
    fn still_draining(&self, rules: &Rules) -> BTreeSet<RuleName> {
        let names: HashSet<&RuleName> = rules.iter().map(|(rule, _)| &rule.name).collect();
        self.draining.iter().filter(|name| names.contains(name)).cloned().collect()
    }

    /// Rules that are equal to current ones become those, so that nothing about them is done again.
    fn keep_known(&self, rules: Rules) -> Rules {
        let current: HashMap<&RuleName, &Arc<Rule>> =
            self.rules.iter().map(|(rule, _)| (&rule.name, rule)).collect();
        let same = |rule: Arc<Rule>| match current.get(&rule.name) {
            Some(known) if **known == rule => (*known).clone(),
            _ => rule,
        };
        rules.into_iter().map(|(rule, origin)| (same(rule), origin)).collect()
    }

    /// `relayctl apply`: a text becomes the main configuration.
    pub async fn replace(&mut self, text: &str, confirm: Option<Duration>, manner: Manner<'_>) -> Done {
        let Some(path) = self.config_path.clone() else {
            let text = "relayd runs on rules from its command line; start it with --config to use apply";
            return Err(ApiProblem::new(Code::NotPossible, text).into());
        };
        if self.pending.is_some() {
            let text = "another apply waits for its confirmation; confirm it or let it lapse first";
            return Err(ApiProblem::new(Code::NotPossible, text).into());
        }
        let config = self.parse_main(&path, text)?;
        let mut view = ChangeView { dry_run: manner.dry_run, ..self.changes_to(&config) };
        if manner.dry_run {
            return self.rehearsed(config.rules, view, manner).await;
        }
        if self.down {
            self.bring_up();
        }
        let not_saved = |error: std::io::Error| {
            let text = format!("not saved, and nothing changed: {}: {error}", path.display());
            ApiProblem::new(Code::NotSaved, text)
        };
        let staged = Staged::write(&path, text).map_err(not_saved)?;
        let memories = self.backends.memories();
        let undo = self.switch_all(config).await?;
        if let Some(within) = confirm {
            view.confirm_within = Some(within.as_secs());
            self.backends.set_aside(memories);
            self.pending =
                Some(Pending { until: Instant::now() + within, text: text.to_owned(), before: undo });
        } else if let Err(error) = staged.commit() {
            self.backends.set_aside(memories);
            self.backends.recall();
            self.go_back(undo);
            return Err(not_saved(error).into());
        } else {
            view.saved = Some(path.display().to_string());
        }
        self.shared.tell("apply", None, "configuration applied");
        self.publish();
        Ok(view)
    }

    /// Many rules become part of the main configuration in one change, or none does.
    pub async fn import(&mut self, rules: Vec<Rule>, how: OnConflict, manner: Manner<'_>) -> Done {
        let Some(path) = self.config_path.clone() else {
            let text = "relayd runs on rules from its command line; start it with --config to import";
            return Err(ApiProblem::new(Code::NotPossible, text).into());
        };
        let not_read = |error: &dyn std::fmt::Display| {
            ApiProblem::new(Code::NotPossible, format!("nothing is imported: {}: {error}", path.display()))
        };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(not_read(&error).into()),
            read => read.unwrap_or_default(),
        };
        let on_disk = self.parse_main(&path, &text)?;
        if !changes(&self.rules, &on_disk.rules).is_empty() {
            return Err(not_read(&"it has changes that relayd does not know; `relayctl reload` first").into());
        }
        let existing: Vec<&Rule> = self.rules.iter().map(|(rule, _)| &**rule).collect();
        let settled = conflict::settle(&existing, rules, how)
            .map_err(|conflicts| ApiProblem::new(Code::NotPossible, conflicts))?;
        let text = edit::rewritten(&text, &settled.remove, &settled.add).map_err(|why| not_read(&why))?;
        let mut view = self.replace(&text, None, manner).await?;
        view.notes.extend(settled.notes);
        Ok(view)
    }

    pub async fn confirm(&mut self) -> Result<ChangeView, ApiProblem> {
        let Some(pending) = self.pending.take() else {
            return Err(ApiProblem::new(
                Code::NothingPending,
                "there is nothing to confirm; it may have lapsed",
            ));
        };
        let Some(path) = self.config_path.clone() else {
            return Err(ApiProblem::new(Code::NotPossible, "there is no file to save to"));
        };
        if let Err(error) = save(&path, &pending.text) {
            self.backends.recall();
            self.go_back(pending.before);
            self.replan_with_ways("the apply was not saved").await;
            let text = format!("not saved, and undone: {}: {error}", path.display());
            return Err(ApiProblem::new(Code::NotSaved, text));
        }
        self.backends.forget_aside();
        self.publish();
        Ok(ChangeView { saved: Some(path.display().to_string()), ..ChangeView::default() })
    }

    /// An apply that nobody has confirmed is undone.
    pub async fn lapse(&mut self) {
        if let Some(pending) = self.pending.take() {
            tracing::warn!("the apply was not confirmed in time and is undone");
            self.backends.recall();
            self.go_back(pending.before);
            // the host may have changed meanwhile
            self.replan_with_ways("the apply was not confirmed").await;
            self.shared.tell("apply", None, "configuration not confirmed, undone");
            self.tend_names();
        }
    }

    /// What would be if these rules became the current ones.
    async fn rehearsed(&mut self, rules: Rules, mut view: ChangeView, manner: Manner<'_>) -> Done {
        let rules = self.keep_known(rules);
        self.want_names(&rules, manner)?;
        let draining = self.draining.clone();
        let planned = self.rehearse(&rules, &draining, Strictness::Reload).await?;
        complain(&mut view, planned.iter());
        Ok(view)
    }

    pub async fn diff(&mut self, text: Option<&str>, manner: Manner<'_>) -> Done {
        let config = match (&self.config_path, text) {
            (Some(path), Some(text)) => self.parse_main(path, text)?,
            (None, Some(text)) => self.parse_main(Path::new("(text)"), text)?,
            (_, None) => self.read_config().map_err(ApiProblem::from)?,
        };
        let view = ChangeView { dry_run: true, ..self.changes_to(&config) };
        self.rehearsed(config.rules, view, manner).await
    }

    /// The configuration that there would be if the main file held this text.
    fn parse_main(&self, path: &Path, text: &str) -> Result<Config, ApiProblem> {
        Ok(Config::read_with(path, text)?.with_typed(&self.own_rules)?)
    }
}

/// Most settings are read once.
fn settings_note(before: &Settings, after: &Settings) -> Option<String> {
    let live = Settings { dns: before.dns.clone(), log_connections: before.log_connections, ..after.clone() };
    (*before != live)
        .then(|| "changes to [daemon], [log] and [metrics] take effect when relayd is restarted".into())
}
