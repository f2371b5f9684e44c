//! Work that takes long, and therefore runs on a second connection: checkpoints, and scans of the whole table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::connection::SqliteConnection;
use super::sessions::ChangedRow;
use crate::cluster::node::Notification;
use crate::session::Timestamp;
use crate::store::StoreError;
use crate::store::jobs::{JobQueue, closed};

/// Size from which the write-ahead log is restarted, in pages of 4 KiB.
const RESTART_PAGES: i64 = 4096;
/// Maximum number of rows that one scan reads.
const MAX_SCANNED: u32 = 10_000;

/// The second connection to the database.
pub(super) struct Housekeeper {
    /// The connection. `None` after the store was closed.
    connection: Mutex<Option<SqliteConnection>>,
    written_since_checkpoint: AtomicBool,
    scan: Mutex<Scan>,
}

/// Progress of the scan for changes by other processes, which may take several calls.
struct Scan {
    /// `data_version` of SQLite for which all rows have been scanned. It changes when another connection commits.
    seen: i64,
    /// `data_version` when the current scan began.
    of: i64,
    /// Row up to which the current scan has read. 0 between scans.
    after: i64,
}

impl Housekeeper {
    /// Makes a housekeeper. `data_version` is that of the connection that runs the jobs.
    pub(super) fn new(connection: SqliteConnection, data_version: i64) -> Self {
        Self {
            connection: Mutex::new(Some(connection)),
            written_since_checkpoint: AtomicBool::new(true),
            scan: Mutex::new(Scan { seen: data_version, of: data_version, after: 0 }),
        }
    }

    /// Records that the next call of [`Housekeeper::checkpoint`] has something to checkpoint.
    pub(super) fn note_write(&self) {
        self.written_since_checkpoint.store(true, Ordering::Relaxed);
    }

    /// Runs `work` on the second connection, on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&SqliteConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let housekeeper = self.clone();
        let working =
            tokio::task::spawn_blocking(move || work(housekeeper.connection.lock().as_ref().ok_or_else(closed)?));
        working.await.map_err(|error| StoreError::Unavailable(error.into()))?
    }

    /// Copies the write-ahead log into the database, if there were writes since the last call.
    pub(super) async fn checkpoint(self: &Arc<Self>, jobs: &JobQueue<SqliteConnection>) -> Result<(), StoreError> {
        if !self.written_since_checkpoint.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let jobs = jobs.clone();
        let checkpoint = self.run(move |connection| {
            if connection.checkpoint("PRAGMA wal_checkpoint(PASSIVE)")? <= RESTART_PAGES {
                return Ok(());
            }
            // Under continuous writes a passive checkpoint never restarts the log, which then grows. This runs while no
            // job does. Little is left to copy, and the next write restarts the log.
            jobs.run_blocking(|connection| Ok(connection.checkpoint("PRAGMA wal_checkpoint(RESTART)").map(drop)?))
        });
        // Try again at the next call, even without another write.
        checkpoint.await.inspect_err(|_| self.note_write())
    }

    /// Returns changes that other processes may have written since the last call. `data_version` is that of the
    /// connection that runs the jobs.
    pub(super) async fn changes_of_others(
        self: &Arc<Self>,
        data_version: i64,
        now: Timestamp,
    ) -> Result<Vec<Notification>, StoreError> {
        let Some(after) = self.scan.lock().begin(data_version) else { return Ok(Vec::new()) };
        // After an error the next call reads the same rows.
        let changed = self.run(move |connection| connection.changed_rows(now, after, MAX_SCANNED)).await?;
        self.scan.lock().advance(&changed);
        Ok(changed.into_iter().map(|row| row.notification).collect())
    }

    /// Closes the connection. Blocks while it is in use.
    pub(super) fn close(&self) {
        drop(self.connection.lock().take());
    }
}

impl Scan {
    /// Returns the row after which to read, or `None` if no other connection has committed since the last scan.
    fn begin(&mut self, data_version: i64) -> Option<i64> {
        if self.after == 0 && self.seen == data_version {
            return None;
        }
        if self.after == 0 {
            self.of = data_version;
        }
        Some(self.after)
    }

    /// Records that these rows were read.
    fn advance(&mut self, changed: &[ChangedRow]) {
        match changed.last().filter(|_| changed.len() >= MAX_SCANNED as usize) {
            Some(last) => self.after = last.row_id,
            None => (self.after, self.seen) = (0, self.of),
        }
    }
}
