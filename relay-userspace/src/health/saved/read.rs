//! The file's text as values. `None`: it is not what relayd writes. An entry that is not is left out, the others count.

use serde_json::Value;

use super::{BackendOrder, EndpointKey, Moment, RuleMemory, Saved, state_name};
use crate::health::judge::{Standing, State};
use crate::health::tiers::Held;
use crate::rule::RuleName;
use relay_common::net::Protocol;

/// What is known, and how many entries say nothing.
pub(super) fn saved(value: &Value, now: Moment) -> Option<(Saved, usize)> {
    let (endpoints, rules) = (value["endpoints"].as_array()?, value["rules"].as_object()?);
    let entries = endpoints.len() + rules.len();
    let saved = Saved {
        endpoints: endpoints.iter().filter_map(|value| Some((key(value)?, standing(value, now)?))).collect(),
        rules: rules
            .iter()
            .filter_map(|(name, value)| Some((RuleName::parse(name)?, memory(value)?)))
            .collect(),
    };
    let known = saved.endpoints.len() + saved.rules.len();
    Some((saved, entries - known))
}

fn key(value: &Value) -> Option<EndpointKey> {
    Some(EndpointKey {
        rule: RuleName::parse(value["rule"].as_str()?)?,
        backend: value["backend"].as_str()?.into(),
        address: value["address"].as_str()?.parse().ok()?,
        protocol: protocol(value["protocol"].as_str()?)?,
    })
}

fn protocol(name: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|known| known.as_str() == name)
}

fn standing(value: &Value, now: Moment) -> Option<Standing> {
    let name = value["state"].as_str()?;
    let count = |key: &str| u32::try_from(value[key].as_u64()?).ok();
    Some(Standing {
        state: State::ALL.into_iter().find(|state| state_name(*state) == name)?,
        answered: value["answered"].as_bool()?,
        successes: count("successes")?,
        failures: count("failures")?,
        last_failure: optional(&value["last_failure"], |at| Some(now.instant(at.as_u64()?)))?,
        last_error: optional(&value["last_error"], |error| Some(error.as_str()?.into()))?,
        ..Standing::new(now.instant(value["since"].as_u64()?))
    })
}

fn memory(value: &Value) -> Option<RuleMemory> {
    let orders = value["orders"].as_object()?.iter();
    Some(RuleMemory {
        held: value["held"]
            .as_object()?
            .iter()
            .map(|(name, held)| Some((protocol(name)?, Held(texts(held)?))))
            .collect::<Option<_>>()?,
        orders: orders
            .map(|(backend, value)| Some((backend.as_str().into(), order(value)?)))
            .collect::<Option<_>>()?,
    })
}

fn order(value: &Value) -> Option<BackendOrder> {
    let name = value.as_str()?;
    BackendOrder::ALL.into_iter().find(|order| order.as_str() == name)
}

fn texts(value: &Value) -> Option<Vec<Box<str>>> {
    value.as_array()?.iter().map(|text| Some(text.as_str()?.into())).collect()
}

/// What may be null. The outer `None`: it is neither that nor what it should be.
fn optional<T>(value: &Value, read: impl FnOnce(&Value) -> Option<T>) -> Option<Option<T>> {
    if value.is_null() { Some(None) } else { read(value).map(Some) }
}
