//! Ports of the host's own programs that are counted and not touched: `[[watch]]`.

use super::super::fields::Fields;
use super::super::node::{Span, Table};
use super::super::problem::Problems;
use super::{name, note, places};
use crate::rule::{Protocols, Rule};

/// A watch from its table. `None` if something in it is wrong; everything wrong with it has been noted by then.
pub fn watch(table: &Table, span: Option<Span>, problems: &mut Problems) -> Option<Rule> {
    let before = problems.list.len();
    let mut fields = Fields::new(table, span, "watch");
    let name = name(&mut fields, false, problems);
    let listen = places::listeners(&mut fields, problems);
    let note = note(&mut fields, problems);
    let enabled = fields.bool("enabled", problems).unwrap_or(true);
    let protocols = fields.word("protocol", &["tcp", "udp", "tcp+udp"], Protocols::parse, problems);
    let count_ports = fields.bool("count_ports", problems).unwrap_or(false);
    fields.finish(problems);
    if problems.list.len() > before {
        return None;
    }
    let rule = Rule::new(name?, listen, Vec::new());
    Some(Rule {
        note,
        enabled,
        protocols: protocols.unwrap_or_default(),
        count_ports,
        is_watch: true,
        ..rule
    })
}
