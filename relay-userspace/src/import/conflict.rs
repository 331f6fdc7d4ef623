//! What to do where rules that come meet rules that are there: the same name, or the same port.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::fresh;
use crate::rule::{Rule, RuleName, overlap};

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// Import nothing, and list all conflicts
    #[default]
    Fail,
    /// Leave those rules out
    Skip,
    /// Give them other names; where ports meet it fails
    Rename,
    /// Remove the rules that are there
    Replace,
}

/// What an import comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    pub add: Vec<Rule>,
    pub remove: Vec<RuleName>,
    pub notes: Vec<String>,
}

/// Conflicts that are told about one by one.
const MOST_TOLD: usize = 50;

/// # Errors
///
/// All conflicts that `how` does not settle, one a line.
pub fn settle(existing: &[&Rule], mut incoming: Vec<Rule>, how: OnConflict) -> Result<Settled, String> {
    let mut settled = Settled::default();
    let names: HashMap<&str, &Rule> = existing.iter().map(|rule| (rule.name.as_str(), *rule)).collect();
    if how == OnConflict::Rename {
        let mut taken: HashSet<String> = names.keys().map(|&name| name.to_owned()).collect();
        taken.extend(incoming.iter().map(|rule| rule.name.to_string()));
        for rule in incoming.iter_mut().filter(|rule| names.contains_key(rule.name.as_str())) {
            let name = fresh(rule.name.as_str(), &taken);
            settled.notes.push(format!("rule \"{}\" becomes \"{name}\"", rule.name));
            taken.insert(name.to_string());
            rule.name = name;
        }
    }
    let mut met: Vec<(usize, RuleName, String)> = Vec::new();
    for (index, rule) in incoming.iter().enumerate() {
        if let Some(known) = names.get(rule.name.as_str()) {
            met.push((index, known.name.clone(), format!("there is a rule \"{}\" already", rule.name)));
        }
    }
    let all: Vec<&Rule> = existing.iter().copied().chain(&incoming).collect();
    let mut among = Vec::new();
    for found in overlap::find(all.iter().copied()) {
        let (first, second) = (found.first.0, found.second.0);
        let text = format!("rule \"{}\": {}", all[second].name, found.shown(&found.second, &all));
        match (first.checked_sub(existing.len()), second.checked_sub(existing.len())) {
            (None, Some(new)) => met.push((new, all[first].name.clone(), text)),
            (Some(_), Some(_)) => among.push(text),
            // as it was before
            _ => {}
        }
    }
    let fatal = matches!(how, OnConflict::Fail | OnConflict::Rename);
    let told = among.iter().chain(met.iter().map(|(_, _, text)| text).filter(|_| fatal));
    let told: Vec<&str> = told.map(String::as_str).collect();
    if !told.is_empty() {
        let more = told.len().saturating_sub(MOST_TOLD);
        let mut text = told[..told.len() - more].join("\n");
        if more > 0 {
            text += &format!("\n... and {more} more");
        }
        return Err(format!(
            "{text}\nnothing is imported; change the files, or say --on-conflict skip, rename or replace"
        ));
    }
    let hit: HashSet<usize> = met.iter().map(|(index, _, _)| *index).collect();
    match how {
        OnConflict::Skip => settled.notes.extend(met.iter().map(|(_, _, text)| format!("left out: {text}"))),
        OnConflict::Replace => {
            let gone: HashSet<RuleName> = met.into_iter().map(|(_, name, _)| name).collect();
            settled.remove = gone.into_iter().collect();
            settled.remove.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        }
        OnConflict::Fail | OnConflict::Rename => {}
    }
    let is_in = |index: usize| how != OnConflict::Skip || !hit.contains(&index);
    settled.add =
        incoming.into_iter().enumerate().filter(|(index, _)| is_in(*index)).map(|(_, rule)| rule).collect();
    Ok(settled)
}
