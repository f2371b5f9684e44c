//! The statements of the table `records`. Each statement is one transaction.

use std::sync::LazyLock;

use super::database::Database;
use crate::session::Timestamp;
use crate::store::row::{Columns as _, RECORD_COLUMNS, corrupt, record};
use crate::store::{Record, RecordId, StoreError};

const INSERT: &str = "INSERT INTO qrlogin.records (id, version, expires_at, data) VALUES ($1, $2, $3, $4)
     ON CONFLICT (id) DO NOTHING RETURNING version";

static READ: LazyLock<String> = LazyLock::new(|| format!("SELECT {RECORD_COLUMNS} FROM qrlogin.records WHERE id = $1"));

/// Statement that writes a record. A concurrent statement waits for the lock of the row, and then finds another version.
const REPLACE: &str = "UPDATE qrlogin.records SET version = version + 1, expires_at = $3, data = $4
     WHERE id = $1 AND version = $2 RETURNING version";

const DELETE: &str = "DELETE FROM qrlogin.records WHERE id = $1 RETURNING version";

/// Statement that deletes ended records and selects their number. It skips locked rows, so it neither waits for another
/// node nor deletes a record whose end is being changed.
const SWEEP: &str = "WITH swept AS (
         DELETE FROM qrlogin.records WHERE id = ANY(ARRAY(
             SELECT id FROM qrlogin.records WHERE expires_at < $1
             ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )) RETURNING id
     )
     SELECT count(*) AS swept FROM swept";

impl Database {
    /// Inserts a record. Returns whether there was none with its id.
    pub(super) async fn insert_record(&self, record: &Record) -> Result<bool, StoreError> {
        let Record { id, version, expires_at, data } = record;
        let rows = self.query(INSERT, &[&&id.0[..], &i64::from(*version), &expires_at.as_millis(), data]).await?;
        Ok(!rows.is_empty())
    }

    /// Returns the record with this id.
    pub(super) async fn read_record(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.query(&READ, &[&&id.0[..]]).await?.first().map(record).transpose()
    }

    /// Writes a record if the row has the version before it. Returns whether it did.
    pub(super) async fn replace_record(&self, record: &Record) -> Result<bool, StoreError> {
        let Record { id, version, expires_at, data } = record;
        let before = i64::from(*version) - 1;
        let rows = self.query(REPLACE, &[&&id.0[..], &before, &expires_at.as_millis(), data]).await?;
        Ok(!rows.is_empty())
    }

    /// Deletes a record. Returns whether there was one.
    pub(super) async fn delete_record(&self, id: &RecordId) -> Result<bool, StoreError> {
        Ok(!self.query(DELETE, &[&&id.0[..]]).await?.is_empty())
    }

    /// Deletes up to `limit` records whose end is before this time. Returns how many.
    pub(super) async fn sweep_records(&self, expired_before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        let rows = self.query(SWEEP, &[&expired_before.as_millis(), &i64::from(limit)]).await?;
        rows.first().ok_or_else(|| corrupt("no count"))?.number("swept")
    }
}
