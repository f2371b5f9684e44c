//! The statements of the table `records`.

use std::sync::LazyLock;

use rusqlite::{OptionalExtension as _, params};

use super::connection::{NamedRow, SqliteConnection};
use crate::session::Timestamp;
use crate::store::jobs::JobError;
use crate::store::row::{RECORD_COLUMNS, record};
use crate::store::{Record, RecordId};

const INSERT: &str = "INSERT INTO records (id, version, expires_at, data) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (id) DO NOTHING";
static READ: LazyLock<String> = LazyLock::new(|| format!("SELECT {RECORD_COLUMNS} FROM records WHERE id = ?1"));
const REPLACE: &str = "UPDATE records SET version = version + 1, expires_at = ?3, data = ?4
    WHERE id = ?1 AND version = ?2";
const DELETE: &str = "DELETE FROM records WHERE id = ?1";
const SWEEP: &str = "DELETE FROM records
    WHERE id IN (SELECT id FROM records WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)";

impl SqliteConnection {
    /// Inserts a record. Returns whether there was none with its id.
    pub(super) fn insert_record(&self, record: &Record) -> Result<bool, JobError> {
        let Record { id, version, expires_at, data } = record;
        let rows = self.prepare(INSERT)?.execute(params![id.0, version, expires_at.as_millis(), data])?;
        Ok(rows == 1)
    }

    /// Returns the record with this id.
    pub(super) fn read_record(&self, id: &RecordId) -> Result<Option<Record>, JobError> {
        let found = self.prepare(&READ)?.query_row([id.0], |row| Ok(record(&NamedRow::new(row)))).optional()?;
        Ok(found.transpose()?)
    }

    /// Writes a record if the row has the version before it. Returns whether it did.
    pub(super) fn replace_record(&self, record: &Record) -> Result<bool, JobError> {
        let Record { id, version, expires_at, data } = record;
        let before = i64::from(*version) - 1;
        let rows = self.prepare(REPLACE)?.execute(params![id.0, before, expires_at.as_millis(), data])?;
        Ok(rows == 1)
    }

    /// Deletes a record. Returns whether there was one.
    pub(super) fn delete_record(&self, id: &RecordId) -> Result<bool, JobError> {
        Ok(self.prepare(DELETE)?.execute([id.0])? == 1)
    }

    /// Deletes up to `limit` records whose end is before this time. Returns how many.
    pub(super) fn sweep_records(&self, expired_before: Timestamp, limit: u32) -> Result<u32, JobError> {
        let rows = self.prepare(SWEEP)?.execute(params![expired_before.as_millis(), limit])?;
        // At most `limit`.
        Ok(u32::try_from(rows).unwrap_or(limit))
    }
}
