//! How fast traffic may be: `rate = { ... }`.

use super::super::fields::{Fields, Later};
use super::super::problem::Problems;
use crate::config::quantity::{RATE_FORMS, parse_rate};
use crate::rule::Rates;

pub fn rates(fields: &mut Fields<'_>, problems: &mut Problems) -> Rates {
    let mut rates = Rates::default();
    let Some(mut inner) = fields.table("rate", problems) else { return rates };
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
    inner.finish(&[Later { key: "per_client", default: None }], problems);
    rates
}
