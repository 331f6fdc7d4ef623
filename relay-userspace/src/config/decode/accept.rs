//! How clients are taken in: `accept = { ... }`.

use super::super::fields::{Fields, Later};
use super::super::problem::Problems;
use crate::rule::Accept;

const LATER: &[Later] = &[
    Later { key: "transport", default: Some("plain") },
    Later { key: "host", default: None },
    Later { key: "path", default: None },
    Later { key: "cert", default: None },
    Later { key: "key", default: None },
    Later { key: "client_ca", default: None },
    Later { key: "token", default: None },
    Later { key: "headers", default: None },
    Later { key: "proxy_protocol", default: Some("false") },
    Later { key: "trusted", default: None },
    Later { key: "mptcp", default: Some("false") },
    Later { key: "allow", default: None },
];

pub fn accept(fields: &mut Fields<'_>, problems: &mut Problems) -> Accept {
    if let Some(inner) = fields.table("accept", problems) {
        inner.finish(LATER, problems);
    }
    Accept {}
}
