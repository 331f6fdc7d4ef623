//! History's tables: the hour that goes on, minute by minute, and what becomes of it once it is over.

use std::fmt::Display;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::packed::{Minutes, pack, unpack};
use super::{StoreError, amounts, integer, signed, unsigned};
use crate::accounting::amounts::Amounts;
use crate::accounting::calendar::Step;

/// A row of history: when it begins, in seconds since 1970, and what came in it.
pub type HistoryRow = (u64, Amounts);

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;
/// Minutes of hours that are over, an hour in a row; how many hours are kept.
const MINUTES: (&str, u64) = ("minutes", 48);
/// Sums: seconds in a row, and how many rows of the past are kept.
const SUMS: [(&str, u64, u64); 2] = [("hours", HOUR, 24 * 60), ("days", DAY, 400)];
/// The minutes of the hour that goes on, a row each: they grow, and the other tables are only ever added to at their end.
const RECENT: &str = "recent";
/// The bits of a row's key that name the rule; above them is which minute, hour or day since [`BEGINNING`] it is. One
/// number for both is the narrowest row, and new ones come at the end.
const RULE_BITS: u32 = 20;
/// 2025-01-01, in seconds since 1970: smaller numbers take less room. A clock that is behind it is wrong.
const BEGINNING: u64 = 1_735_689_600;

/// What a row has, and how one more is added to it.
const COLUMNS: &str = "ingress_bytes, ingress_packets, egress_bytes, egress_packets, flows";
const ADDED: &str = "ON CONFLICT (at) DO UPDATE SET ingress_bytes = ingress_bytes + excluded.ingress_bytes,
    ingress_packets = ingress_packets + excluded.ingress_packets, egress_bytes = egress_bytes + excluded.egress_bytes,
    egress_packets = egress_packets + excluded.egress_packets, flows = flows + excluded.flows";

/// Makes the tables.
pub(super) fn make(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    for table in SUMS.map(|(table, ..)| table).into_iter().chain([RECENT]) {
        transaction.execute_batch(&format!(
            "CREATE TABLE {table} (
                at INTEGER PRIMARY KEY,
                ingress_bytes INTEGER NOT NULL, ingress_packets INTEGER NOT NULL,
                egress_bytes INTEGER NOT NULL, egress_packets INTEGER NOT NULL, flows INTEGER NOT NULL
            );"
        ))?;
    }
    let (minutes, _) = MINUTES;
    transaction
        .execute_batch(&format!("CREATE TABLE {minutes} (at INTEGER PRIMARY KEY, packed BLOB NOT NULL);"))?;
    Ok(())
}

/// Adds to minutes since 1970; hours that are over by the newest of them go to where they stay.
pub(super) fn add(
    transaction: &Transaction<'_>,
    entries: &[(impl Display, u64, Amounts)],
) -> Result<(), StoreError> {
    let mut add = transaction.prepare_cached(&format!(
        "INSERT INTO {RECENT} VALUES (?1 << {RULE_BITS} | (SELECT id FROM rules WHERE name = ?2), ?3, ?4, ?5, ?6, ?7)
         {ADDED}"
    ))?;
    for (name, minute, amounts) in entries {
        let [ib, ip, eb, ep, flows] = signed(amounts);
        add.execute(params![key(*minute, MINUTE), name.to_string(), ib, ip, eb, ep, flows])?;
    }
    match entries.iter().map(|(_, minute, _)| *minute).max() {
        Some(newest) => settle(transaction, newest * MINUTE),
        None => Ok(()),
    }
}

/// Takes out rows that are too old by `now`, in seconds since 1970.
pub(super) fn prune(transaction: &Transaction<'_>, now: u64) -> Result<(), StoreError> {
    settle(transaction, now)?;
    let (minutes, hours) = MINUTES;
    for (table, seconds, kept) in SUMS.into_iter().chain([(minutes, HOUR, hours)]) {
        let oldest = (now / seconds).saturating_sub(kept);
        let query = format!("DELETE FROM {table} WHERE at < ?1 << {RULE_BITS}");
        transaction.execute(&query, [key(oldest, seconds)])?;
    }
    Ok(())
}

/// Brings all hours but the one that a time lies in into the tables where they stay.
fn settle(transaction: &Transaction<'_>, time: u64) -> Result<(), StoreError> {
    let (minutes, _) = MINUTES;
    let current = key(time / HOUR, HOUR);
    let is_over = format!("(at >> {RULE_BITS}) / 60 <> ?1");
    let mut any = transaction.prepare_cached(&format!("SELECT 1 FROM {RECENT} WHERE {is_over} LIMIT 1"))?;
    if !any.exists([current])? {
        return Ok(());
    }
    for (table, seconds, _) in SUMS {
        let length = seconds / MINUTE;
        let mut add = transaction.prepare_cached(&format!(
            "INSERT INTO {table}
             SELECT (at >> {RULE_BITS}) / {length} << {RULE_BITS} | (at & (1 << {RULE_BITS}) - 1) AS slot,
                sum(ingress_bytes), sum(ingress_packets), sum(egress_bytes), sum(egress_packets), sum(flows)
             FROM {RECENT} WHERE {is_over} GROUP BY slot ORDER BY slot {ADDED}"
        ))?;
        add.execute([current])?;
    }
    let mut over = transaction.prepare_cached(&format!(
        "SELECT (at >> {RULE_BITS}) / 60 << {RULE_BITS} | (at & (1 << {RULE_BITS}) - 1) AS slot, (at >> {RULE_BITS}) % 60,
            {COLUMNS} FROM {RECENT} WHERE {is_over} ORDER BY slot"
    ))?;
    let mut rows = over.query([current])?;
    let mut hour: Option<(i64, Minutes)> = None;
    while let Some(row) = rows.next()? {
        let slot: i64 = row.get(0)?;
        if let Some((done, packed)) = hour.take_if(|(last, _)| *last != slot) {
            keep(transaction, minutes, done, packed)?;
        }
        let (_, sums) = hour.get_or_insert_with(|| (slot, Minutes::new()));
        *sums.entry(row.get(1)?).or_default() += amounts(row, 2)?;
    }
    if let Some((done, packed)) = hour {
        keep(transaction, minutes, done, packed)?;
    }
    transaction.prepare_cached(&format!("DELETE FROM {RECENT} WHERE {is_over}"))?.execute([current])?;
    Ok(())
}

/// Keeps an hour of a rule's minutes. After the clock went back there may be some of that hour already.
fn keep(
    transaction: &Transaction<'_>,
    table: &str,
    slot: i64,
    mut minutes: Minutes,
) -> Result<(), StoreError> {
    let mut known = transaction.prepare_cached(&format!("SELECT packed FROM {table} WHERE at = ?1"))?;
    let known: Option<Vec<u8>> = known.query_row([slot], |row| row.get(0)).optional()?;
    for (minute, amounts) in known.and_then(|packed| unpack(&packed)).unwrap_or_default() {
        *minutes.entry(minute).or_default() += amounts;
    }
    transaction
        .prepare_cached(&format!("INSERT OR REPLACE INTO {table} VALUES (?1, ?2)"))?
        .execute(params![slot, pack(&minutes)])?;
    Ok(())
}

/// What was asked for: a rule and bounds in seconds since 1970, `until` without.
#[derive(Clone, Copy)]
pub(super) struct Question {
    pub rule: i64,
    pub step: Step,
    pub since: u64,
    pub until: u64,
}

impl Question {
    /// The rows of that time, oldest first.
    pub fn answer(self, connection: &Connection) -> Result<Vec<HistoryRow>, StoreError> {
        let mut rows = match self.step {
            Step::Minute => self.minutes(connection)?,
            Step::Hour => self.sums(connection, SUMS[0])?,
            Step::Day | Step::Month => self.sums(connection, SUMS[1])?,
        };
        rows.extend(self.recent(connection)?);
        rows.sort_by_key(|(start, _)| *start);
        rows.dedup_by(|(later, more), (start, sum)| {
            let is_same = *later == *start;
            if is_same {
                *sum += *more;
            }
            is_same
        });
        Ok(rows)
    }

    fn sums(self, connection: &Connection, table: (&str, u64, u64)) -> Result<Vec<HistoryRow>, StoreError> {
        let (table, seconds, _) = table;
        let mut query = connection.prepare(&self.walk(table, COLUMNS))?;
        let rows = query.query_map(self.bounds(seconds), |row| Ok((row.get(0)?, amounts(row, 1)?)))?;
        let rows: Result<Vec<(i64, Amounts)>, _> = rows.collect();
        Ok(rows?.into_iter().map(|(slot, amounts)| (self.start(slot, seconds), amounts)).collect())
    }

    fn minutes(self, connection: &Connection) -> Result<Vec<HistoryRow>, StoreError> {
        let (table, _) = MINUTES;
        let mut query = connection.prepare(&self.walk(table, "packed"))?;
        let mut rows = query.query(self.bounds(HOUR))?;
        let mut minutes = Vec::new();
        while let Some(row) = rows.next()? {
            let hour = BEGINNING + unsigned(row.get(0)?) * HOUR;
            let packed: Vec<u8> = row.get(1)?;
            let known = unpack(&packed)
                .ok_or_else(|| StoreError::Unusable(format!("table {table} has a row of no use")))?;
            minutes.extend(
                known.into_iter().map(|(minute, amounts)| (hour + u64::from(minute) * MINUTE, amounts)),
            );
        }
        // rows are hours, and what was asked for are minutes
        let since = self.step.start(self.since);
        minutes.retain(|(start, _)| (since..self.until).contains(start));
        Ok(minutes)
    }

    /// What the hour that goes on has of it.
    fn recent(self, connection: &Connection) -> Result<Vec<HistoryRow>, StoreError> {
        let mut query = connection.prepare(&self.walk(RECENT, COLUMNS))?;
        let rows = query.query_map(self.bounds(MINUTE), |row| Ok((row.get(0)?, amounts(row, 1)?)))?;
        let rows: Result<Vec<(i64, Amounts)>, _> = rows.collect();
        Ok(rows?.into_iter().map(|(slot, amounts)| (self.start(slot, MINUTE), amounts)).collect())
    }

    /// A query that looks for the rule's row of each time by its key: other rules' rows are not looked at.
    fn walk(self, table: &str, columns: &str) -> String {
        format!(
            "WITH RECURSIVE slots(slot) AS (
                SELECT max(?1, (SELECT min(at) >> {RULE_BITS} FROM {table}))
                UNION ALL SELECT slot + 1 FROM slots
                WHERE slot + 1 < ?2 AND slot < (SELECT max(at) >> {RULE_BITS} FROM {table}))
             SELECT slot, {columns} FROM slots JOIN {table} ON at = slot << {RULE_BITS} | ?3 WHERE slot < ?2"
        )
    }

    /// The first row, the one behind the last, and the rule.
    fn bounds(self, seconds: u64) -> [i64; 3] {
        [
            key(self.step.start(self.since) / seconds, seconds),
            key(self.until.div_ceil(seconds), seconds),
            self.rule,
        ]
    }

    fn start(self, slot: i64, seconds: u64) -> u64 {
        self.step.start(BEGINNING + unsigned(slot) * seconds)
    }
}

/// Which one since [`BEGINNING`] it is of those that take so many seconds, counted since 1970.
fn key(since_1970: u64, seconds: u64) -> i64 {
    integer(since_1970.saturating_sub(BEGINNING / seconds))
}
