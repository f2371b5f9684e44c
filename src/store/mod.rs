//! Storage of sessions, and of records of OAuth. The store is authoritative: the hub and the bus only make the delivery of changes faster.

pub(crate) mod change;
mod committed;
pub(crate) mod jobs;
mod postgres;
mod reader;
mod record;
mod row;
mod sqlite;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use crate::cluster::node::{NodeName, Notification};
use crate::secret::shown_path;
use crate::session::{CodeKey, Session, SessionKey, Status, Timestamp};

pub use committed::{Announcer, Changed, SessionSelector, Stored, Transition};
pub use postgres::{PostgresSetup, PostgresStore};
pub use reader::{BatchingReader, PartialResult, read_isolated};
pub use record::{Record, RecordId};
pub use sqlite::SqliteStore;

/// A store of sessions and records. `tests/conformance/store/` tests what every implementation must do.
///
/// Several nodes may share a store. Then each row names the node where the browser of the session waits, and the store
/// keeps a list of changes that each node has not delivered yet. See [`Store::attach`] and [`Store::undelivered`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns whether other nodes may use the store too.
    fn is_shared(&self) -> bool;

    /// Inserts a new session.
    async fn insert(&self, session: &Session) -> Result<(), StoreError>;

    /// Returns the sessions with these keys, in any order, as of a recent point in time. Keys without a session are
    /// left out.
    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError>;

    /// As [`Store::read`], for sessions whose browsers have connected to this node. From here on, this node is notified
    /// of their changes. A concurrent change is either contained in the result or finds this node in the row.
    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError>;

    /// Returns the session that a code names.
    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<Session>, StoreError>;

    /// As [`Store::read`], with the time of the read, to decide whether sessions have expired. Every change that was
    /// accepted before the returned time is contained in the result. Every other change is checked against a later
    /// time. So a session that is undecided here and expired at the returned time stays undecided.
    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError>;

    /// Finds a session, applies `transition` to it, and writes the result over the version that was found, unless
    /// [`Session::writable_until`] has been reached by then. Every state that is committed or found is passed to
    /// `announcer`, see `Committed`. A written state is also in [`Store::undelivered`] of the node where the browser
    /// waits. With several nodes, acknowledgements are excepted, because no connection waits for them.
    ///
    /// After an error the change may be stored or not. A caller that repeats it gets the same answer.
    async fn change(
        &self,
        selector: SessionSelector,
        transition: Transition,
        announcer: Arc<dyn Announcer>,
    ) -> Result<Changed, StoreError>;

    /// Returns the number of sessions that are pending at `now`, and up to `limit` of the oldest ones of the network
    /// that has the most. If several networks have equally many, their sessions are combined. If no network has enough
    /// to matter, the oldest of all sessions are returned. Reads all rows, so call it only when there are too many
    /// sessions.
    async fn largest_network(&self, now: Timestamp, limit: u32) -> Result<LargestNetwork, StoreError>;

    /// Returns changes that this node may not have delivered: changes of sessions whose browsers may wait here,
    /// whichever process wrote them, and connections that were superseded at other nodes. Returns a part of them if
    /// there are many.
    async fn undelivered(&self) -> Result<Vec<Undelivered>, StoreError>;

    /// Records that this node has handled these changes, each up to the version and attachment number of the
    /// notification.
    async fn mark_delivered(&self, notifications: &[Notification]) -> Result<(), StoreError>;

    /// Deletes up to `limit` sessions whose `expires_at` is before this time. Returns how they ended.
    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError>;

    /// Inserts a record unless one with its id exists. Returns whether it did.
    ///
    /// After an error of this or another write of a record, the write may be stored or not.
    async fn insert_record(&self, record: &Record) -> Result<bool, StoreError>;

    /// Returns the record with this id, also one whose end has passed but that is not swept.
    async fn read_record(&self, id: &RecordId) -> Result<Option<Record>, StoreError>;

    /// Writes a record over the version before it (`version - 1`). Returns whether that was the stored version.
    async fn replace_record(&self, record: &Record) -> Result<bool, StoreError>;

    /// Deletes a record. Returns whether there was one.
    async fn delete_record(&self, id: &RecordId) -> Result<bool, StoreError>;

    /// Deletes up to `limit` records whose end is before this time. Returns how many.
    async fn sweep_records(&self, expired_before: Timestamp, limit: u32) -> Result<u32, StoreError>;

    /// Does housekeeping that must not delay decisions. Called every second.
    async fn maintain(&self) -> Result<(), StoreError>;

    /// Checks that the store answers and can be written.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Closes the store.
    async fn close(&self);
}

/// A session whose browser has connected.
#[derive(Debug, Clone, PartialEq)]
pub struct Attached {
    /// Session, as it is stored.
    pub session: Session,
    /// Attachment number of the connection, from 1. 0 in a store that serves one node.
    pub attachment: u32,
    /// Other node at which the browser waited before, whose connection is superseded.
    pub superseded_node: Option<NodeName>,
}

/// The network with the most pending sessions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LargestNetwork {
    /// Number of pending sessions of all networks.
    pub total_pending: u64,
    /// The oldest pending sessions of this network, see [`Store::largest_network`].
    pub oldest: Vec<Session>,
}

/// A change that this node may not have delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Undelivered {
    /// Version and attachment number that the session has reached.
    pub notification: Notification,
    /// Session, as it is stored. `None` if it does not exist any more, or was not read.
    pub session: Option<Session>,
}

/// How a swept session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Undecided at its expiry.
    Expired,
    /// Confirmed, and not acknowledged by the browser.
    Unclaimed,
    /// Rejected, cancelled, or confirmed and acknowledged.
    Settled,
}

impl Ended {
    /// Returns how a session ended that will not change any more.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        match session.status(Timestamp::from_millis(i64::MAX)) {
            Status::Expired if session.is_undecided() => Self::Expired,
            Status::Expired => Self::Unclaimed,
            _ => Self::Settled,
        }
    }
}

/// The reason for which a store cannot be opened. Each text names the setting.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The setting is not a URL of a store. Holds the scheme.
    #[error("database_url: is not of the form sqlite://FILE or postgres://USER:PASSWORD@HOST/DATABASE")]
    Url(String),
    /// The setting is a URL of a store with a wrong part.
    #[error("database_url: {0}")]
    UrlPart(String),
    /// The file cannot be opened or created, or is not a database.
    #[error("database_url: cannot open '{}': {source}", shown_path(path))]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system or of SQLite.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Postgres cannot be reached, or its schema cannot be migrated.
    #[error("database_url: cannot use {server}: {reason}")]
    Postgres {
        /// Address of the server, without the password.
        server: String,
        /// Error of the system or of Postgres.
        reason: String,
    },
}

/// The reason for which an operation failed. It says nothing about the session: in particular not that it has expired.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store cannot be reached, does not answer in time, or has failed.
    #[error("the store does not answer: {0}")]
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
    /// A row cannot be read as a session or a record.
    #[error("the store holds a row that cannot be read: {0}")]
    Corrupt(String),
}
