//! What somebody orders for one backend by hand.

use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::api::problem::{ApiProblem, Code};
use crate::api::view::{ChangeView, RuleChange};
use crate::config::encode;
use crate::health::saved::BackendOrder;
use crate::health::tiers::Held;
use crate::rule::{Backend, Balance, Rule, RuleName};
use crate::supervisor::change::Done;
use crate::supervisor::command::Manner;
use crate::supervisor::shared::not_found;
use crate::supervisor::state::State;

/// What to do with a backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BackendCall {
    /// Written into the configuration.
    Weight(u16),
    /// It gets no new flow, and keeps those that it has.
    Drain,
    /// It is taken as down.
    Down,
    /// Ends an order, forgets failures, and gives a better tier its flows back.
    Up,
}

impl State {
    pub async fn call_backend(
        &mut self,
        name: &RuleName,
        backend: &str,
        call: BackendCall,
        manner: Manner<'_>,
    ) -> Done {
        let found = self.rules.iter().find(|(rule, _)| rule.name == *name);
        let (rule, _) = found.cloned().ok_or_else(|| not_found(name))?;
        let index = index_of(&rule, backend)?;
        if let BackendCall::Weight(weight) = call {
            let fields = with_weight(&rule, index, weight);
            return self.set(name, &fields, manner).await;
        }
        let backend = rule.to[index].to_string();
        let order = match call {
            BackendCall::Drain => Some(BackendOrder::Drain),
            BackendCall::Down => Some(BackendOrder::Down),
            BackendCall::Up | BackendCall::Weight(_) => None,
        };
        let (action, what) = match call {
            BackendCall::Drain => ("draining", "drains: it gets no new flows, and keeps those that it has"),
            BackendCall::Down => ("down", "is down by order"),
            BackendCall::Up | BackendCall::Weight(_) => ("up", "is judged by its answers again"),
        };
        let text = format!("rule {name}: backend {backend} {what}");
        let mut view = ChangeView { dry_run: manner.dry_run, ..ChangeView::default() };
        if order.is_some() && order == self.backends.order_of(name, &backend) {
            return Ok(view);
        }
        view.changes.push(RuleChange {
            action: action.into(),
            name: name.to_string(),
            backend: Some(backend.clone()),
            ..RuleChange::default()
        });
        if manner.dry_run {
            return Ok(view);
        }
        self.backends.order(&rule, &backend, order);
        self.backends.follow(&self.planned);
        self.reweigh(name, None);
        tracing::info!(RULE = name.as_str(), "{text}");
        self.shared.tell("backend.order", Some(name), text);
        self.backends.save();
        self.publish();
        Ok(view)
    }
}

impl super::Backends {
    fn order_of(&self, rule: &RuleName, backend: &str) -> Option<BackendOrder> {
        self.health.get(rule)?.orders.get(backend).copied()
    }

    /// Takes an order for a backend, or ends one and lets it begin anew.
    fn order(&mut self, rule: &Rule, backend: &str, order: Option<BackendOrder>) {
        self.overrule(&rule.name, backend);
        let health = self.health.entry(rule.name.clone()).or_default();
        match order {
            Some(order) => _ = health.orders.insert(backend.into(), order),
            None => {
                health.orders.remove(backend);
                let now = Instant::now();
                // whoever calls one up wants it to have its part, though a tier that comes after it has it now
                health.held.retain(|_, held| !comes_before(rule, backend, held));
                let known = health.endpoints.iter_mut().filter(|((_, name), _)| **name == *backend);
                known.for_each(|(_, verdict)| verdict.pardon(now));
                let ends = self.watched.get(&rule.name).map(|watched| &watched.ends);
                let ends = ends.into_iter().flatten().filter(|((_, name), _)| **name == *backend);
                if let Some(prober) = &self.prober {
                    ends.for_each(|(_, end)| prober.pardon(end.id));
                }
            }
        }
        self.is_unsaved = true;
    }
}

/// Whether a backend is tried before all of a held tier.
fn comes_before(rule: &Rule, backend: &str, held: &Held<Box<str>>) -> bool {
    let rank = |name: &str| {
        let index = rule.to.iter().position(|to| to.to_string() == name)?;
        Some((rule.to[index].priority, if rule.balance == Balance::First { index } else { 0 }))
    };
    let first = held.0.iter().filter_map(|name| rank(name)).min();
    rank(backend).zip(first).is_some_and(|(own, first)| own < first)
}

/// Where a backend is in the rule's list: by its text there, by where it leads, or without its port.
fn index_of(rule: &Rule, backend: &str) -> Result<usize, ApiProblem> {
    let texts: Vec<String> = rule.to.iter().map(ToString::to_string).collect();
    if let Some(index) = texts.iter().position(|text| text == backend) {
        return Ok(index);
    }
    let asked = Backend::parse(backend).ok();
    let places = |is: &dyn Fn(&Backend, &Backend) -> bool| -> Vec<usize> {
        let found = rule.to.iter().enumerate().filter(|(_, to)| asked.as_ref().is_some_and(|it| is(to, it)));
        found.map(|(index, _)| index).collect()
    };
    let same = places(&|to, asked| to.is_where(asked, &rule.listen));
    let on_host = places(&|to, asked| asked.first_port().is_none() && to.host == asked.host);
    match (&same[..], &on_host[..]) {
        (&[index], _) | (_, &[index]) => Ok(index),
        (_, several) => {
            let (name, all) = (&rule.name, texts.join(", "));
            let wrong = if several.is_empty() { "has no backend" } else { "has several backends on" };
            let text = format!("rule \"{name}\" {wrong} \"{backend}\"; it has {all}");
            Err(ApiProblem::new(Code::BackendNotFound, text))
        }
    }
}

/// The rule's list with another weight for one backend.
fn with_weight(rule: &Rule, index: usize, weight: u16) -> Map<String, Value> {
    let mut changed = rule.clone();
    changed.to[index].weight = weight;
    let to = encode::to_json(&changed).remove("to").unwrap_or_else(|| json!([]));
    Map::from_iter([("to".to_owned(), to)])
}
