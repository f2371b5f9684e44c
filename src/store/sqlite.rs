//! Sessions in an SQLite file, the embedded default, for one node.
//!
//! The file is in WAL mode with `synchronous=NORMAL`. A process that is killed loses no commit; a power failure may
//! undo the last commits.
//!
//! All sessions are read and written on one connection, by the jobs of a [`Writer`]. A decision reads the clock when
//! its job runs, which orders it with the reads that find a session expired (see [`Store::read_settled`]). Because no
//! other connection writes, the page cache stays valid from one job to the next.
//!
//! A second connection, the housekeeper, runs what takes long: checkpoints and scans of the whole table.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{
    CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension as _, TransactionBehavior, params,
};

use super::change::{Change, Table, change};
use super::committed::{Announcer, Changed, Transition, Which};
use super::database_file::{DatabaseFiles, DatabaseLock, Lost};
use super::row::{self, COLUMNS, Row, StateColumns, corrupt};
use super::writer::{Access, Database, Failure, Writer, closed, lock};
use super::{Attached, Ended, Heaviest, OpenError, Store, StoreError, Undelivered};
use crate::cluster::node::Notification;
use crate::session::{Client, CodeKey, Session, SessionKey, Timestamp};
use crate::system::clock::Clock;

/// Migrations of the schema, in order. The `user_version` of the database is the number of those that were applied. A
/// released migration never changes.
const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/sqlite/0001_sessions.sql"),
    include_str!("../../migrations/sqlite/0002_hostile_web.sql"),
];

/// Size of the page cache of each connection, in KiB. The operating system caches the rest.
const CACHE_KIB: i64 = 256;
/// Size from which the write-ahead log is restarted, in pages of 4 KiB.
const RESTART_PAGES: i64 = 4096;
/// Statements that insert a session and delete it again. They require what a login requires and leave nothing behind.
const TEST_WRITE: &str = "SAVEPOINT test;
    INSERT INTO sessions (id, code, version, state, created_at, expires_at, client_ip)
        VALUES (zeroblob(32), zeroblob(32), 1, 'pending', 0, 0, '');
    DELETE FROM sessions WHERE id = zeroblob(32);
    RELEASE test";
/// Statements that end a failed test write. They fail if SQLite has rolled it back already.
const UNDO_TEST_WRITE: &str = "ROLLBACK TO test; RELEASE test";
/// Time for which opening and housekeeping wait for a lock of another process. Jobs do not wait in SQLite: a job that
/// finds the database locked stays in the queue.
const PATIENCE: Duration = Duration::from_secs(4);
/// Time after which a check of the files fails, in seconds.
const CHECK_SECONDS: u32 = 5;
/// Maximum number of rows that one call of [`Store::untold`] reads for changes by other processes.
const MAX_FOREIGN: u32 = 10_000;
/// Maximum number of changes of this process that are kept for the next call of [`Store::untold`].
const MAX_RECENT: usize = 100_000;

/// A store in an SQLite file, for one node.
pub struct SqliteStore {
    clock: Clock,
    writer: Writer<Sqlite>,
    /// The second connection. `None` after the store was closed.
    housekeeper: Arc<Mutex<Option<Connection>>>,
    written_since_checkpoint: AtomicBool,
    /// Whether a write has failed since the last successful test write.
    is_in_doubt: AtomicBool,
    files: Arc<DatabaseFiles>,
    /// Held during a check of the files.
    checking: Arc<tokio::sync::Mutex<()>>,
    /// Changes of this process since the last call of [`Store::untold`].
    recent: Arc<Mutex<Vec<Notification>>>,
    /// Progress of the scan for changes by other processes.
    foreign: Mutex<ForeignScan>,
    /// Lock on the database. Released by [`Store::close`], or when the store is dropped.
    held: Arc<Mutex<Option<DatabaseLock>>>,
}

/// The connection that the jobs use.
struct Sqlite(Connection);

/// Progress of the scan for changes by other processes, which may take several calls.
struct ForeignScan {
    /// `data_version` of SQLite for which all rows have been scanned. It changes when another connection commits.
    seen: i64,
    /// `data_version` when the current scan began.
    of: i64,
    /// Row up to which the current scan has read. 0 between scans.
    after: i64,
}

impl Database for Sqlite {
    fn begin(&mut self) -> Result<(), Failure> {
        Ok(cached(&self.0, "BEGIN IMMEDIATE")?.execute([]).map(drop)?)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        Ok(cached(&self.0, "COMMIT")?.execute([]).map(drop)?)
    }

    fn rollback(&mut self) {
        // SQLite may have rolled back already; ignore the error.
        drop(self.0.execute_batch("ROLLBACK"));
    }

    fn is_in_transaction(&self) -> bool {
        !self.0.is_autocommit()
    }
}

impl Sqlite {
    /// Runs `work` in a transaction, or in the one that is open. In a transaction SQLite takes its read lock once
    /// instead of once per statement. Fails with [`Failure::Locked`] if another process has written since `work` read.
    fn in_transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        if self.is_in_transaction() {
            return work(self);
        }
        cached(&self.0, "BEGIN")?.execute([])?;
        let done = work(self).and_then(|done| self.commit().map(|()| done));
        if done.is_err() && self.is_in_transaction() {
            self.rollback();
        }
        done
    }
}

fn cached<'a>(connection: &'a Connection, sql: &str) -> rusqlite::Result<CachedStatement<'a>> {
    connection.prepare_cached(sql)
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            _ => Self::Failed(error.into()),
        }
    }
}

static READ: LazyLock<String> = LazyLock::new(|| format!("SELECT {COLUMNS} FROM sessions WHERE id = ?1"));
static FIND_BY_KEY: LazyLock<String> = LazyLock::new(|| format!("SELECT {COLUMNS}, rowid FROM sessions WHERE id = ?1"));
static FIND_BY_CODE: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {COLUMNS}, rowid FROM sessions WHERE code = ?1"));
const UPDATE: &str = "UPDATE sessions
    SET version = version + 1, state = ?3, user_id = ?4, user_name = ?5, user_picture = ?6,
        decided_at = ?7, claimable_until = ?8, token_grant = ?9, scanned_at = ?10, reason = ?11
    WHERE rowid = ?1 AND version = ?2 AND id = ?12";
/// Statement that selects changes that may not have been delivered and that a connection may wait for.
const FOREIGN: &str = "SELECT id, version, rowid FROM sessions
    WHERE version > 1 AND state <> 'claimed' AND max(expires_at, coalesce(claimable_until, 0)) > ?1 AND rowid > ?2
    ORDER BY rowid LIMIT ?3";

impl SqliteStore {
    /// Opens the database. Creates it and migrates its schema where needed.
    ///
    /// # Errors
    /// The URL names no file, or the file cannot be used.
    pub fn open(url: &str, clock: Clock) -> Result<Self, OpenError> {
        let path = file_of(url)?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Open { path: path.clone(), source };
        create_private_file(&path).map_err(|error| failed(error.into()))?;
        // SQLite creates its own files beside the target of a symbolic link. It does not take an absolute path for a
        // URI.
        let file = path.canonicalize().map_err(|error| failed(error.into()))?;
        let held = Arc::new(Mutex::new(Some(DatabaseLock::take(&file).map_err(&failed)?)));
        let open = || connect(&file).map_err(|error| failed(error.into()));

        let mut connection = open()?;
        migrate(&mut connection).map_err(|error| failed(error.into()))?;
        // From here on a job that finds the database locked returns to the queue instead of waiting in SQLite.
        connection.busy_timeout(Duration::ZERO).map_err(|error| failed(error.into()))?;
        let data_version = data_version(&connection).map_err(|error| failed(error.into()))?;
        let housekeeper = Arc::new(Mutex::new(Some(open()?)));
        let writer = Writer::new(Sqlite(connection), clock.clone());
        writer.start_threads().map_err(|error| failed(error.into()))?;
        Ok(Self {
            clock,
            writer,
            housekeeper,
            written_since_checkpoint: AtomicBool::new(true),
            is_in_doubt: AtomicBool::new(false),
            files: Arc::new(DatabaseFiles::of(&path, &file).map_err(|error| failed(error.into()))?),
            checking: Arc::default(),
            recent: Arc::default(),
            foreign: Mutex::new(ForeignScan { seen: data_version, of: data_version, after: 0 }),
            held,
        })
    }

    /// Checks that [`SqliteStore::open`] accepts a URL.
    ///
    /// # Errors
    /// The URL names no file.
    pub fn check_url(url: &str) -> Result<(), OpenError> {
        file_of(url).map(drop)
    }

    /// Records that the next call of [`Store::tidy`] has something to checkpoint.
    fn note_write(&self) {
        self.written_since_checkpoint.store(true, Ordering::Relaxed);
    }

    /// Runs `work` as a job that may write.
    async fn write<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.note_doubt(self.writer.run(Access::Write, move |Sqlite(connection)| work(connection)).await)
    }

    /// Runs `work` as a job that only reads.
    async fn query<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.run(Access::Read, move |Sqlite(connection)| work(connection)).await
    }

    /// Records a failed write, so that [`Store::ping`] tests writing.
    fn note_doubt<T>(&self, written: Result<T, StoreError>) -> Result<T, StoreError> {
        if written.is_err() {
            self.is_in_doubt.store(true, Ordering::Relaxed);
        }
        written
    }

    /// Runs `work` on the second connection, on a thread that may block.
    async fn keep_house<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let housekeeper = self.housekeeper.clone();
        let working = tokio::task::spawn_blocking(move || work(lock(&housekeeper).as_ref().ok_or_else(closed)?));
        working.await.map_err(|error| StoreError::Unavailable(error.into()))?
    }

    /// Checks the files and writes the lock file, on a thread that may block. At most one check runs at a time.
    async fn check_files(&self) -> Result<(), StoreError> {
        let (files, held, checking) = (self.files.clone(), self.held.clone(), self.checking.clone());
        let check = async move {
            let alone = checking.lock_owned().await;
            let check = move || {
                let _alone = alone;
                files.check()?;
                match &mut *lock(&held) {
                    Some(held) => held.renew().map_err(|error| files.unwritable(error.into())),
                    None => Ok(()),
                }
            };
            tokio::task::spawn_blocking(check).await
        };
        match self.clock.timeout(CHECK_SECONDS, check).await {
            Some(Ok(checked)) => checked.map_err(|lost| StoreError::Unavailable(lost.into())),
            Some(Err(failed)) => Err(StoreError::Unavailable(failed.into())),
            None => Err(StoreError::Unavailable("its files do not answer".into())),
        }
    }

    /// Returns changes that other processes may have written since the last call.
    async fn foreign_changes(&self) -> Result<Vec<Notification>, StoreError> {
        let version = self.query(|connection| Ok(data_version(connection)?)).await?;
        let after = {
            let mut scan = lock(&self.foreign);
            if scan.after == 0 && scan.seen == version {
                return Ok(Vec::new());
            }
            if scan.after == 0 {
                scan.of = version;
            }
            scan.after
        };
        let now = self.clock.now().as_millis();
        let scanned = self.keep_house(move |connection| {
            let mut query = cached(connection, FOREIGN)?;
            let rows = query.query_map(params![now, after, MAX_FOREIGN], |row| {
                let notification = Notification { key: SessionKey(row.get(0)?), version: row.get(1)?, attachment: 0 };
                Ok((notification, row.get::<_, i64>(2)?))
            })?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        // After an error the next call reads the same rows.
        let found = scanned.await?;
        let mut scan = lock(&self.foreign);
        match found.last().filter(|_| found.len() >= MAX_FOREIGN as usize) {
            Some((_, row)) => scan.after = *row,
            None => (scan.after, scan.seen) = (0, scan.of),
        }
        Ok(found.into_iter().map(|(notification, _)| notification).collect())
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.writer.close();
    }
}

/// Returns the `data_version` of SQLite, which changes when another connection, of this process or another, commits.
fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    cached(connection, "PRAGMA data_version")?.query_row([], |row| row.get(0))
}

impl Table for Sqlite {
    type Row = i64;

    fn find(&mut self, which: Which) -> Result<Option<(i64, Session)>, Failure> {
        let (query, id): (&str, &[u8; 32]) = match &which {
            Which::Key(key) => (&FIND_BY_KEY, &key.0),
            Which::Code(code) => (&FIND_BY_CODE, &code.0),
        };
        let found = cached(&self.0, query)?.query_row([id], |row| Ok((row.get(AFTER)?, session(row)))).optional()?;
        Ok(found.map(|(row, session)| Ok::<_, StoreError>((row, session?))).transpose()?)
    }

    fn update(&mut self, row: i64, next: &Session) -> Result<bool, Failure> {
        let (state, changed) = StateColumns::of(next)?;
        let rows = cached(&self.0, UPDATE)?.execute(params![
            row,
            i64::from(next.version) - 1,
            state,
            changed.user_id,
            changed.user_name,
            changed.user_picture,
            changed.decided_at,
            changed.claimable_until,
            changed.token_grant,
            changed.scanned_at,
            changed.reason,
            next.key.0,
        ])?;
        Ok(rows == 1)
    }
}

/// Applies the missing migrations. A database that a newer release has migrated is accepted, because migrations only
/// add to the schema.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (number, migration) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > done) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
    }
    transaction.commit()
}

/// Returns the path in a URL. An error does not quote the URL, because the URL of another store may hold a password.
fn file_of(url: &str) -> Result<PathBuf, OpenError> {
    let Some(file) = url.strip_prefix("sqlite://") else {
        let scheme = url.split_once("://").map_or("(no scheme)", |(scheme, _)| scheme);
        return Err(OpenError::Url(scheme.to_owned()));
    };
    let is_escape = |text: &[u8]| text[0] == b'%' && text[1..].iter().all(u8::is_ascii_hexdigit);
    let reason = if file.is_empty() {
        "names no file; write sqlite://FILE, or sqlite:///DIRECTORY/FILE"
    } else if file.starts_with(":memory:") {
        "a database in memory would be another one for each connection, and would end with the server; name a file: \
         sqlite://FILE"
    } else if file.starts_with("file:") {
        "SQLite's own URIs (file:…) are not read; write the path itself: sqlite://FILE. For a file whose name begins \
         so, write sqlite://./file:…"
    } else if file.contains('?') {
        "sqlite:// takes no parameters, so the path may hold no '?'; write sqlite://FILE alone"
    } else if file.as_bytes().windows(3).any(is_escape) {
        "the path is percent-encoded; write each character of it as it is: sqlite://FILE"
    } else if file.contains(char::is_control) {
        "the path has a control character"
    } else {
        return Ok(file.into());
    };
    Err(OpenError::UrlPart(reason.to_owned()))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(connection)
}

/// Creates the database file with mode 0600, because it holds names and addresses. SQLite gives its `-wal` and `-shm`
/// files the same mode. An existing file is not opened: closing it would release SQLite's locks on it if another store
/// of this process has it open.
fn create_private_file(path: &Path) -> std::io::Result<()> {
    if path.try_exists()? {
        return if path.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { Ok(()) };
    }
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

#[async_trait]
impl Store for SqliteStore {
    fn is_shared(&self) -> bool {
        false
    }

    async fn insert(&self, session: &Session) -> Result<(), StoreError> {
        let (state, _) = StateColumns::of(session)?;
        let session = session.clone();
        self.note_write();
        self.write(move |connection| {
            let client = &session.client;
            cached(
                connection,
                "INSERT INTO sessions (id, code, version, state, created_at, expires_at,
                     client_ip, client_browser, client_os, client_origin, client_info, client_network)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                session.key.0,
                session.code.0,
                session.version,
                state,
                session.created_at.as_millis(),
                session.expires_at.as_millis(),
                client.ip,
                client.browser,
                client.os,
                client.origin,
                client.client_info,
                client.network(),
            ])?;
            Ok(())
        })
        .await
    }

    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError> {
        let keys = keys.to_vec();
        self.query(move |connection| read_all(connection, &keys)).await
    }

    /// Reads the sessions. There is no other node, so nothing is written.
    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError> {
        let sessions = self.read(keys).await?;
        Ok(sessions.into_iter().map(|session| Attached { session, attachment: 0, superseded_node: None }).collect())
    }

    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<Session>, StoreError> {
        let code = *code;
        self.query(move |connection| {
            let found = cached(connection, &FIND_BY_CODE)?.query_row([code.0], |row| Ok(session(row))).optional()?;
            Ok(found.transpose()?)
        })
        .await
    }

    /// Reads the clock within the job. A change that ran earlier is committed, and one that runs later reads a later
    /// time.
    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError> {
        let (keys, clock) = (keys.to_vec(), self.clock.clone());
        self.query(move |connection| {
            let now = clock.now();
            Ok((now, read_all(connection, &keys)?))
        })
        .await
    }

    async fn change(
        &self,
        which: Which,
        transition: Transition,
        announcer: Arc<dyn Announcer>,
    ) -> Result<Changed, StoreError> {
        let (clock, recent) = (self.clock.clone(), self.recent.clone());
        self.note_write();
        let work = move |database: &mut Sqlite| {
            database.in_transaction(|database| change(database, which, &transition, &clock))
        };
        // This runs after the commit.
        let finish = move |change: Change| {
            if let Some(notification) = change.notification() {
                let mut recent = lock(&recent);
                if recent.len() < MAX_RECENT {
                    recent.push(notification);
                }
            }
            change.committed(announcer)
        };
        self.note_doubt(self.writer.ask(Access::Write, work, finish).await)
    }

    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError> {
        let swept = self.write(move |connection| {
            let mut delete = cached(connection, &SWEEP)?;
            let rows = delete.query_map(params![expired_before.as_millis(), limit], |row| Ok(session(row)))?;
            let mut ended = Vec::new();
            for row in rows {
                // A row that cannot be read is deleted like the others, and not counted.
                ended.extend(row?.ok().map(|session| Ended::of(&session)));
            }
            Ok(ended)
        });
        let swept = swept.await?;
        if !swept.is_empty() {
            self.note_write();
        }
        Ok(swept)
    }

    async fn heaviest(&self, now: Timestamp, limit: u32) -> Result<Heaviest, StoreError> {
        self.keep_house(move |connection| {
            let mut query = connection.prepare_cached(&row::heaviest("sessions"))?;
            let mut rows = query.query(params![now.as_millis(), limit])?;
            let mut heaviest = Heaviest::default();
            while let Some(row) = rows.next()? {
                heaviest.pending = row.get::<_, u32>(AFTER)?.into();
                heaviest.oldest.push(session(row)?);
            }
            Ok(heaviest)
        })
        .await
    }

    /// Returns the changes of this process since the last call, and those of other processes if any has written.
    /// Committed changes are passed to the announcer as well, so a connection needs this result only after a fault or
    /// after a write by another process.
    async fn undelivered(&self) -> Result<Vec<Undelivered>, StoreError> {
        let foreign = self.foreign_changes().await?;
        // Taken after the scan has succeeded, so that an error leaves them for the next call.
        let mut notifications = std::mem::take(&mut *lock(&self.recent));
        notifications.extend(foreign);
        Ok(notifications.into_iter().map(|notification| Undelivered { notification, session: None }).collect())
    }

    async fn mark_delivered(&self, _hints: &[Notification]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        if !self.written_since_checkpoint.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let writer = self.writer.clone();
        let checkpoint = self.keep_house(move |connection| {
            // Columns: whether the checkpoint was blocked, pages in the log, pages of the log that were checkpointed.
            let log_pages: i64 = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))?;
            if log_pages <= RESTART_PAGES {
                return Ok(());
            }
            // Under continuous writes a passive checkpoint never restarts the log, which then grows. This runs while no
            // job does. Little is left to copy, and the next write restarts the log.
            let restart = "PRAGMA wal_checkpoint(RESTART)";
            writer.run_blocking(|Sqlite(connection)| Ok(connection.query_row(restart, [], |_| Ok(()))?))
        });
        // Try again at the next call, even without another write.
        checkpoint.await.inspect_err(|_| self.note_write())
    }

    /// Checks that the database can be written. Reads succeed on a full disk and on a file system that has become
    /// read-only, so only a write detects either. The lock file detects the read-only file system, and a test write
    /// after a failed write the full disk.
    async fn ping(&self) -> Result<(), StoreError> {
        let unavailable = |lost: Lost| StoreError::Unavailable(lost.into());
        self.check_files().await?;
        if !self.is_in_doubt.load(Ordering::Relaxed) {
            return self.query(|connection| Ok(cached(connection, "SELECT 1")?.query_row([], |_| Ok(()))?)).await;
        }
        self.note_write();
        let test_write = |connection: &Connection| {
            let written = connection.execute_batch(TEST_WRITE);
            if written.is_err() {
                drop(connection.execute_batch(UNDO_TEST_WRITE));
            }
            Ok(written?)
        };
        match self.write(test_write).await {
            Ok(()) => {
                self.is_in_doubt.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(StoreError::Unavailable(error)) => Err(unavailable(self.files.unwritable(error))),
            Err(corrupt) => Err(corrupt),
        }
    }

    /// Closes both connections and releases the lock. SQLite then moves the write-ahead log into the database file and
    /// deletes it.
    async fn close(&self) {
        let (housekeeper, writer, held) = (self.housekeeper.clone(), self.writer.clone(), self.held.clone());
        // A disk that does not answer must not block the thread that stops the server.
        let closing = tokio::task::spawn_blocking(move || {
            drop(lock(&housekeeper).take());
            writer.close();
            drop(lock(&held).take());
        });
        drop(closing.await);
    }
}

static SWEEP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "DELETE FROM sessions
         WHERE id IN (SELECT id FROM sessions WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)
         RETURNING {COLUMNS}"
    )
});

/// Reads sessions in one snapshot.
fn read_all(connection: &Connection, keys: &[SessionKey]) -> Result<Vec<Session>, Failure> {
    // A transaction takes the read lock of SQLite once instead of once per row.
    let snapshot =
        if keys.len() > 1 && connection.is_autocommit() { Some(connection.unchecked_transaction()?) } else { None };
    let mut query = cached(connection, &READ)?;
    let mut sessions = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(session) = query.query_row([key.0], |row| Ok(session(row))).optional()? {
            sessions.push(session?);
        }
    }
    drop(snapshot);
    Ok(sessions)
}

/// Index of the first column after those of [`COLUMNS`].
const AFTER: usize = 19;

/// Converts a row that begins with [`COLUMNS`].
fn session(row: &rusqlite::Row<'_>) -> Result<Session, StoreError> {
    let row = Row {
        id: row.get(0)?,
        code: row.get(1)?,
        version: row.get(2)?,
        state: row.get_ref(3)?.as_str().map_err(corrupt)?,
        created_at: row.get(4)?,
        expires_at: row.get(5)?,
        client: Client {
            ip: row.get(6)?,
            browser: row.get(7)?,
            os: row.get(8)?,
            origin: row.get(9)?,
            client_info: row.get(10)?,
        },
        changed: StateColumns {
            user_id: row.get(11)?,
            user_name: row.get(12)?,
            user_picture: row.get(13)?,
            decided_at: row.get(14)?,
            claimable_until: row.get(15)?,
            token_grant: row.get(16)?,
            scanned_at: row.get(17)?,
            reason: row.get(18)?,
        },
    };
    row.session()
}
