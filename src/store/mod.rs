//! Where sessions are kept. The store is the truth; all else (the hub, the bus) is a hint.

pub(crate) mod change;
mod committed;
mod database_file;
mod postgres;
mod reader;
mod row;
mod sqlite;
pub(crate) mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use crate::node::{Hint, NodeName};
use crate::session::{CodeKey, Session, SessionKey, Status, Timestamp};

pub use committed::{Announcer, Changed, Committed, Stored, Transition, Which};
pub use postgres::{PostgresSetup, PostgresStore};
pub use reader::{Apart, BatchingReader, read_apart};
pub use sqlite::SqliteStore;

/// What every store does; `tests/black_box/store_conformance.rs` says how it must behave.
///
/// A store may be shared by several nodes. Then each row names the node at which its browser waits, and what that node
/// has still to look at is kept with it; see [`Store::attach`] and [`Store::untold`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Whether other nodes use it, too.
    fn is_shared(&self) -> bool;

    /// Adds a new session.
    async fn insert(&self, session: &Session) -> Result<(), StoreError>;

    /// The sessions of these keys, in any order, as some recent instant left them; those that are not there are
    /// left out.
    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError>;

    /// As [`Store::read`], of sessions whose browsers have come to wait at this node: from here on, what becomes of them
    /// is said to this node. Whoever writes at the same time is either seen here, or knows of this node.
    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError>;

    /// The session of this code.
    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<Session>, StoreError>;

    /// As [`Store::read`], for telling that a session has expired: every write of the sessions that was taken before
    /// the returned instant is seen, and one that comes after it is judged at a later instant. So a session that is
    /// undecided here and expired at that instant stays undecided.
    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError>;

    /// Finds a session, applies `transition` to it, and writes the result over the version that was found, unless
    /// [`Session::writable_until`] has come by the time of the write. Every state that is committed or found is
    /// announced: see [`Committed`]. A written state is also in [`Store::untold`] of the node where the browser waits
    /// (with several nodes, except for an acknowledgement, which no connection waits for).
    ///
    /// After an error nothing is known: the change may be stored. A caller that tries again gets the same answer.
    async fn change(
        &self,
        which: Which,
        transition: Transition,
        announcer: Arc<dyn Announcer>,
    ) -> Result<Changed, StoreError>;

    /// How many sessions wait to be scanned at `now`, and of the network that has most of them up to `limit` of the oldest
    /// (of several that have equally many; of all, if those are too few to matter). Looks at all rows: for when there are
    /// too many.
    async fn heaviest(&self, now: Timestamp, limit: u32) -> Result<Heaviest, StoreError>;

    /// What this node has still to look at: changes of sessions whose browsers may wait here, whichever process wrote
    /// them, and connections that others have taken over from; some of it, if there is much.
    async fn untold(&self) -> Result<Vec<Untold>, StoreError>;

    /// This node has looked at these, each as far as the hint goes.
    async fn told(&self, hints: &[Hint]) -> Result<(), StoreError>;

    /// Deletes up to `limit` sessions that expired before this instant; says how they ended.
    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError>;

    /// Housekeeping that must not hold up a decision; called every second.
    async fn tidy(&self) -> Result<(), StoreError>;

    /// Whether the store answers, and keeps what it is given.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Lets go of the store, in order.
    async fn close(&self);
}

/// A session that a browser has come to wait for.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached {
    /// As it is now.
    pub session: Session,
    /// The number of the connection, from 1; 0 in a store that nobody shares.
    pub attachment: u32,
    /// The other node at which the session's browser was last, which is to let go of it.
    pub taken_over_from: Option<NodeName>,
}

/// Who has most of the sessions that wait to be scanned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heaviest {
    /// How many there are, of all.
    pub pending: u64,
    /// The oldest of those.
    pub oldest: Vec<Session>,
}

/// Something that this node has still to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Untold {
    /// How far.
    pub hint: Hint,
    /// The session as it is now. `None` if it is no longer there or was not read.
    pub session: Option<Session>,
}

/// How a session that was swept had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Nobody decided in time.
    Expired,
    /// Confirmed, and the browser never acknowledged its token.
    Unclaimed,
    /// Decided, and (if confirmed) delivered.
    Settled,
}

impl Ended {
    /// How this session ended, seen from long after.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        match session.status(Timestamp::from_millis(i64::MAX)) {
            Status::Expired if session.is_undecided() => Self::Expired,
            Status::Expired => Self::Unclaimed,
            _ => Self::Settled,
        }
    }
}

/// Why a store cannot be used. Every text names the setting.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Not a URL of a store.
    #[error("database_url: is not of the form sqlite://FILE or postgres://USER:PASSWORD@HOST/DATABASE")]
    Url(String),
    /// As the last, with a reason.
    #[error("database_url: {0}")]
    UrlPart(String),
    /// The file cannot be opened or made, or is no database.
    #[error("database_url: cannot open '{path}': {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system or SQLite said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Postgres cannot be reached, or its schema not be made.
    #[error("database_url: cannot use {server}: {reason}")]
    Postgres {
        /// Where it is said to be, without the password.
        server: String,
        /// What the system or Postgres said.
        reason: String,
    },
}

/// The store did not do what was asked. Nothing is known of the session then; least of all that it expired.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It cannot be reached, or does not answer in time.
    #[error("the store does not answer: {0}")]
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
    /// A row makes no sense.
    #[error("the store holds a session that cannot be read: {0}")]
    Corrupt(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(error.into())
    }
}
