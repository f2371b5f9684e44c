//! The use cases of a login, one per file. Each has the store find a session and apply a transition of
//! [`crate::session`] to it. The store passes committed changes to [`Announcer`], which is implemented here.

mod acknowledge;
mod cancel;
mod codes;
mod decide;
mod faults;
mod generate;
mod overload;
mod scan;
mod sweep;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use thiserror::Error;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::cluster::bus::{Announcement, Bus};
use crate::cluster::node::{NodeName, Notification};
use crate::metrics::{Metrics, Outcome};
use crate::session::{Cancellation, Code, Presented, Refusal, Session, SessionKey, State, Step, Timestamp};
use crate::store::{
    Announcer, Attached, BatchingReader, Changed, PartialResult, SessionSelector, Store, StoreError, Stored,
    read_isolated,
};
use crate::system::clock::Clock;
use crate::token::{MintError, Minter};

pub use codes::{Codes, ScannedCode};
pub use decide::Verdict;
pub use faults::Faults;
pub use generate::NewSession;
pub use overload::PendingCount;

/// Version of a session after its first change. From this version on the session is not pending.
const FIRST_CHANGE: u32 = 2;

/// Durations of sessions and their heartbeats.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Time from the creation of a session to its expiry, in seconds.
    pub ttl_seconds: u32,
    /// Time from a confirmation to the last moment at which the browser may fetch its token, in seconds.
    pub claim_seconds: u32,
    /// Time between two heartbeats on a waiting connection, in seconds.
    pub heartbeat_seconds: u32,
}

/// The use cases and their dependencies.
pub struct Logins {
    store: Arc<dyn Store>,
    /// Combines concurrent reads of single sessions into one query.
    reader: BatchingReader,
    /// Carries changes to the node where the browser waits.
    bus: Arc<dyn Bus>,
    clock: Clock,
    minter: Arc<Minter>,
    codes: Arc<Codes>,
    policy: Policy,
    /// Estimated number of pending sessions.
    pending: PendingCount,
    metrics: Arc<Metrics>,
    /// Changes that run as tasks, which the shutdown waits for.
    changes: TaskTracker,
    /// Rate limits for warnings of faults.
    faults: Faults,
}

/// The parts from which [`Logins`] are assembled.
pub struct LoginParts {
    /// Store that holds the sessions.
    pub store: Arc<dyn Store>,
    /// Reader of the store.
    pub reader: BatchingReader,
    /// Bus that carries changes to the node where the browser waits.
    pub bus: Arc<dyn Bus>,
    /// Clock that the use cases read.
    pub clock: Clock,
    /// Minter that signs the tokens.
    pub minter: Arc<Minter>,
    /// Codes and numbers of sessions.
    pub codes: Arc<Codes>,
    /// Durations of sessions and their heartbeats.
    pub policy: Policy,
    /// Estimate of the number of pending sessions.
    pub pending: PendingCount,
    /// Metrics that the use cases count.
    pub metrics: Arc<Metrics>,
}

/// The session of a browser that has connected to wait for it.
#[derive(Debug)]
pub struct AttachedSession {
    /// Session, as it was read.
    pub session: Session,
    /// Time of the read.
    pub read_at: Timestamp,
    /// Attachment number of the connection, see [`Attached`].
    pub attachment: u32,
    /// Other node at which the browser waited before.
    pub superseded_node: Option<NodeName>,
}

/// The reason for which a use case failed.
#[derive(Debug, Error)]
pub enum LoginError {
    /// The store has no such session, or has none any more.
    #[error("no such session")]
    NotFound,
    /// The state of the session does not permit the event.
    #[error("refused: {0:?}")]
    Refused(Refusal),
    /// The store failed. The change may be stored or not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A query that was shared by several callers failed.
    #[error(transparent)]
    Read(#[from] Arc<StoreError>),
    /// Other writers changed the session too often, and the change was not written.
    #[error("other changes of the session came first")]
    Contended,
    /// The token could not be minted.
    #[error(transparent)]
    Mint(#[from] MintError),
}

impl From<Refusal> for LoginError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Logins {
    /// Assembles the use cases.
    #[must_use]
    pub fn new(parts: LoginParts) -> Self {
        let LoginParts { store, reader, bus, clock, minter, codes, policy, pending, metrics } = parts;
        let (changes, faults) = (TaskTracker::new(), Faults::default());
        Self { store, reader, bus, clock, minter, codes, policy, pending, metrics, changes, faults }
    }

    /// Waits until all changes that run as tasks have ended. None may begin afterwards.
    pub async fn changes_ended(&self) {
        self.changes.close();
        self.changes.wait().await;
    }

    /// Returns whether other nodes may change the sessions too.
    #[must_use]
    pub fn are_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Returns the session and the time of the read.
    ///
    /// # Errors
    /// The session does not exist, or the store failed.
    pub async fn current(&self, key: SessionKey) -> Result<(Session, Timestamp), LoginError> {
        let session = self.reader.read(key).await?.ok_or(LoginError::NotFound)?;
        let now = self.clock.now();
        if session.is_undecided() && now >= session.expires_at {
            // A decision that was made in time may not be committed yet. Read again behind it, so that `expired` is not
            // delivered for a session whose confirmation was answered with 200.
            let (now, mut settled) = self.store.read_settled(&[key]).await?;
            return Ok((settled.pop().ok_or(LoginError::NotFound)?, now));
        }
        Ok((session, now))
    }

    /// Attaches connections to their sessions at this node and returns the sessions. A session that the store does not
    /// have is left out. An undecided session past its expiry is read again, as in [`Logins::current`]. The nodes at
    /// which the browsers waited before are notified.
    ///
    /// A row that cannot be read fails its own connection only.
    pub async fn attach(&self, keys: &[SessionKey]) -> HashMap<SessionKey, Result<AttachedSession, Arc<StoreError>>> {
        let query = |keys: Vec<_>| {
            let store = self.store.clone();
            async move { store.attach(&keys).await }
        };
        let attached = read_isolated(keys, query).await;
        let read_at = self.clock.now();
        let mut arrivals = HashMap::with_capacity(keys.len());
        for Attached { session, attachment, superseded_node } in attached.found {
            if let Some(before) = &superseded_node {
                self.bus.supersede(before, Notification { key: session.key, version: session.version, attachment });
            }
            arrivals.insert(session.key, Ok(AttachedSession { session, attachment, read_at, superseded_node }));
        }
        arrivals.extend(attached.failed.into_iter().map(|(key, error)| (key, Err(error))));
        let is_unsettled = |session: &Session| session.is_undecided() && read_at >= session.expires_at;
        // Each key once, although two connections of one session may have been asked for together.
        let unsettled: Vec<_> = arrivals
            .iter()
            .filter(|(_, arrival)| arrival.as_ref().is_ok_and(|arrival| is_unsettled(&arrival.session)))
            .map(|(key, _)| *key)
            .collect();
        if !unsettled.is_empty() {
            self.settle(&unsettled, &mut arrivals).await;
        }
        arrivals
    }

    /// Reads expired undecided sessions again, behind all decisions that were made in time. Updates `arrivals`.
    async fn settle(
        &self,
        keys: &[SessionKey],
        arrivals: &mut HashMap<SessionKey, Result<AttachedSession, Arc<StoreError>>>,
    ) {
        let settled = self.read_settled(keys).await;
        let mut found: HashMap<_, _> =
            settled.found.into_iter().map(|(read_at, session)| (session.key, (read_at, session))).collect();
        let mut failed: HashMap<_, _> = settled.failed.into_iter().collect();
        for key in keys {
            let Some(Ok(arrival)) = arrivals.remove(key) else { continue };
            if let Some((read_at, session)) = found.remove(key) {
                arrivals.insert(*key, Ok(AttachedSession { session, read_at, ..arrival }));
            } else if let Some(error) = failed.remove(key) {
                arrivals.insert(*key, Err(error));
            }
        }
    }

    /// Reads sessions behind all decisions that were made before the read, each with the time of its read. See
    /// [`Store::read_settled`].
    pub async fn read_settled(&self, keys: &[SessionKey]) -> PartialResult<(Timestamp, Session)> {
        let query = |keys: Vec<_>| {
            let store = self.store.clone();
            async move {
                let (read_at, sessions) = store.read_settled(&keys).await?;
                Ok(sessions.into_iter().map(|session| (read_at, session)).collect())
            }
        };
        read_isolated(keys, query).await
    }

    /// Verifies a code. For a forged code it also queries the store, so that the time of the response does not reveal
    /// whether the MAC was correct.
    async fn verify_code(&self, code: &Code) -> Result<Presented, LoginError> {
        if let Some(presented) = self.codes.verify(code) {
            return Ok(presented);
        }
        self.store.find_by_code(&code.key()).await?;
        Err(LoginError::NotFound)
    }

    /// Applies a transition to a session and returns the session as stored. The change has been passed to the bus when
    /// this returns.
    ///
    /// If the store does not finish at once, the change runs as a task, so that it is not cancelled when the phone
    /// disconnects.
    async fn change(
        self: &Arc<Self>,
        selector: SessionSelector,
        transition: impl Fn(&Session, Timestamp) -> Result<Step, Refusal> + Send + Sync + 'static,
    ) -> Result<Arc<Session>, LoginError> {
        let logins = self.clone();
        let mut change = Box::pin(async move {
            let announcer: Arc<dyn Announcer> = logins.clone();
            logins.store.change(selector, Arc::new(transition), announcer).await
        });
        // SQLite usually completes the change in this poll, which spares a task and a thread switch.
        let changed = match change.as_mut().now_or_never() {
            Some(changed) => changed,
            None => match self.changes.spawn(change).await {
                Ok(changed) => changed,
                Err(failure) => std::panic::resume_unwind(failure.into_panic()),
            },
        };
        match changed? {
            Changed::Done(committed) => committed.announce().ok_or(LoginError::NotFound),
            Changed::Refused(refusal, found) => {
                drop(found.announce());
                Err(refusal.into())
            }
            Changed::Missing => Err(LoginError::NotFound),
            Changed::Contended => Err(LoginError::Contended),
        }
    }

    /// Logs an event of a session, and counts its end.
    fn record(&self, session: &Session) {
        let (event, outcome) = match &session.state {
            State::Pending => ("generated", None),
            State::Scanned(_) => ("scanned", None),
            State::Confirmed(confirmation) if confirmation.claimed => ("claimed", None),
            State::Confirmed(_) => ("confirmed", Some(Outcome::Confirmed)),
            State::Rejected(_) => ("rejected", Some(Outcome::Rejected)),
            State::Cancelled(Cancellation::Browser) => ("cancelled", Some(Outcome::Cancelled)),
            State::Cancelled(Cancellation::Overload) => ("gave way", Some(Outcome::Cancelled)),
        };
        if let Some(outcome) = outcome {
            self.metrics.session_ended(outcome);
        }
        info!(event, session = %session.key, version = session.version, active = self.metrics.active_connections());
    }
}

impl Announcer for Logins {
    /// Counts and logs a new change, and passes it to the bus. A session that was found unchanged is passed to the bus
    /// as well, because the call that wrote it may have failed to do so.
    fn announce(&self, stored: &Stored) {
        let Stored { session, waits, is_new, since } = stored;
        if *is_new && session.version == FIRST_CHANGE {
            self.pending.count_changed(session.created_at);
        }
        if session.version >= FIRST_CHANGE {
            self.bus.announce(&Announcement { session: session.clone(), waits: waits.clone(), since: *since });
        }
        if *is_new {
            self.record(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::bus::LocalBus;
    use crate::session::{Client, CodeSecret, CodeUrl, Rotation, Status};
    use crate::store::SqliteStore;
    use crate::system::shutdown::Shutdown;
    use crate::token::KeyRing;

    #[tokio::test]
    async fn two_connections_of_an_expired_session_in_one_batch_both_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hands) = Clock::manual(Timestamp::from_millis(0));
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let store = Arc::new(SqliteStore::open(&url, clock.clone()).unwrap());
        let keys = KeyRing::open(&dir.path().join("keys"), clock.clone()).unwrap();
        let logins = Arc::new(Logins::new(LoginParts {
            reader: BatchingReader::new(store.clone(), Shutdown::new().vital("reader")),
            store,
            bus: Arc::new(LocalBus::default()),
            clock,
            minter: Arc::new(Minter::new(keys, "issuer".to_owned(), "audience".to_owned(), 60, Vec::new())),
            codes: Arc::new(Codes {
                secret: CodeSecret::new([7; 32]),
                rotation: Rotation::NONE,
                compares_numbers: false,
                code_url: CodeUrl::under("https://a.example"),
            }),
            policy: Policy { ttl_seconds: 300, claim_seconds: 60, heartbeat_seconds: 30 },
            pending: PendingCount::new(0, 300),
            metrics: Arc::new(Metrics::new()),
        }));
        let expired = logins.generate(Client::default()).await.unwrap().session.key;
        hands.advance_seconds(300);
        let pending = logins.generate(Client::default()).await.unwrap().session.key;
        let arrivals = logins.attach(&[expired, pending, expired, pending]).await;
        for (key, status) in [(expired, Status::Expired), (pending, Status::Pending)] {
            let arrival = arrivals[&key].as_ref().unwrap();
            assert_eq!(arrival.session.status(arrival.read_at), status);
        }
        logins.store.close().await;
    }
}
