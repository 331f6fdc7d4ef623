//! What the API answers about times past.

use std::path::PathBuf;

use serde::Deserialize;

use super::problem::{ApiProblem, Code};
use super::view::{AccountView, HistoryRowView, HistoryView};
use crate::accounting::calendar::{self, Step, TIME_FORMS, parse_time};
use crate::accounting::ports::PortName;
use crate::accounting::store::{Store, StoreError};
use crate::rule::RuleName;
use crate::supervisor::Shared;
use crate::supervisor::shared::not_found;

/// What stands behind the question mark.
#[derive(Debug, Deserialize)]
pub struct Options {
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    by: Step,
    /// One port's, of a rule that counts each by itself.
    port: Option<u16>,
}

/// Every name that ever had an account, and what it has carried as of the last ten seconds.
pub fn accounts(shared: &Shared) -> Vec<AccountView> {
    let mut views: Vec<AccountView> = shared.ledgers.with(|books| {
        let view = |(name, total): (&RuleName, _)| AccountView { rule: name.to_string(), lifetime: total };
        books.accounts().map(|(name, total)| view((name, (*total).into()))).collect()
    });
    views.sort_unstable_by(|a, b| a.rule.cmp(&b.rule));
    views
}

/// A rule's history, also of one that is gone.
pub async fn history(shared: &Shared, name: RuleName, options: Options) -> Result<HistoryView, ApiProblem> {
    let now = calendar::now();
    let by = options.by;
    let until = options.until.map_or(Ok(now), |text| time("until", &text, now))?;
    let usual = until.saturating_sub(by.usual_span());
    let since = options.since.map_or(Ok(usual), |text| time("since", &text, now))?;
    let Some(folder) = shared.ledgers.folder().map(PathBuf::from) else {
        return Err(ApiProblem::new(
            Code::Starting,
            "relayd has not read its history yet; ask again in a moment, or look into its log for what is wrong with it",
        ));
    };
    let rule = match options.port {
        Some(port) => PortName { rule: name.clone(), port }.to_string(),
        None => name.to_string(),
    };
    let account = rule.clone();
    let is_there = shared.snapshot().by_name.contains_key(&name);
    let missing = not_found(&name);
    let found =
        tokio::task::spawn_blocking(move || Store::read(&folder)?.history(&account, by, since, until)).await;
    let found = found.map_err(|error| unreadable(&error))?.map_err(|error: StoreError| unreadable(&error))?;
    let rows = match found {
        Some(rows) => rows,
        None if is_there => Vec::new(),
        None => return Err(missing),
    };
    let row = |(start, amounts): (u64, crate::accounting::amounts::Amounts)| HistoryRowView {
        start,
        time: by.label(start),
        amounts: amounts.into(),
    };
    Ok(HistoryView { rule, by, since, until, rows: rows.into_iter().map(row).collect() })
}

fn time(key: &str, text: &str, now: u64) -> Result<u64, ApiProblem> {
    parse_time(text, now)
        .ok_or_else(|| ApiProblem::new(Code::Invalid, format!("{key}: {text:?} is no time; {TIME_FORMS}")))
}

fn unreadable(error: &dyn std::error::Error) -> ApiProblem {
    ApiProblem::new(
        Code::NotPossible,
        format!("the history cannot be read: {error}; relayd's log says what is wrong with it"),
    )
}
