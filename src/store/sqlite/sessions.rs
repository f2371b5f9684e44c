//! The statements of the table `sessions`.

use std::sync::LazyLock;

use rusqlite::{OptionalExtension as _, params};

use super::connection::{NamedRow, SqliteConnection};
use crate::cluster::node::Notification;
use crate::session::{Session, SessionKey, Timestamp};
use crate::store::change::SessionTable;
use crate::store::jobs::JobError;
use crate::store::row::{Columns as _, SESSION_COLUMNS, StateColumns, oauth_request, select_largest_network, session};
use crate::store::{Ended, LargestNetwork, SessionSelector, StoreError};

const INSERT: &str = "INSERT INTO sessions (id, code, version, state, created_at, expires_at,
         client_ip, client_browser, client_os, client_origin, client_info, client_network, oauth_request)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
static READ: LazyLock<String> = LazyLock::new(|| format!("SELECT {SESSION_COLUMNS} FROM sessions WHERE id = ?1"));
static FIND_BY_KEY: LazyLock<String> =
    LazyLock::new(|| format!("SELECT rowid AS row_id, {SESSION_COLUMNS} FROM sessions WHERE id = ?1"));
static FIND_BY_CODE: LazyLock<String> =
    LazyLock::new(|| format!("SELECT rowid AS row_id, {SESSION_COLUMNS} FROM sessions WHERE code = ?1"));
const UPDATE: &str = "UPDATE sessions
    SET version = version + 1, state = ?3, user_id = ?4, user_name = ?5, user_picture = ?6,
        decided_at = ?7, claimable_until = ?8, token_grant = ?9, scanned_at = ?10, reason = ?11
    WHERE rowid = ?1 AND version = ?2 AND id = ?12";
static SWEEP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "DELETE FROM sessions
         WHERE id IN (SELECT id FROM sessions WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)
         RETURNING {SESSION_COLUMNS}"
    )
});
static LARGEST_NETWORK: LazyLock<String> = LazyLock::new(|| select_largest_network("sessions"));
/// Statement that selects changes that may not have been delivered and that a connection may wait for.
const CHANGES: &str = "SELECT id, version, rowid AS row_id FROM sessions
    WHERE version > 1 AND state <> 'claimed' AND max(expires_at, coalesce(claimable_until, 0)) > ?1 AND rowid > ?2
    ORDER BY rowid LIMIT ?3";
/// Statements that insert a session and delete it again. They require what a login requires and leave nothing behind.
const TEST_WRITE: &str = "SAVEPOINT test;
    INSERT INTO sessions (id, code, version, state, created_at, expires_at, client_ip)
        VALUES (zeroblob(32), zeroblob(32), 1, 'pending', 0, 0, '');
    DELETE FROM sessions WHERE id = zeroblob(32);
    RELEASE test";
/// Statements that end a failed test write. They fail if SQLite has rolled it back already.
const UNDO_TEST_WRITE: &str = "ROLLBACK TO test; RELEASE test";

/// A changed session, and its row.
pub(super) struct ChangedRow {
    pub(super) notification: Notification,
    pub(super) row_id: i64,
}

impl SqliteConnection {
    /// Inserts a new session.
    pub(super) fn insert(&self, session: &Session) -> Result<(), JobError> {
        let client = &session.client;
        self.prepare(INSERT)?.execute(params![
            session.key.0,
            session.code.0,
            session.version,
            StateColumns::of(session)?.state,
            session.created_at.as_millis(),
            session.expires_at.as_millis(),
            client.ip,
            client.browser,
            client.os,
            client.origin,
            client.client_info,
            client.network(),
            oauth_request(session)?,
        ])?;
        Ok(())
    }

    /// Returns the sessions with these keys. All are read in one snapshot.
    pub(super) fn read_sessions(&mut self, keys: &[SessionKey]) -> Result<Vec<Session>, JobError> {
        if keys.len() < 2 {
            return self.read_each(keys);
        }
        // A transaction takes the read lock of SQLite once instead of once per row.
        self.in_transaction(|connection| connection.read_each(keys))
    }

    fn read_each(&self, keys: &[SessionKey]) -> Result<Vec<Session>, JobError> {
        let mut query = self.prepare(&READ)?;
        let mut sessions = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(session) = query.query_row([key.0], |row| Ok(session(&NamedRow::new(row)))).optional()? {
                sessions.push(session?);
            }
        }
        Ok(sessions)
    }

    /// Deletes up to `limit` sessions that expired before this time. Returns how they ended. A row that cannot be read
    /// is deleted like the others, and not counted.
    pub(super) fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, JobError> {
        let mut delete = self.prepare(&SWEEP)?;
        let mut rows = delete.query(params![expired_before.as_millis(), limit])?;
        let mut ended = Vec::new();
        while let Some(row) = rows.next()? {
            ended.extend(session(&NamedRow::new(row)).ok().map(|session| Ended::of(&session)));
        }
        Ok(ended)
    }

    /// Returns the sessions of the network with the most pending sessions. Scans the table.
    pub(super) fn largest_network(&self, now: Timestamp, limit: u32) -> Result<LargestNetwork, StoreError> {
        let mut query = self.prepare(&LARGEST_NETWORK)?;
        let mut rows = query.query(params![now.as_millis(), limit])?;
        let mut largest = LargestNetwork::default();
        while let Some(row) = rows.next()? {
            let row = NamedRow::new(row);
            largest.oldest.push(session(&row)?);
            largest.total_pending = row.number("total_pending")?.into();
        }
        Ok(largest)
    }

    /// Returns up to `limit` sessions that have changed and that a browser may wait for at `now`, from the row after
    /// `after`. Scans the table.
    pub(super) fn changed_rows(&self, now: Timestamp, after: i64, limit: u32) -> Result<Vec<ChangedRow>, StoreError> {
        let mut query = self.prepare(CHANGES)?;
        let mut rows = query.query(params![now.as_millis(), after, limit])?;
        let mut changed = Vec::new();
        while let Some(row) = rows.next()? {
            let row = NamedRow::new(row);
            let notification =
                Notification { key: SessionKey(row.hash("id")?), version: row.number("version")?, attachment: 0 };
            changed.push(ChangedRow { notification, row_id: row.integer("row_id")? });
        }
        Ok(changed)
    }

    /// Returns the `data_version` of SQLite, which changes when another connection, of this process or another,
    /// commits.
    pub(super) fn data_version(&self) -> rusqlite::Result<i64> {
        self.prepare("PRAGMA data_version")?.query_row([], |row| row.get("data_version"))
    }

    /// Checks that the connection can read.
    pub(super) fn test_read(&self) -> rusqlite::Result<()> {
        self.prepare("SELECT 1")?.query_row([], |_| Ok(()))
    }

    /// Inserts a session and deletes it again, which shows whether the database can be written.
    pub(super) fn test_write(&self) -> Result<(), JobError> {
        let written = self.execute_batch(TEST_WRITE);
        if written.is_err() {
            drop(self.execute_batch(UNDO_TEST_WRITE));
        }
        Ok(written?)
    }
}

impl SessionTable for SqliteConnection {
    type RowId = i64;

    fn find(&mut self, selector: SessionSelector) -> Result<Option<(i64, Session)>, JobError> {
        let (query, id): (&str, &[u8; 32]) = match &selector {
            SessionSelector::Key(key) => (&FIND_BY_KEY, &key.0),
            SessionSelector::Code(code) => (&FIND_BY_CODE, &code.0),
        };
        let read = |row: &NamedRow<'_, '_>| Ok::<_, StoreError>((row.integer("row_id")?, session(row)?));
        let found = self.prepare(query)?.query_row([id], |row| Ok(read(&NamedRow::new(row)))).optional()?;
        Ok(found.transpose()?)
    }

    fn update(&mut self, row_id: i64, next: &Session) -> Result<bool, JobError> {
        let columns = StateColumns::of(next)?;
        let rows = self.prepare(UPDATE)?.execute(params![
            row_id,
            i64::from(next.version) - 1,
            columns.state,
            columns.user_id,
            columns.user_name,
            columns.user_picture,
            columns.decided_at,
            columns.claimable_until,
            columns.token_grant,
            columns.scanned_at,
            columns.reason,
            next.key.0,
        ])?;
        Ok(rows == 1)
    }
}
