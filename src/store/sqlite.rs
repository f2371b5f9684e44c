//! Sessions in an SQLite file: the embedded default, for one node.
//!
//! WAL with `synchronous=NORMAL`: a killed process loses nothing; a power cut may undo the last commits.
//!
//! Everything that decides goes through one connection (see [`super::decider`]), and takes its time there. That is what
//! orders decisions and the deadline's reading (see [`Store::read_settled`]).
//!
//! Other readings are done at once, by whoever asks: they wait for no lock but each other's, and find what they look
//! for in memory (the system's, if not SQLite's own), which takes less time than handing them to somebody else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};

use super::database_file::{DatabaseFiles, DatabaseLock, Lost};
use super::decider::{Decider, lock};
use super::row::{self, COLUMNS, Changed, Row, corrupt};
use super::{Attached, Ended, Heaviest, OpenError, Replaced, Store, StoreError, Untold};
use crate::clock::Clock;
use crate::node::Hint;
use crate::session::{Client, CodeKey, Session, SessionKey, Timestamp};

/// Each brings the schema one step on; the database's `user_version` counts those that are done. Those that were
/// released never change.
const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/sqlite/0001_sessions.sql"),
    include_str!("../../migrations/sqlite/0002_hostile_web.sql"),
];

/// Pages that a connection keeps to itself, in KiB. What it does not keep, the system does.
const CACHE_KIB: i64 = 64;
/// From this many pages (of 4 KiB) on, the write-ahead log is made to begin anew.
const RESTART_PAGES: i64 = 4096;
/// Adds a session and removes it again: needs what a login needs, and changes nothing.
const TEST_WRITE: &str = "SAVEPOINT test;
    INSERT INTO sessions (id, code, version, state, created_at, expires_at, client_ip)
        VALUES (zeroblob(32), zeroblob(32), 1, 'pending', 0, 0, '');
    DELETE FROM sessions WHERE id = zeroblob(32);
    RELEASE test";
/// After a test write that failed. (Or else there is nothing left of it.)
const UNDO_TEST_WRITE: &str = "ROLLBACK TO test; RELEASE test";
/// How long SQLite waits for a lock that another program holds.
const PATIENCE: Duration = Duration::from_secs(4);

/// See the module.
pub struct SqliteStore {
    clock: Clock,
    decider: Decider,
    readers: Arc<Readers>,
    /// Until it is closed.
    checkpointer: Arc<Mutex<Option<Connection>>>,
    written_since_checkpoint: AtomicBool,
    /// A write has failed since the last test write that succeeded.
    is_in_doubt: AtomicBool,
    files: DatabaseFiles,
    /// Released at closing, whoever still has a part of the store then; or else when it is dropped, as the last.
    held: Mutex<Option<DatabaseLock>>,
}

impl SqliteStore {
    /// Opens the database, making it and bringing its schema up to date where needed.
    ///
    /// # Errors
    /// A URL that names no file, or a file that cannot be used.
    pub fn open(url: &str, clock: Clock) -> Result<Self, OpenError> {
        let path = file_of(url)?;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Open { path: path.clone(), source };
        create_private_file(&path).map_err(|error| failed(error.into()))?;
        let held = Mutex::new(Some(DatabaseLock::take(&path).map_err(&failed)?));
        let open = || connect(&path).map_err(|error| failed(error.into()));

        let mut decider = open()?;
        migrate(&mut decider).map_err(|error| failed(error.into()))?;
        let readers = Arc::new([Mutex::new(Some(open()?)), Mutex::new(Some(open()?))]);
        let checkpointer = Arc::new(Mutex::new(Some(open()?)));
        let decider = Decider::new(decider, clock.clone());
        let files = DatabaseFiles::of(&path).map_err(|error| failed(error.into()))?;
        let (written_since_checkpoint, is_in_doubt) = (AtomicBool::new(true), AtomicBool::new(false));
        Ok(Self { clock, decider, readers, checkpointer, written_since_checkpoint, is_in_doubt, files, held })
    }

    /// Whether this is a URL that [`SqliteStore::open`] takes.
    ///
    /// # Errors
    /// It is not.
    pub fn check_url(url: &str) -> Result<(), OpenError> {
        file_of(url).map(drop)
    }

    fn note_write(&self) {
        self.written_since_checkpoint.store(true, Ordering::Relaxed);
    }

    /// Has `work` done, which writes.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let written = self.decider.run(work).await;
        if written.is_err() {
            self.is_in_doubt.store(true, Ordering::Relaxed);
        }
        written
    }

    fn with_reader<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        with_reader(&self.readers, read)
    }
}

/// Until they are closed.
type Readers = [Mutex<Option<Connection>>; 2];

/// With whichever reader is free.
fn with_reader<T>(
    [first, second]: &Readers,
    read: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let reader = first.try_lock().unwrap_or_else(|_| lock(second));
    read(reader.as_ref().ok_or_else(closed)?)
}

fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".into())
}

/// A newer version's migrations only add: this one still runs against them.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (number, migration) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > done) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
    }
    transaction.commit()
}

fn file_of(url: &str) -> Result<PathBuf, OpenError> {
    // Another store's may hold a password.
    let refused = || OpenError::Url(url.split_once("://").map_or(url, |(scheme, _)| scheme).to_owned());
    let file = url.strip_prefix("sqlite://").ok_or_else(refused)?;
    // A database in memory would be another one for every connection.
    if file.is_empty() || file.starts_with(":memory:") || file.contains('?') { Err(refused()) } else { Ok(file.into()) }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(connection)
}

/// The file holds names and addresses of people: nobody else on the machine need read it. (SQLite gives its `-wal`
/// and `-shm` files the same mode.)
fn create_private_file(path: &Path) -> std::io::Result<()> {
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
        let (state, _) = Changed::of(session)?;
        let session = session.clone();
        self.note_write();
        self.write(move |connection| {
            let client = &session.client;
            connection
                .prepare_cached(
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
        self.with_reader(|reader| read_all(reader, keys))
    }

    /// Nothing is written: there is no other node.
    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError> {
        let sessions = self.read(keys).await?;
        Ok(sessions.into_iter().map(|session| Attached { session, attachment: 0, taken_over_from: None }).collect())
    }

    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<Session>, StoreError> {
        self.with_reader(|reader| {
            let mut query = reader.prepare_cached(&format!("SELECT {COLUMNS} FROM sessions WHERE code = ?1"))?;
            query.query_row([code.0], |row| Ok(session(row))).optional()?.transpose()
        })
    }

    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError> {
        let (keys, clock) = (keys.to_vec(), self.clock.clone());
        self.decider
            .run(move |connection| {
                let now = clock.now();
                Ok((now, read_all(connection, &keys)?))
            })
            .await
    }

    async fn replace(&self, next: &Session) -> Result<Replaced, StoreError> {
        let (state, changed) = Changed::of(next)?;
        let (key, version, clock, writable_until) = (next.key, next.version, self.clock.clone(), next.writable_until());
        self.note_write();
        let written = self.write(move |connection| {
            // Taken only now: however long the connection was waited for, a decision is judged when it is written.
            if clock.now() >= writable_until {
                return Ok(Replaced::Stale);
            }
            let rows = connection
                .prepare_cached(
                    "UPDATE sessions
                     SET version = version + 1, state = ?3, user_id = ?4, user_name = ?5, user_picture = ?6,
                         decided_at = ?7, claimable_until = ?8, token_grant = ?9, scanned_at = ?10, reason = ?11
                     WHERE id = ?1 AND version = ?2",
                )?
                .execute(params![
                    key.0,
                    i64::from(version) - 1,
                    state,
                    changed.user_id,
                    changed.user_name,
                    changed.user_picture,
                    changed.decided_at,
                    changed.claimable_until,
                    changed.token_grant,
                    changed.scanned_at,
                    changed.reason,
                ])?;
            Ok(if rows == 1 { Replaced::Written(None) } else { Replaced::Stale })
        });
        written.await
    }

    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError> {
        let swept = self.write(move |connection| {
            let mut delete = connection.prepare_cached(&format!(
                "DELETE FROM sessions
                 WHERE id IN (SELECT id FROM sessions WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)
                 RETURNING {COLUMNS}"
            ))?;
            let rows = delete.query_map(params![expired_before.as_millis(), limit], |row| Ok(session(row)))?;
            rows.map(|row| row?.map(|session| Ended::of(&session))).collect::<Result<Vec<_>, StoreError>>()
        });
        let swept = swept.await?;
        if !swept.is_empty() {
            self.note_write();
        }
        Ok(swept)
    }

    async fn heaviest(&self, now: Timestamp, limit: u32) -> Result<Heaviest, StoreError> {
        let readers = self.readers.clone();
        // Of a million rows that takes a second, in which a thread of those that serve is not to be held up.
        let reading = tokio::task::spawn_blocking(move || {
            with_reader(&readers, |reader| {
                let mut query = reader.prepare_cached(&row::heaviest("sessions"))?;
                let mut rows = query.query(params![now.as_millis(), limit])?;
                let mut heaviest = Heaviest::default();
                while let Some(row) = rows.next()? {
                    heaviest.pending = row.get::<_, u32>(AFTER)?.into();
                    heaviest.oldest.push(session(row)?);
                }
                Ok(heaviest)
            })
        });
        reading.await.map_err(|error| StoreError::Unavailable(error.into()))?
    }

    /// Nothing ever is: whoever changes a session tells its browser.
    async fn untold(&self) -> Result<Vec<Untold>, StoreError> {
        Ok(Vec::new())
    }

    async fn told(&self, _hints: &[Hint]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        if !self.written_since_checkpoint.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let (checkpointer, decider) = (self.checkpointer.clone(), self.decider.clone());
        let checkpoint = tokio::task::spawn_blocking(move || {
            let checkpointer = lock(&checkpointer);
            let checkpointer = checkpointer.as_ref().ok_or_else(closed)?;
            // (busy, pages in the log, pages of them that are in the database now)
            let log_pages: i64 = checkpointer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))?;
            if log_pages <= RESTART_PAGES {
                return Ok(());
            }
            // While somebody always writes, the log never comes to an end and grows. Here nobody writes, and hardly
            // anything is left to do: the next to write begins the log anew.
            decider
                .run_alone(|connection| Ok(connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?))
        });
        let done = checkpoint.await.map_err(|error| StoreError::Unavailable(error.into()))?;
        // To be tried again, also if nobody writes meanwhile.
        done.inspect_err(|_| self.note_write())
    }

    /// A file system that has become read-only answers every reading, and so does a full disk: the one is seen by who
    /// writes beside the database, the other by those whose writes fail.
    async fn ping(&self) -> Result<(), StoreError> {
        let unavailable = |lost: Lost| StoreError::Unavailable(lost.into());
        self.files.check().map_err(unavailable)?;
        if let Some(held) = &mut *lock(&self.held) {
            held.renew().map_err(|error| unavailable(self.files.unwritable(error.into())))?;
        }
        if !self.is_in_doubt.load(Ordering::Relaxed) {
            return self.decider.run(|connection| Ok(connection.query_row("SELECT 1", [], |_| Ok(()))?)).await;
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

    /// What was written is in the database file then, and no `-wal` file is left.
    async fn close(&self) {
        for connection in self.readers.iter().chain([&*self.checkpointer]) {
            drop(lock(connection).take());
        }
        self.decider.close();
        drop(lock(&self.held).take());
    }
}

/// As one instant left them.
fn read_all(connection: &Connection, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError> {
    // Within one transaction, unless there is one already: a look at the log once, and not for every row.
    let snapshot =
        if keys.len() > 1 && connection.is_autocommit() { Some(connection.unchecked_transaction()?) } else { None };
    let mut query = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM sessions WHERE id = ?1"))?;
    let mut sessions = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(session) = query.query_row([key.0], |row| Ok(session(row))).optional()? {
            sessions.push(session?);
        }
    }
    drop(snapshot);
    Ok(sessions)
}

/// The first column after those of [`COLUMNS`].
const AFTER: usize = 19;

/// Reads a row of [`COLUMNS`].
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
        changed: Changed {
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
