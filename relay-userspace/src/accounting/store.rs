//! The database: accounts, and the history of minutes, hours and days. Each write brings all of them forward in one
//! transaction, so that none of them can know more than another.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, Transaction, params};

pub use self::past::HistoryRow;
use self::past::Question;
pub use self::quotas::LedgerRow;
use super::allowances::{Allowance, Owner};
use super::amounts::Amounts;
use super::books::{Account, Entries, Source};
use super::calendar::Step;
use super::ports::PortName;
use crate::rule::RuleName;

mod packed;
mod past;
mod quotas;

/// What the file is called in `state_dir`.
pub const FILE: &str = "history.db";
/// The number of the format, kept as `user_version`.
const FORMAT: i64 = 1;
/// Marks the file as ours ("Rely").
const APPLICATION: i64 = 0x5265_6c79;
const BUSY: Duration = Duration::from_secs(2);

/// Tables of accounts: of rules, and of interfaces.
const ACCOUNTS: [&str; 2] = [RULES, INTERFACES];
const RULES: &str = "rules";
const INTERFACES: &str = "interfaces";

/// What has been wrong with a database that was there.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing will be right with it again.
    #[error("{0}")]
    Unusable(String),
    /// Such as a full disk.
    #[error(transparent)]
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            // the last two: tables or values that are not ours
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => {
                Self::Unusable(error.to_string())
            }
            Some(_) => Self::Failed(error),
        }
    }
}

/// An open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens the database in a folder, or makes one.
    ///
    /// # Errors
    ///
    /// It is damaged or another version's, or cannot be read or written.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(folder.join(FILE))?;
        connection.busy_timeout(BUSY)?;
        let format: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        if format > 0 && application != APPLICATION {
            return Err(StoreError::Unusable("another program's database".into()));
        }
        if format > FORMAT {
            return Err(StoreError::Unusable(format!(
                "format {format} is a newer relayd's, this one writes {FORMAT}"
            )));
        }
        // what a thousand hours of minutes leave free at the ends of pages is less if pages are large
        connection.execute_batch(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
        )?;
        let mut store = Self { connection };
        if format == 0 {
            store.make()?;
        }
        quotas::make(&store.connection)?;
        Ok(store)
    }

    /// Opens it to read, beside whoever writes.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    pub fn read(folder: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(folder.join(FILE), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY)?;
        Ok(Self { connection })
    }

    fn make(&mut self) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        for table in ACCOUNTS {
            transaction.execute_batch(&format!(
                "CREATE TABLE {table} (
                    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
                    ingress_bytes INTEGER NOT NULL, ingress_packets INTEGER NOT NULL,
                    egress_bytes INTEGER NOT NULL, egress_packets INTEGER NOT NULL, flows INTEGER NOT NULL,
                    boot TEXT, map INTEGER, slot INTEGER,
                    seen_ingress_bytes INTEGER, seen_ingress_packets INTEGER,
                    seen_egress_bytes INTEGER, seen_egress_packets INTEGER, seen_flows INTEGER
                );"
            ))?;
        }
        past::make(&transaction)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()?;
        Ok(())
    }

    /// All rules' accounts as they were last written.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn accounts(&self) -> Result<HashMap<RuleName, Account>, StoreError> {
        let known = self.accounts_in(RULES)?.into_iter();
        Ok(known.filter_map(|(name, account)| Some((RuleName::parse(&name)?, account))).collect())
    }

    /// All ports' accounts as they were last written. They are in the rules' table, under names that no rule has.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn ports(&self) -> Result<HashMap<PortName, Account>, StoreError> {
        let known = self.accounts_in(RULES)?.into_iter();
        Ok(known.filter_map(|(name, account)| Some((PortName::parse(&name)?, account))).collect())
    }

    /// All interfaces' accounts as they were last written.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn interfaces(&self) -> Result<BTreeMap<String, Account>, StoreError> {
        Ok(self.accounts_in(INTERFACES)?.into_iter().collect())
    }

    fn accounts_in(&self, table: &str) -> Result<Vec<(String, Account)>, StoreError> {
        let mut query = self.connection.prepare(&format!("SELECT * FROM {table}"))?;
        let rows = query.query_map([], |row| Ok((row.get("name")?, account(row)?)))?;
        let known: Result<Vec<_>, _> = rows.collect();
        Ok(known?)
    }

    /// What is used of quotas, as it was last written.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn allowances(&self) -> Result<BTreeMap<Owner, Allowance>, StoreError> {
        quotas::read(&self.connection)
    }

    /// An owner's periods that have ended, the latest first.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn ledger(&self, owner: &Owner, most: u32) -> Result<Vec<LedgerRow>, StoreError> {
        quotas::ledger(&self.connection, owner, most)
    }

    /// Writes everything or nothing.
    ///
    /// # Errors
    ///
    /// The database is damaged, or cannot be written, as on a full disk.
    pub fn write(&mut self, entries: &Entries) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        for (name, account) in &entries.accounts {
            write_account(&transaction, RULES, name.as_str(), account)?;
        }
        for (name, account) in &entries.ports.accounts {
            write_account(&transaction, RULES, &name.to_string(), account)?;
        }
        for (name, account) in &entries.interfaces {
            write_account(&transaction, INTERFACES, name, account)?;
        }
        past::add(&transaction, &entries.minutes)?;
        past::add(&transaction, &entries.ports.minutes)?;
        quotas::write(&transaction, &entries.quotas)?;
        transaction.commit()?;
        Ok(())
    }

    /// Takes out rows that are too old by `now`, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// The database is damaged, or cannot be written.
    pub fn prune(&mut self, now: u64) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        past::prune(&transaction, now)?;
        transaction.commit()?;
        Ok(())
    }

    /// A rule's or a port's rows from `since` to before `until`; `None` if the name never had an account.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn history(
        &self,
        name: &str,
        step: Step,
        since: u64,
        until: u64,
    ) -> Result<Option<Vec<HistoryRow>>, StoreError> {
        let mut find = self.connection.prepare("SELECT id FROM rules WHERE name = ?1")?;
        let id: Option<i64> = find.query_row([name], |row| row.get(0)).optional()?;
        id.map(|rule| Question { rule, step, since, until }.answer(&self.connection)).transpose()
    }
}

/// Moves a database that is of no use out of the way, and says where it is now.
///
/// # Errors
///
/// The folder cannot be written to.
pub fn move_aside(folder: &Path, now: u64) -> std::io::Result<PathBuf> {
    let aside = folder.join(format!("{FILE}.broken-{now}"));
    fs::rename(folder.join(FILE), &aside)?;
    for end in ["-wal", "-shm"] {
        let _there_may_be_none =
            fs::rename(folder.join(format!("{FILE}{end}")), folder.join(format!("{FILE}.broken-{now}{end}")));
    }
    Ok(aside)
}

fn write_account(
    transaction: &Transaction<'_>,
    table: &str,
    name: &str,
    account: &Account,
) -> Result<(), StoreError> {
    let mut put = transaction.prepare_cached(&format!(
        "INSERT INTO {table} (name, ingress_bytes, ingress_packets, egress_bytes, egress_packets, flows, boot, map, slot,
            seen_ingress_bytes, seen_ingress_packets, seen_egress_bytes, seen_egress_packets, seen_flows)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         ON CONFLICT (name) DO UPDATE SET ingress_bytes = ?2, ingress_packets = ?3, egress_bytes = ?4,
            egress_packets = ?5, flows = ?6, boot = ?7, map = ?8, slot = ?9, seen_ingress_bytes = ?10,
            seen_ingress_packets = ?11, seen_egress_bytes = ?12, seen_egress_packets = ?13, seen_flows = ?14"
    ))?;
    let [ib, ip, eb, ep, flows] = signed(&account.total);
    let source = account.kernel.as_ref().map(|(source, _)| source);
    let seen = account.kernel.as_ref().map(|(_, seen)| signed(seen));
    let seen = |index: usize| seen.and_then(|seen| seen.get(index).copied());
    put.execute(params![
        name,
        ib,
        ip,
        eb,
        ep,
        flows,
        source.map(|source| source.boot.as_ref()),
        source.map(|source| source.map),
        source.map(|source| source.slot),
        seen(0),
        seen(1),
        seen(2),
        seen(3),
        seen(4),
    ])?;
    Ok(())
}

fn account(row: &Row<'_>) -> Result<Account, rusqlite::Error> {
    let total = amounts(row, 2)?;
    let boot: Option<String> = row.get("boot")?;
    let kernel = match boot {
        Some(boot) => {
            let source = Source { boot: boot.into(), map: row.get("map")?, slot: row.get("slot")? };
            Some((source, amounts(row, 10)?))
        }
        None => None,
    };
    Ok(Account::restored(total, kernel))
}

/// Five columns from one on.
fn amounts(row: &Row<'_>, first: usize) -> Result<Amounts, rusqlite::Error> {
    let mut values = [0; Amounts::COUNT];
    for (index, value) in values.iter_mut().enumerate() {
        *value = unsigned(row.get(first + index)?);
    }
    Ok(Amounts::from_array(values))
}

/// `SQLite` has no unsigned numbers; 2^63 bytes take 29 years at 10 GB/s.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn signed(amounts: &Amounts) -> [i64; Amounts::COUNT] {
    amounts.to_array().map(integer)
}

#[cfg(test)]
mod tests;
