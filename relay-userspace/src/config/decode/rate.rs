//! How fast traffic may be: `rate = { ... }`.

use super::super::fields::Fields;
use super::super::problem::Problems;
use crate::config::quantity::{RATE_FORMS, parse_rate};
use crate::rule::Rates;

/// Those of a rule.
pub fn rates(fields: &mut Fields<'_>, problems: &mut Problems) -> Rates {
    let Some(mut inner) = fields.table("rate", problems) else { return Rates::default() };
    let rates = entries(&mut inner, problems);
    inner.finish(problems);
    rates
}

/// Those of all rules of a group together. A client's is each rule's own.
pub fn of_group(fields: &mut Fields<'_>, problems: &mut Problems) -> Rates {
    let Some(mut inner) = fields.table("rate", problems) else { return Rates::default() };
    if let Some(node) = inner.peek("per_client") {
        let subject = inner.subject_of("per_client");
        problems.at(node, &subject, "a group has no rate for each client", Some("give its rules one each"));
    }
    let rates = entries(&mut inner, problems);
    inner.finish(problems);
    rates
}

fn entries(inner: &mut Fields<'_>, problems: &mut Problems) -> Rates {
    let mut rates = Rates::default();
    for (key, slot) in rates.entries() {
        let Some((text, node)) = inner.text(key, problems) else { continue };
        let subject = inner.subject_of(key);
        match parse_rate(text) {
            Some(rate) if (Rates::LEAST..=Rates::MOST).contains(&rate) => *slot = rate,
            Some(_) => {
                let message = format!("{} is out of range", node.shown());
                problems.at(
                    node,
                    &subject,
                    message,
                    Some(r#"a rate is "1kbps" to "1000Gbps"; leave it out for any rate"#),
                );
            }
            None => problems.at(node, &subject, format!("{} is not a rate", node.shown()), Some(RATE_FORMS)),
        }
    }
    rates
}
