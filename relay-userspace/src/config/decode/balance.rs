//! How new flows are spread: `balance = "roundrobin"`, or with weights by position as realm writes it.

use super::super::fields::{Fields, quoted};
use super::super::node::Node;
use super::super::problem::Problems;
use super::places::Backends;
use crate::rule::{Backend, Balance};

/// Reads it; weights that stand there become the backends' own.
pub fn balance(fields: &mut Fields<'_>, to: &mut Backends, problems: &mut Problems) -> Balance {
    let subject = fields.subject_of("balance");
    let Some((text, node)) = fields.text("balance", problems) else { return Balance::default() };
    let (word, positions) = spelled(text);
    let Some(balance) = method(word) else {
        let words = quoted(&Balance::ALL.map(Balance::as_str));
        let help = format!("it is one of {words}, and may go on like \"roundrobin: 4, 2, 1\"");
        problems.at(node, &subject, format!("{} is not known here", node.shown()), Some(&help));
        return Balance::default();
    };
    if let Some(positions) = positions {
        weigh(to, positions, (node, &subject), problems);
    }
    balance
}

/// `roundrobin: 4, 2, 1`: the word, and the weights by position, if there are any.
pub fn spelled(text: &str) -> (&str, Option<&str>) {
    let (word, positions) = text.split_once(':').unwrap_or((text, ""));
    (word.trim(), Some(positions.trim()).filter(|positions| !positions.is_empty()))
}

/// By Relay's word for it, or realm's.
pub fn method(word: &str) -> Option<Balance> {
    if word == "off" { Some(Balance::First) } else { Balance::parse(word) }
}

/// A weight as it stands in such a list.
pub fn weights(positions: &str) -> impl Iterator<Item = (&str, Option<u16>)> {
    let weight = |text: &str| text.parse().ok().filter(|weight| *weight <= Backend::MOST_WEIGHT);
    positions.split(',').map(str::trim).map(move |text| (text, weight(text)))
}

fn weigh(to: &mut Backends, positions: &str, (node, subject): (&Node, &str), problems: &mut Problems) {
    if let Some((text, _)) = weights(positions).find(|(_, weight)| weight.is_none()) {
        let message = format!("{text:?} in {} is not a weight", node.shown());
        let help = format!("a weight is a whole number from 0 to {}", Backend::MOST_WEIGHT);
        problems.at(node, subject, message, Some(&help));
        return;
    }
    let count = weights(positions).count();
    // that there is none is told already
    if count != to.written && to.written > 0 {
        let noun = |count, noun| if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") };
        let (weights, backends) = (noun(count, "weight"), noun(to.written, "backend"));
        let message = format!("{} has {weights}, and the rule {backends}", node.shown());
        problems.at(node, subject, message, Some("give each backend its weight, in the order of `to`"));
        return;
    }
    if to.are_weighed {
        let message = format!("{} has weights, and `to` has some as well", node.shown());
        problems.at(node, subject, message, Some("keep those of one place"));
        return;
    }
    for (backend, (_, weight)) in to.list.iter_mut().zip(weights(positions)) {
        backend.weight = weight.unwrap_or(backend.weight);
    }
}
