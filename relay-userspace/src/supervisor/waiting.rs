//! Commands that wait for names, so that nothing else has to.

use std::collections::BTreeSet;

use super::command::{Command, Manner, Setback};
use super::delta::different;
use super::names::{News, names_for, names_in};
use super::state::{Rules, State};
use crate::rule::Host;

impl State {
    /// Whether all names that a change needs have an address, or have been asked for on its behalf.
    pub fn want_names(&self, rules: &Rules, manner: Manner<'_>) -> Result<(), Setback> {
        let (changed, _) = different(&self.rules, rules);
        let mut unknown = names_for(&changed);
        unknown.retain(|host| !self.facts.names.has_address(host) && !manner.asked.contains(host));
        if unknown.is_empty() { Ok(()) } else { Err(Setback::Unknown(unknown)) }
    }

    /// Has a command begin once more when these names have answers. It may find another state then, and goes by that.
    pub fn put_aside(&mut self, mut command: Command, names: BTreeSet<Host>) {
        for host in &names {
            self.facts.names.look_up(host);
        }
        command.asked.extend(names);
        self.aside.push(command);
    }

    /// Names have answers: news change the plan, and commands that have waited for them go on.
    pub async fn names_answered(&mut self, news: News) {
        for change in news.changes {
            self.shared.tell("name", None, change);
        }
        if !names_for(self.rules.iter().map(|(rule, _)| rule)).is_disjoint(&news.names) {
            self.replan_with_ways("its backend's name has an answer").await;
        } else if self.aside.is_empty() {
            return;
        }
        // one by one: the names of those that are still aside are not forgotten
        while let Some(command) = self.next_ready() {
            // a caller that has given up wants no change any more
            if !command.reply.is_closed() {
                self.handle(command).await;
            }
        }
        self.tend_names();
    }

    fn next_ready(&mut self) -> Option<Command> {
        let names = &self.facts.names;
        let ready = |command: &Command| !command.asked.iter().any(|host| names.is_under_way(host));
        self.aside.iter().position(ready).map(|index| self.aside.remove(index))
    }

    /// Has the names looked up that are wanted and not known, and lets go of what nobody goes to any more. Comes last,
    /// when nothing can be undone.
    pub fn tend_names(&mut self) {
        let before = self.pending.iter().flat_map(|pending| &pending.before.rules);
        let kept = names_in(self.rules.iter().chain(before).map(|(rule, _)| rule));
        let mut wanted = names_for(self.rules.iter().map(|(rule, _)| rule));
        wanted.extend(self.aside.iter().flat_map(|command| command.asked.iter().cloned()));
        self.facts.names.tend(wanted, &kept);
    }
}
