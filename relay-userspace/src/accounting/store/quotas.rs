//! Allowances, and the ledger of periods that have ended.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, Transaction, params};

use super::{StoreError, integer, unsigned};
use crate::accounting::allowances::{Allowance, AllowanceEntries, Closing, Owner, Spent};
use crate::rule::RuleName;

/// Made in databases of earlier versions, too, which had no such tables.
pub(super) fn make(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS allowances (
            kind TEXT NOT NULL, name TEXT NOT NULL, start INTEGER NOT NULL,
            ingress INTEGER NOT NULL, egress INTEGER NOT NULL,
            before_start INTEGER, before_ingress INTEGER, before_egress INTEGER,
            told INTEGER NOT NULL, expiry INTEGER, expiry_days INTEGER,
            PRIMARY KEY (kind, name)
        ) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS ledger (
            at INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, start INTEGER NOT NULL,
            ingress INTEGER NOT NULL, egress INTEGER NOT NULL, why TEXT NOT NULL
        );",
    )?;
    Ok(())
}

pub(super) fn read(connection: &Connection) -> Result<BTreeMap<Owner, Allowance>, StoreError> {
    let mut query = connection.prepare("SELECT * FROM allowances")?;
    let rows = query.query_map([], |row| {
        let (kind, name): (String, String) = (row.get("kind")?, row.get("name")?);
        let owner = RuleName::parse(&name).and_then(|name| Owner::new(&kind, name));
        Ok(owner.zip(Some(allowance(row)?)))
    })?;
    let known: Result<Vec<_>, _> = rows.collect();
    Ok(known?.into_iter().flatten().collect())
}

fn allowance(row: &Row<'_>) -> Result<Allowance, rusqlite::Error> {
    let number = |column: &str| row.get(column).map(unsigned);
    let maybe = |column: &str| row.get::<_, Option<i64>>(column).map(|number| number.map(unsigned));
    let before = maybe("before_start")?.zip(maybe("before_ingress")?).zip(maybe("before_egress")?);
    Ok(Allowance {
        start: number("start")?,
        spent: Spent { ingress: number("ingress")?, egress: number("egress")? },
        before: before.map(|((start, ingress), egress)| (start, Spent { ingress, egress })),
        told: row.get("told")?,
        expiry_told: maybe("expiry")?.zip(maybe("expiry_days")?),
    })
}

pub(super) fn write(transaction: &Transaction<'_>, entries: &AllowanceEntries) -> Result<(), StoreError> {
    let mut put = transaction.prepare_cached(
        "INSERT OR REPLACE INTO allowances VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for (owner, allowance) in &entries.allowances {
        let before =
            |value: fn(&(u64, Spent)) -> u64| allowance.before.as_ref().map(|before| integer(value(before)));
        put.execute(params![
            owner.kind(),
            owner.name().as_str(),
            integer(allowance.start),
            integer(allowance.spent.ingress),
            integer(allowance.spent.egress),
            before(|(start, _)| *start),
            before(|(_, spent)| spent.ingress),
            before(|(_, spent)| spent.egress),
            allowance.told,
            allowance.expiry_told.map(|(end, _)| integer(end)),
            allowance.expiry_told.map(|(_, days)| integer(days)),
        ])?;
    }
    let mut add = transaction.prepare_cached("INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for Closing { owner, at, start, spent, why } in &entries.closings {
        add.execute(params![
            integer(*at),
            owner.kind(),
            owner.name().as_str(),
            integer(*start),
            integer(spent.ingress),
            integer(spent.egress),
            why.as_str(),
        ])?;
    }
    Ok(())
}

/// A period that has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LedgerRow {
    /// When it ended and when it began, in seconds since 1970; a beginning of 0: since ever.
    pub at: u64,
    pub start: u64,
    pub spent: Spent,
    /// `period` or `manual`.
    pub why: String,
}

/// An owner's rows, the latest first.
pub(super) fn ledger(
    connection: &Connection,
    owner: &Owner,
    most: u32,
) -> Result<Vec<LedgerRow>, StoreError> {
    let mut query = connection.prepare(
        "SELECT at, start, ingress, egress, why FROM ledger WHERE kind = ?1 AND name = ?2 ORDER BY rowid DESC LIMIT ?3",
    )?;
    let rows = query.query_map(params![owner.kind(), owner.name().as_str(), most], |row| {
        Ok(LedgerRow {
            at: row.get(0).map(unsigned)?,
            start: row.get(1).map(unsigned)?,
            spent: Spent { ingress: row.get(2).map(unsigned)?, egress: row.get(3).map(unsigned)? },
            why: row.get(4)?,
        })
    })?;
    let rows: Result<Vec<_>, _> = rows.collect();
    Ok(rows?)
}
