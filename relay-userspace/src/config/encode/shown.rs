//! A rule for eyes that may not see everything: whoever may look at rules need not know the secrets in them.

use serde_json::{Map, Value as Json, json};

use crate::rule::Rule;

const HIDDEN: &str = "(hidden)";
const HIDDEN_ANEW: &str = "(hidden, another one)";

/// As [`super::to_json`], with tokens and what headers say hidden. `before`: the rule that it was; a secret that has changed since
/// is shown to have.
pub fn shown(rule: &Rule, before: Option<&Rule>) -> Map<String, Json> {
    let mut map = super::to_json(rule);
    let before = before.filter(|_| rule.has_tunnel()).map(super::to_json).unwrap_or_default();
    for leg in ["accept", "connect"] {
        let Some(keys) = map.get_mut(leg).and_then(Json::as_object_mut) else { continue };
        let before = before.get(leg);
        hide(keys.get_mut("token"), before.and_then(|keys| keys.get("token")));
        let Some(headers) = keys.get_mut("headers").and_then(Json::as_object_mut) else { continue };
        let before = before.and_then(|keys| keys.get("headers"));
        for (name, value) in headers {
            let old = before.and_then(|headers| headers.get(name));
            hide(Some(value), old);
        }
    }
    map
}

fn hide(secret: Option<&mut Json>, before: Option<&Json>) {
    if let Some(secret) = secret {
        let is_another = before.is_some_and(|before| before != secret);
        *secret = json!(if is_another { HIDDEN_ANEW } else { HIDDEN });
    }
}
