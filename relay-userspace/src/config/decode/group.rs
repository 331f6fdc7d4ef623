//! Groups: `[[group]]`, and `group = "..."` in a rule.

use super::super::fields::Fields;
use super::super::node::{Span, Table};
use super::super::problem::Problems;
use super::{quota, rate};
use crate::rule::{Group, GroupName, RuleName};

/// A group from its table. `None` if something in it is wrong; everything wrong with it has been noted by then.
pub fn group(table: &Table, span: Option<Span>, problems: &mut Problems) -> Option<(GroupName, Group)> {
    let before = problems.list.len();
    let mut fields = Fields::new(table, span, "group");
    let name = match fields.peek("name") {
        Some(_) => name(&mut fields, "name", problems),
        None => {
            problems.add(fields.span.clone(), "group", "the group has no name", Some(RuleName::FORM));
            fields.take("name");
            None
        }
    };
    if let Some(name) = &name {
        fields.subject = format!("group {:?}", name.as_str());
    }
    let group = Group {
        rates: rate::of_group(&mut fields, problems),
        quota: quota::quota(&mut fields, problems).map(Box::new),
        expires: quota::expires(&mut fields, problems).map(Box::new),
    };
    fields.finish(problems);
    (problems.list.len() == before).then_some((name?, group))
}

/// The group that a rule names.
pub(super) fn of_rule(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<GroupName> {
    name(fields, "group", problems)
}

fn name(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<GroupName> {
    let (text, node) = fields.text(key, problems)?;
    let name = RuleName::parse(text);
    if name.is_none() {
        let message = format!("{} is not a group's name", node.shown());
        problems.at(node, &fields.subject_of(key), message, Some(RuleName::FORM));
    }
    name
}
