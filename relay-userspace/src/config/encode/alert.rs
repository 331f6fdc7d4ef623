//! An alert back to the grammar, for eyes: whatever may have a key in it is hidden.

use std::fmt::Write as _;

use super::super::quantity::format_duration;
use crate::alert::Alert;
use crate::alert::channel::{Body, Channel, Proxy, Service, Smtp, Web, Webhook};
use crate::alert::secret::HIDDEN;

/// A `[[alert]]` table.
pub fn shown(alert: &Alert) -> String {
    let mut text = String::from("[[alert]]\n");
    let mut put = |key: &str, value: &dyn std::fmt::Debug| {
        let _infallible = writeln!(text, "{key} = {value:?}");
    };
    put("name", &alert.name.as_str());
    put("kind", &alert.channel.kind());
    match &alert.channel {
        Channel::Web(web) => of_web(web, &mut put),
        Channel::Smtp(smtp) => of_smtp(smtp, &mut put),
    }
    put("on", &alert.events.names().collect::<Vec<_>>());
    if let Some(rules) = &alert.rules {
        put("rules", &rules.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    if let Some(digest) = alert.digest {
        put("digest", &digest.to_string());
    }
    if let Some(zone) = alert.zone.iana_name() {
        put("tz", &zone);
    }
    put("gather", &format_duration(alert.gather));
    put("min_interval", &format_duration(alert.min_interval));
    text
}

type Put<'a> = dyn FnMut(&str, &dyn std::fmt::Debug) + 'a;

fn of_web(web: &Web, put: &mut Put<'_>) {
    let Web { service, proxy, ca } = web;
    for key in hidden(service) {
        put(key, &HIDDEN);
    }
    match service {
        Service::Telegram { chat, .. } => put("chat", chat),
        Service::Webhook(Webhook { method, body, .. }) => {
            put("method", &method.as_str());
            if let Body::Filled(_, format) = body {
                put("format", &format.as_str());
            }
        }
        _ => {}
    }
    if let Some(Proxy { .. }) = proxy {
        put("proxy", &HIDDEN);
    }
    if let Some(ca) = ca {
        put("ca", ca);
    }
}

/// Keys that are set and not shown.
fn hidden(service: &Service) -> Vec<&'static str> {
    let also = |keys: &[&'static str], more: bool, key| {
        let more = more.then_some(key);
        keys.iter().copied().chain(more).collect()
    };
    match service {
        Service::Telegram { .. } => vec!["token", "api_base"],
        Service::Wecom { .. } | Service::Discord { .. } | Service::Slack { .. } => vec!["url"],
        Service::Feishu { secret, .. } | Service::Dingtalk { secret, .. } => {
            also(&["url"], secret.is_some(), "secret")
        }
        Service::Ntfy { token, .. } => also(&["url", "topic"], token.is_some(), "token"),
        Service::Bark { .. } => vec!["server", "key"],
        Service::Webhook(webhook) => {
            let mut keys = also(&["url"], !webhook.headers.is_empty(), "headers");
            keys.extend(matches!(webhook.body, Body::Filled(..)).then_some("body"));
            keys
        }
    }
}

fn of_smtp(smtp: &Smtp, put: &mut Put<'_>) {
    put("host", &smtp.host);
    put("port", &smtp.port);
    put("tls", &smtp.security.as_str());
    if let Some((user, _)) = &smtp.login {
        put("user", user);
        put("password", &HIDDEN);
    }
    put("from", &smtp.from.to_string());
    put("to", &smtp.to.iter().map(ToString::to_string).collect::<Vec<_>>());
    if let Some(ca) = &smtp.ca {
        put("ca", ca);
    }
}
