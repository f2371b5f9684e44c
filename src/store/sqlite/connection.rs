//! A connection to the database: its settings, the schema, and transactions.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::store::StoreError;
use crate::store::jobs::{JobDatabase, JobError};
use crate::store::row::{Columns, corrupt};

/// Migrations of the schema, in order. The `user_version` of the database is the number of those that were applied. A
/// released migration never changes.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../../migrations/sqlite/0001_sessions.sql"),
    include_str!("../../../migrations/sqlite/0002_hostile_web.sql"),
    include_str!("../../../migrations/sqlite/0003_oauth.sql"),
];
/// Size of the page cache of each connection, in KiB. The operating system caches the rest.
const CACHE_KIB: i64 = 256;
/// Size to which SQLite truncates the write-ahead log when it restarts it, in bytes.
const MAX_IDLE_LOG_BYTES: i64 = 64 * 1024 * 1024;
/// Time for which opening and housekeeping wait for a lock of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(4);

/// A connection to an SQLite database.
pub(super) struct SqliteConnection(Connection);

impl SqliteConnection {
    /// Opens the database in WAL mode. Statements wait up to 4 seconds for a lock of another process.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG_BYTES)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        Ok(Self(connection))
    }

    /// Makes statements fail at once, with [`JobError::Locked`], if another process holds a lock that they need.
    pub(super) fn fail_if_locked(&self) -> rusqlite::Result<()> {
        self.0.busy_timeout(Duration::ZERO)
    }

    /// Applies the missing migrations. A database that a newer release has migrated is accepted, because migrations
    /// only add to the schema.
    pub(super) fn migrate(&mut self) -> rusqlite::Result<()> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get("user_version"))?;
        for (number, migration) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > done) {
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", number)?;
        }
        transaction.commit()
    }

    /// Returns the statement, which is prepared once for each connection.
    pub(super) fn prepare(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.0.prepare_cached(sql)
    }

    /// Runs statements that return no rows.
    pub(super) fn execute_batch(&self, sql: &str) -> rusqlite::Result<()> {
        self.0.execute_batch(sql)
    }

    /// Runs a checkpoint of the write-ahead log. Returns the size of the log, in pages.
    pub(super) fn checkpoint(&self, pragma: &str) -> rusqlite::Result<i64> {
        self.0.query_row(pragma, [], |row| row.get("log"))
    }

    /// Runs `work` in a transaction, or in the one that is open. In a transaction SQLite takes its read lock once
    /// instead of once per statement. Fails with [`JobError::Locked`] if another process has written since `work` read.
    pub(super) fn in_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, JobError>,
    ) -> Result<T, JobError> {
        if self.is_in_transaction() {
            return work(self);
        }
        self.prepare("BEGIN")?.execute([])?;
        let done = work(self).and_then(|done| self.commit().map(|()| done));
        if done.is_err() && self.is_in_transaction() {
            self.rollback();
        }
        done
    }
}

impl JobDatabase for SqliteConnection {
    fn begin(&mut self) -> Result<(), JobError> {
        Ok(self.prepare("BEGIN IMMEDIATE")?.execute([]).map(drop)?)
    }

    fn commit(&mut self) -> Result<(), JobError> {
        Ok(self.prepare("COMMIT")?.execute([]).map(drop)?)
    }

    fn rollback(&mut self) {
        // SQLite may have rolled back already; ignore the error.
        drop(self.execute_batch("ROLLBACK"));
    }

    fn is_in_transaction(&self) -> bool {
        !self.0.is_autocommit()
    }
}

impl From<rusqlite::Error> for JobError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            _ => Self::Failed(error.into()),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(error.into())
    }
}

/// A row of a query result.
///
/// SQLite has no index of column names. A reader that reads the columns in the order of the statement finds each at the
/// first attempt; in another order, each takes a search.
pub(super) struct NamedRow<'row, 'statement> {
    row: &'row rusqlite::Row<'statement>,
    /// Index of the column after the last one that was read.
    next: Cell<usize>,
}

impl<'row, 'statement> NamedRow<'row, 'statement> {
    pub(super) fn new(row: &'row rusqlite::Row<'statement>) -> Self {
        Self { row, next: Cell::new(0) }
    }

    fn value(&self, name: &str) -> Result<ValueRef<'row>, StoreError> {
        let (statement, next) = (self.row.as_ref(), self.next.get());
        let is_next = statement.column_name(next).is_ok_and(|column| column == name);
        let index = if is_next { next } else { statement.column_index(name)? };
        self.next.set(index + 1);
        Ok(self.row.get_ref(index)?)
    }
}

impl Columns for NamedRow<'_, '_> {
    fn optional_integer(&self, name: &str) -> Result<Option<i64>, StoreError> {
        self.value(name)?.as_i64_or_null().map_err(|error| corrupt(format!("{name}: {error}")))
    }

    fn optional_text(&self, name: &str) -> Result<Option<&str>, StoreError> {
        self.value(name)?.as_str_or_null().map_err(|error| corrupt(format!("{name}: {error}")))
    }

    fn optional_bytes(&self, name: &str) -> Result<Option<&[u8]>, StoreError> {
        self.value(name)?.as_blob_or_null().map_err(|error| corrupt(format!("{name}: {error}")))
    }
}
