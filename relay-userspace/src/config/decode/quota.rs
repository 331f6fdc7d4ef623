//! How much may be carried, and until when: `quota = { ... }` or `quota = "500GB"`, `expires = "..."`.

use super::super::fields::Fields;
use super::super::node::{Node, Value};
use super::super::problem::Problems;
use crate::config::quantity::{SIZE_FORMS, parse_size};
use crate::rule::Expiry;
use crate::rule::quota::{Counted, Over, Quota, Reset, Zone};

const KEY: &str = "quota";
const NO_LIMIT: &str = r#"a quota is "1B" to "1048576TiB"; leave it out for any amount"#;
const WARNINGS: &str = "write whole per cents of the limit from 1 to 100, such as [80, 90, 100]";

pub fn quota(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Quota> {
    if let Some(Node { value: Value::Text(text), .. }) = fields.peek(KEY) {
        let subject = fields.subject_of(KEY);
        let node = fields.take(KEY)?;
        return limit(text, node, &subject, problems).map(of);
    }
    let mut inner = fields.table(KEY, problems)?;
    let subject = inner.subject_of("limit");
    let given = inner.text("limit", problems);
    let limit = given.and_then(|(text, node)| limit(text, node, &subject, problems));
    if limit.is_none() && given.is_none() {
        problems.add(inner.span.clone(), &inner.subject, "it has no limit", Some(SIZE_FORMS));
    }
    let words = Counted::ALL.map(Counted::as_str);
    let count = inner.word("count", &words, Counted::parse, problems).unwrap_or_default();
    let reset = formed(&mut inner, "reset", Reset::parse, "a reset", Reset::FORMS, problems);
    let zones = r#"write a zone such as "Asia/Shanghai"; leave it out for the host's own"#;
    let zone = formed(&mut inner, "tz", Zone::parse, "a time zone", zones, problems);
    let over = formed(&mut inner, "over", Over::parse, "what may happen then", Over::FORMS, problems);
    let warn = warnings(&mut inner, problems);
    inner.finish(problems);
    let usual = of(limit?);
    Some(Quota {
        count,
        reset: reset.unwrap_or_default(),
        zone: zone.unwrap_or_default(),
        over: over.unwrap_or_default(),
        warn: warn.unwrap_or(usual.warn),
        ..usual
    })
}

pub fn expires(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Expiry> {
    const KEY: &str = "expires";
    // TOML has dates of its own
    if let Some(Node { value: Value::Datetime(text), .. }) = fields.peek(KEY) {
        let (node, expiry) = (fields.take(KEY)?, Expiry::parse(text));
        if expiry.is_none() {
            let message = format!("{} is not a moment", node.shown());
            problems.at(node, &fields.subject_of(KEY), message, Some(Expiry::FORMS));
        }
        return expiry;
    }
    formed(fields, KEY, Expiry::parse, "a moment", Expiry::FORMS, problems)
}

fn of(limit: u64) -> Quota {
    Quota {
        limit,
        count: Counted::default(),
        reset: Reset::default(),
        zone: Zone::default(),
        over: Over::default(),
        warn: Quota::USUAL_WARN.into(),
    }
}

fn limit(text: &str, node: &Node, subject: &str, problems: &mut Problems) -> Option<u64> {
    let (message, help) = match parse_size(text) {
        Some(limit) if (1..=Quota::MOST).contains(&limit) => return Some(limit),
        Some(_) => ("is out of range", NO_LIMIT),
        None => ("is not a size", SIZE_FORMS),
    };
    problems.at(node, subject, format!("{} {message}", node.shown()), Some(help));
    None
}

/// A text of a form of its own.
fn formed<T>(
    fields: &mut Fields<'_>,
    key: &'static str,
    parse: impl Fn(&str) -> Option<T>,
    what: &str,
    forms: &str,
    problems: &mut Problems,
) -> Option<T> {
    let (text, node) = fields.text(key, problems)?;
    let parsed = parse(text);
    if parsed.is_none() {
        let message = format!("{} is not {what}", node.shown());
        problems.at(node, &fields.subject_of(key), message, Some(forms));
    }
    parsed
}

fn warnings(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Box<[u8]>> {
    let node = fields.take("warn")?;
    let percent = |item: &Node| match item.value {
        Value::Integer(percent @ 1..=100) => u8::try_from(percent).ok(),
        _ => None,
    };
    let listed = match &node.value {
        Value::Array(items) => items.iter().map(percent).collect::<Option<Vec<u8>>>(),
        _ => None,
    };
    let Some(mut listed) = listed else {
        let message = format!("{} is no list of per cents", node.shown());
        problems.at(node, &fields.subject_of("warn"), message, Some(WARNINGS));
        return None;
    };
    listed.sort_unstable();
    listed.dedup();
    Some(listed.into())
}
