//! Sessions and records in an SQLite file, the embedded default, for one node.
//!
//! The file is in WAL mode with `synchronous=NORMAL`. A process that is killed loses no commit; a power failure may
//! undo the last commits.
//!
//! All rows are read and written on one connection, by the jobs of a [`JobQueue`]. A decision reads the clock when
//! its job runs, which orders it with the reads that find a session expired (see [`Store::read_settled`]). Because no
//! other connection writes, the page cache stays valid from one job to the next.
//!
//! A second connection, that of the [`Housekeeper`], runs what takes long: checkpoints and scans of the whole table.

mod connection;
mod database_file;
mod housekeeping;
mod records;
mod sessions;
mod url;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use self::connection::SqliteConnection;
use self::database_file::{DatabaseFiles, DatabaseLock, create_private_file};
use self::housekeeping::Housekeeper;
use self::url::path_of;
use super::change::{SessionTable as _, UncommittedChange, change};
use super::committed::{Announcer, Changed, SessionSelector, Transition};
use super::jobs::{Access, Job, JobError, JobQueue};
use super::{Attached, Ended, LargestNetwork, OpenError, Record, RecordId, Store, StoreError, Undelivered};
use crate::cluster::node::Notification;
use crate::session::{CodeKey, Session, SessionKey, Timestamp};
use crate::system::clock::Clock;

/// Time after which a check of the files fails, in seconds.
const CHECK_SECONDS: u32 = 5;
/// Maximum number of own changes that are kept for the next call of [`Store::undelivered`].
const MAX_OWN_CHANGES: usize = 100_000;

/// A store in an SQLite file, for one node.
pub struct SqliteStore {
    clock: Clock,
    jobs: JobQueue<SqliteConnection>,
    housekeeper: Arc<Housekeeper>,
    /// Whether a write has failed since the last successful test write.
    has_failed_write: AtomicBool,
    files: Arc<DatabaseFiles>,
    /// Held during a check of the files.
    checking: Arc<tokio::sync::Mutex<()>>,
    /// Changes of this process since the last call of [`Store::undelivered`].
    own_changes: Arc<Mutex<Vec<Notification>>>,
    /// Lock on the database. Released by [`Store::close`], or when the store is dropped.
    database_lock: Arc<Mutex<Option<DatabaseLock>>>,
}

impl SqliteStore {
    /// Opens the database. Creates it and migrates its schema where needed.
    ///
    /// # Errors
    /// The URL names no file, or the file cannot be used.
    pub fn open(url: &str, clock: Clock) -> Result<Self, OpenError> {
        let path = path_of(url)?;
        Self::open_file(&path, clock).map_err(|source| OpenError::Open { path, source })
    }

    fn open_file(path: &Path, clock: Clock) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        create_private_file(path)?;
        // SQLite creates its own files beside the target of a symbolic link. It does not take an absolute path for a
        // URI.
        let file = path.canonicalize()?;
        let database_lock = DatabaseLock::take(&file)?;
        let mut connection = SqliteConnection::open(&file)?;
        connection.migrate()?;
        // From here on a job that finds the database locked returns to the queue instead of waiting in SQLite.
        connection.fail_if_locked()?;
        let housekeeper = Housekeeper::new(SqliteConnection::open(&file)?, connection.data_version()?);
        let files = DatabaseFiles::of(path, &file)?;
        let jobs = JobQueue::new(connection, clock.clone());
        jobs.start_threads()?;
        Ok(Self {
            clock,
            jobs,
            housekeeper: Arc::new(housekeeper),
            has_failed_write: AtomicBool::new(false),
            files: Arc::new(files),
            checking: Arc::default(),
            own_changes: Arc::default(),
            database_lock: Arc::new(Mutex::new(Some(database_lock))),
        })
    }

    /// Checks that [`SqliteStore::open`] accepts a URL.
    ///
    /// # Errors
    /// The URL names no file.
    pub fn check_url(url: &str) -> Result<(), OpenError> {
        path_of(url).map(drop)
    }

    /// Runs a job that may write. A failure makes [`Store::ping`] test whether the database can be written.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut SqliteConnection) -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.note_failed_write(self.jobs.write(work).await)
    }

    fn note_failed_write<T>(&self, written: Result<T, StoreError>) -> Result<T, StoreError> {
        if written.is_err() {
            self.has_failed_write.store(true, Ordering::Relaxed);
        }
        written
    }

    /// Checks the files and writes the lock file, on a thread that may block. At most one check runs at a time.
    async fn check_files(&self) -> Result<(), StoreError> {
        let (files, database_lock) = (self.files.clone(), self.database_lock.clone());
        let checking = self.checking.clone();
        let check = async move {
            let alone = checking.lock_owned().await;
            let check = move || {
                let _alone = alone;
                files.check()?;
                match &mut *database_lock.lock() {
                    Some(lock) => lock.renew().map_err(|error| files.unwritable(error.into())),
                    None => Ok(()),
                }
            };
            tokio::task::spawn_blocking(check).await
        };
        match self.clock.timeout(CHECK_SECONDS, check).await {
            Some(Ok(checked)) => checked.map_err(|error| StoreError::Unavailable(error.into())),
            Some(Err(failed)) => Err(StoreError::Unavailable(failed.into())),
            None => Err(StoreError::Unavailable("its files do not answer".into())),
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.jobs.close();
    }
}

/// A job that changes one session.
struct ChangeSession {
    selector: SessionSelector,
    transition: Transition,
    clock: Clock,
    announcer: Arc<dyn Announcer>,
    own_changes: Arc<Mutex<Vec<Notification>>>,
}

impl Job<SqliteConnection> for ChangeSession {
    type Uncommitted = UncommittedChange;
    type Answer = Changed;

    fn run(&mut self, connection: &mut SqliteConnection) -> Result<UncommittedChange, JobError> {
        connection.in_transaction(|connection| change(connection, self.selector, &self.transition, &self.clock))
    }

    fn committed(self, change: UncommittedChange) -> Changed {
        if let Some(notification) = change.notification() {
            let mut own_changes = self.own_changes.lock();
            if own_changes.len() < MAX_OWN_CHANGES {
                own_changes.push(notification);
            }
        }
        change.committed(self.announcer)
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn is_shared(&self) -> bool {
        false
    }

    async fn insert(&self, session: &Session) -> Result<(), StoreError> {
        let session = session.clone();
        self.housekeeper.note_write();
        self.write(move |connection| connection.insert(&session)).await
    }

    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError> {
        let keys = keys.to_vec();
        self.jobs.read(move |connection| connection.read_sessions(&keys)).await
    }

    /// Reads the sessions. There is no other node, so nothing is written.
    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError> {
        let sessions = self.read(keys).await?;
        Ok(sessions.into_iter().map(|session| Attached { session, attachment: 0, superseded_node: None }).collect())
    }

    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<Session>, StoreError> {
        let selector = SessionSelector::Code(*code);
        self.jobs.read(move |connection| Ok(connection.find(selector)?.map(|(_, session)| session))).await
    }

    /// Reads the clock within the job. A change that ran earlier is committed, and one that runs later reads a later
    /// time.
    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError> {
        let (keys, clock) = (keys.to_vec(), self.clock.clone());
        self.jobs.read(move |connection| Ok((clock.now(), connection.read_sessions(&keys)?))).await
    }

    async fn change(
        &self,
        selector: SessionSelector,
        transition: Transition,
        announcer: Arc<dyn Announcer>,
    ) -> Result<Changed, StoreError> {
        let (clock, own_changes) = (self.clock.clone(), self.own_changes.clone());
        let job = ChangeSession { selector, transition, clock, announcer, own_changes };
        self.housekeeper.note_write();
        self.note_failed_write(self.jobs.run(Access::Write, job).await)
    }

    async fn largest_network(&self, now: Timestamp, limit: u32) -> Result<LargestNetwork, StoreError> {
        self.housekeeper.run(move |connection| connection.largest_network(now, limit)).await
    }

    /// Returns the changes of this process since the last call, and those of other processes if any has written.
    /// Committed changes are passed to the announcer as well, so a connection needs this result only after a fault or
    /// after a write by another process.
    async fn undelivered(&self) -> Result<Vec<Undelivered>, StoreError> {
        let data_version = self.jobs.read(|connection| Ok(connection.data_version()?)).await?;
        let of_others = self.housekeeper.changes_of_others(data_version, self.clock.now()).await?;
        // Taken after the scan has succeeded, so that an error leaves them for the next call.
        let mut notifications = std::mem::take(&mut *self.own_changes.lock());
        notifications.extend(of_others);
        Ok(notifications.into_iter().map(|notification| Undelivered { notification, session: None }).collect())
    }

    /// Does nothing, because each change is returned once.
    async fn mark_delivered(&self, _notifications: &[Notification]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError> {
        let swept = self.write(move |connection| connection.sweep(expired_before, limit)).await?;
        if !swept.is_empty() {
            self.housekeeper.note_write();
        }
        Ok(swept)
    }

    async fn insert_record(&self, record: &Record) -> Result<bool, StoreError> {
        let record = record.clone();
        self.housekeeper.note_write();
        self.write(move |connection| connection.insert_record(&record)).await
    }

    async fn read_record(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let id = *id;
        self.jobs.read(move |connection| connection.read_record(&id)).await
    }

    async fn replace_record(&self, record: &Record) -> Result<bool, StoreError> {
        let record = record.clone();
        self.housekeeper.note_write();
        self.write(move |connection| connection.replace_record(&record)).await
    }

    async fn delete_record(&self, id: &RecordId) -> Result<bool, StoreError> {
        let id = *id;
        self.housekeeper.note_write();
        self.write(move |connection| connection.delete_record(&id)).await
    }

    async fn sweep_records(&self, expired_before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        let swept = self.write(move |connection| connection.sweep_records(expired_before, limit)).await?;
        if swept > 0 {
            self.housekeeper.note_write();
        }
        Ok(swept)
    }

    async fn maintain(&self) -> Result<(), StoreError> {
        self.housekeeper.checkpoint(&self.jobs).await
    }

    /// Checks that the database can be written. Reads succeed on a full disk and on a file system that has become
    /// read-only, so only a write detects either. The lock file detects the read-only file system, and a test write
    /// after a failed write the full disk.
    async fn ping(&self) -> Result<(), StoreError> {
        self.check_files().await?;
        if !self.has_failed_write.load(Ordering::Relaxed) {
            return self.jobs.read(|connection| Ok(connection.test_read()?)).await;
        }
        self.housekeeper.note_write();
        match self.write(|connection| connection.test_write()).await {
            Ok(()) => {
                self.has_failed_write.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(StoreError::Unavailable(error)) => Err(StoreError::Unavailable(self.files.unwritable(error).into())),
            Err(corrupt) => Err(corrupt),
        }
    }

    /// Closes both connections and releases the lock. SQLite then moves the write-ahead log into the database file and
    /// deletes it.
    async fn close(&self) {
        let (housekeeper, jobs) = (self.housekeeper.clone(), self.jobs.clone());
        let database_lock = self.database_lock.clone();
        // A disk that does not answer must not block the thread that stops the server.
        let closing = tokio::task::spawn_blocking(move || {
            housekeeper.close();
            jobs.close();
            drop(database_lock.lock().take());
        });
        drop(closing.await);
    }
}
