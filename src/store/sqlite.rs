//! Sessions in an SQLite file: the embedded default, for one node.
//!
//! WAL with `synchronous=NORMAL`: a killed process loses nothing; a power cut may undo the last commits.
//!
//! Everything that decides goes through one connection, and takes its time once it holds it. That is what orders
//! decisions and the deadline's reading (see [`Store::read_settled`]). Other readings have connections of their own,
//! and so has the checkpoint.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Executor, QueryBuilder, Sqlite};
use thiserror::Error;

use super::row::{self, StateColumns};
use super::{Ended, Replaced, Store, StoreError};
use crate::clock::Clock;
use crate::session::{CodeKey, Session, SessionKey, Timestamp};

static MIGRATIONS: Migrator = {
    let mut migrations = sqlx::migrate!("migrations/sqlite");
    // A newer version's migrations only add: this one still runs against them.
    migrations.ignore_missing = true;
    migrations
};

const READERS: u32 = 2;
/// Ids in one query.
const READ_BATCH: usize = 500;
/// From this many pages (of 4 KiB) on, the write-ahead log is made to begin anew.
const RESTART_PAGES: i64 = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
pub struct SqliteStore {
    clock: Clock,
    decider: SqlitePool,
    readers: SqlitePool,
    checkpointer: SqlitePool,
    written_since_checkpoint: AtomicBool,
}

/// Why the database cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Not an `sqlite://` URL of a file.
    #[error("database_url: '{0}' is not of the form sqlite://FILE")]
    Url(String),
    /// The file cannot be opened or made, or is no database.
    #[error("database_url: cannot open '{path}': {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system or SQLite said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl SqliteStore {
    /// Opens the database, making it and bringing its schema up to date where needed.
    ///
    /// # Errors
    /// A URL that names no file, or a file that cannot be used.
    pub async fn open(url: &str, clock: Clock) -> Result<Self, OpenError> {
        let options = connect_options(url)?;
        let path = options.get_filename().to_owned();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Open { path: path.clone(), source };
        create_private_file(&path).map_err(|error| failed(error.into()))?;

        let pool = |connections| {
            SqlitePoolOptions::new()
                .min_connections(connections)
                .max_connections(connections)
                .acquire_timeout(PATIENCE)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .connect_with(options.clone())
        };
        let decider = pool(1).await.map_err(|error| failed(error.into()))?;
        MIGRATIONS.run(&decider).await.map_err(|error| failed(error.into()))?;
        let readers = pool(READERS).await.map_err(|error| failed(error.into()))?;
        let checkpointer = pool(1).await.map_err(|error| failed(error.into()))?;
        Ok(Self { clock, decider, readers, checkpointer, written_since_checkpoint: AtomicBool::new(true) })
    }

    /// Whether this is a URL that [`SqliteStore::open`] takes.
    ///
    /// # Errors
    /// It is not.
    pub fn check_url(url: &str) -> Result<(), OpenError> {
        connect_options(url).map(drop)
    }

    fn note_write(&self) {
        self.written_since_checkpoint.store(true, Ordering::Relaxed);
    }
}

fn connect_options(url: &str) -> Result<SqliteConnectOptions, OpenError> {
    let refused = || OpenError::Url(url.to_owned());
    let file = url.strip_prefix("sqlite://").ok_or_else(refused)?;
    // A database in memory would be another one for every connection.
    if file.is_empty() || file.starts_with(":memory:") || file.contains("mode=memory") {
        return Err(refused());
    }
    let options = SqliteConnectOptions::from_str(url).map_err(|_| refused())?;
    Ok(options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(PATIENCE)
        .pragma("wal_autocheckpoint", "0")
        .pragma("journal_size_limit", "67108864")
        .disable_statement_logging())
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
    async fn insert(&self, session: &Session) -> Result<(), StoreError> {
        let client = &session.client;
        let columns = StateColumns::of(&session.state)?;
        sqlx::query(
            "INSERT INTO sessions (id, code, version, state, created_at, expires_at,
                 client_ip, client_browser, client_os, client_origin, client_info)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(&session.key.0[..])
        .bind(&session.code.0[..])
        .bind(i64::from(session.version))
        .bind(columns.state)
        .bind(session.created_at.as_millis())
        .bind(session.expires_at.as_millis())
        .bind(&client.ip)
        .bind(&client.browser)
        .bind(&client.os)
        .bind(&client.origin)
        .bind(&client.client_info)
        .execute(&self.decider)
        .await?;
        self.note_write();
        Ok(())
    }

    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError> {
        let mut sessions = Vec::with_capacity(keys.len());
        for batch in keys.chunks(READ_BATCH) {
            sessions.extend(read_batch(&self.readers, batch).await?);
        }
        Ok(sessions)
    }

    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<Session>, StoreError> {
        let row = sqlx::query("SELECT * FROM sessions WHERE code = $1")
            .bind(&code.0[..])
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(row::session).transpose()
    }

    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError> {
        let mut connection = self.decider.acquire().await?;
        let now = self.clock.now();
        let mut sessions = Vec::with_capacity(keys.len());
        for batch in keys.chunks(READ_BATCH) {
            sessions.extend(read_batch(&mut *connection, batch).await?);
        }
        Ok((now, sessions))
    }

    async fn replace(&self, next: &Session) -> Result<Replaced, StoreError> {
        let columns = StateColumns::of(&next.state)?;
        let mut connection = self.decider.acquire().await?;
        // Taken only now: however long the connection was waited for, a decision is judged when it is written.
        let now = self.clock.now();
        let done = sqlx::query(
            "UPDATE sessions
             SET version = version + 1, state = $3, user_id = $4, user_name = $5, user_picture = $6,
                 decided_at = $7, claimable_until = $8, token_grant = $9
             WHERE id = $1 AND version = $2
               AND $10 < CASE WHEN $3 = 'claimed' THEN claimable_until ELSE expires_at END",
        )
        .bind(&next.key.0[..])
        .bind(i64::from(next.version) - 1)
        .bind(columns.state)
        .bind(columns.user.as_ref().map(|user| &user.id))
        .bind(columns.user.as_ref().and_then(|user| user.name.as_ref()))
        .bind(columns.user.as_ref().and_then(|user| user.picture.as_ref()))
        .bind(columns.decided_at)
        .bind(columns.claimable_until)
        .bind(columns.token_grant)
        .bind(now.as_millis())
        .execute(&mut *connection)
        .await?;
        self.note_write();
        Ok(if done.rows_affected() == 1 { Replaced::Written } else { Replaced::Stale })
    }

    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError> {
        let rows = sqlx::query(
            "DELETE FROM sessions
             WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)
             RETURNING *",
        )
        .bind(expired_before.as_millis())
        .bind(i64::from(limit))
        .fetch_all(&self.decider)
        .await?;
        if !rows.is_empty() {
            self.note_write();
        }
        rows.iter().map(|row| row::session(row).map(|session| Ended::of(&session))).collect()
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        if self.written_since_checkpoint.swap(false, Ordering::Relaxed) {
            // (busy, pages in the log, pages of them that are in the database now)
            let (_, log_pages, _): (i64, i64, i64) =
                sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&self.checkpointer).await?;
            if log_pages > RESTART_PAGES {
                // While somebody always writes, the log never comes to an end and grows. Here nobody writes, and hardly
                // anything is left to do: the next to write begins the log anew.
                sqlx::query("PRAGMA wal_checkpoint(RESTART)").execute(&self.decider).await?;
            }
        }
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.decider).await?;
        Ok(())
    }

    /// What was written is in the database file then, and no `-wal` file is left.
    async fn close(&self) {
        self.readers.close().await;
        self.checkpointer.close().await;
        self.decider.close().await;
    }
}

async fn read_batch<'c>(
    executor: impl Executor<'c, Database = Sqlite>,
    keys: &[SessionKey],
) -> Result<Vec<Session>, StoreError> {
    let mut query = QueryBuilder::new("SELECT * FROM sessions WHERE id IN (");
    let mut ids = query.separated(", ");
    for key in keys {
        ids.push_bind(key.0.to_vec());
    }
    query.push(")");
    let rows = query.build().fetch_all(executor).await?;
    rows.iter().map(row::session).collect()
}
