//! Where sessions are kept. The store is the truth; all else (the hub, the bus) is a hint.

mod decider;
mod reader;
mod row;
mod sqlite;

use async_trait::async_trait;
use thiserror::Error;

use crate::session::{CodeKey, Session, SessionKey, Status, Timestamp};

pub use reader::BatchingReader;
pub use sqlite::{OpenError, SqliteStore};

/// What every store does; `tests/store_conformance.rs` says how it must behave.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Adds a new session.
    async fn insert(&self, session: &Session) -> Result<(), StoreError>;

    /// The sessions of these keys, in any order, as some recent instant left them; those that are not there are
    /// left out.
    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError>;

    /// The session of this code.
    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<Session>, StoreError>;

    /// As [`Store::read`], for telling that a session has expired: every write of the sessions that was taken before
    /// the returned instant is seen, and one that comes after it is judged at a later instant. So a session that is
    /// undecided here and expired at that instant stays undecided.
    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError>;

    /// Writes `next` over the version before it, unless that is no longer what is stored, or
    /// [`Session::writable_until`] has come by the time of the write.
    async fn replace(&self, next: &Session) -> Result<Replaced, StoreError>;

    /// Deletes up to `limit` sessions that expired before this instant; says how they ended.
    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError>;

    /// Housekeeping that must not hold up a decision; called every second.
    async fn tidy(&self) -> Result<(), StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Lets go of the store, in order.
    async fn close(&self);
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is stored.
    Written,
    /// Nothing was written: the session has changed, gone or run out of time meanwhile.
    Stale,
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
