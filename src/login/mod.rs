//! The use-cases of a login, one file each. Each has the store find a session and apply a transition of
//! [`crate::session`] to it. The store announces what it has committed, through [`Announcer`].

mod cancel;
mod claim;
mod codes;
mod decide;
mod generate;
mod overload;
mod scan;
mod sweep;
mod tell;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use thiserror::Error;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::bus::{Bus, Change};
use crate::clock::Clock;
use crate::metrics::{Metrics, Outcome};
use crate::node::{Hint, NodeName};
use crate::session::{Cancellation, Code, Presented, Refusal, Session, SessionKey, State, Step, Timestamp};
use crate::store::{Announcer, Apart, Attached, BatchingReader, Changed, Store, StoreError, Stored, Which, read_apart};
use crate::token::{MintError, Minter};

pub use codes::Codes;
pub use decide::Verdict;
pub use generate::Generated;
pub use overload::Pending;
pub use scan::Scan;
pub use tell::Told;

/// The version that a session has after its first change. From then on it no longer waits to be scanned.
const FIRST_CHANGE: u32 = 2;

/// How long a session, and the claim of a confirmed one, last.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// From generating to expiry.
    pub ttl_seconds: u32,
    /// From the decision to the last moment at which the token may be fetched.
    pub claim_seconds: u32,
    /// Between two heartbeats to a waiting browser.
    pub heartbeat_seconds: u32,
}

/// All use-cases, with what they need.
pub struct Logins {
    /// Where sessions are kept.
    pub store: Arc<dyn Store>,
    /// Where the rows of those who come and ask are read.
    pub reader: BatchingReader,
    /// Where changes are announced.
    pub bus: Arc<dyn Bus>,
    /// Where the time comes from.
    pub clock: Clock,
    /// What mints tokens.
    pub minter: Minter,
    /// What makes codes.
    pub codes: Codes,
    /// How long things last.
    pub policy: Policy,
    /// How many sessions wait to be scanned.
    pub pending: Pending,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The changes under way.
    pub changes: TaskTracker,
}

/// A browser's session, when it has come to wait for it.
#[derive(Debug)]
pub struct Arrival {
    /// How it stood ...
    pub session: Session,
    /// ... at this instant.
    pub read_at: Timestamp,
    /// Which of the session's connections this is; see [`Attached`].
    pub attachment: u32,
    /// The other node at which the session's browser waited before.
    pub taken_over_from: Option<NodeName>,
}

/// Why a use-case did nothing.
#[derive(Debug, Error)]
pub enum LoginError {
    /// There is no such session, or no longer.
    #[error("no such session")]
    NotFound,
    /// The session's state does not permit it.
    #[error("refused: {0:?}")]
    Refused(Refusal),
    /// The store failed; nothing is known.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store failed for all who asked together; nothing is known.
    #[error(transparent)]
    Read(#[from] Arc<StoreError>),
    /// Others changed the session again and again.
    #[error("the session kept changing")]
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
    /// The session as it is now.
    ///
    /// # Errors
    /// There is none, or the store failed.
    pub async fn current(&self, key: SessionKey) -> Result<(Session, Timestamp), LoginError> {
        let session = self.reader.read(key).await?.ok_or(LoginError::NotFound)?;
        let now = self.clock.now();
        if session.is_undecided() && now >= session.expires_at {
            // A decision taken in time may be on its way to the disk: ask again in order with it, so that nobody is
            // told "expired" of a login that the phone is told is confirmed.
            let (now, mut settled) = self.store.read_settled(&[key]).await?;
            return Ok((settled.pop().ok_or(LoginError::NotFound)?, now));
        }
        Ok((session, now))
    }

    /// Browsers have come to this node to wait: their sessions as they are now, as [`Logins::current`] has it; those
    /// that are not there are left out. The nodes at which they were before are told.
    ///
    /// A row that cannot be read fails its own browser only.
    pub async fn attach(&self, keys: &[SessionKey]) -> HashMap<SessionKey, Result<Arrival, Arc<StoreError>>> {
        let query = |keys: Vec<_>| {
            let store = self.store.clone();
            async move { store.attach(&keys).await }
        };
        let attached = read_apart(keys, query).await;
        let read_at = self.clock.now();
        let mut arrivals = HashMap::with_capacity(keys.len());
        let mut unsettled = Vec::new();
        for Attached { session, attachment, taken_over_from } in attached.found {
            if let Some(before) = &taken_over_from {
                self.bus.take_over(before, Hint { key: session.key, version: session.version, attachment });
            }
            if session.is_undecided() && read_at >= session.expires_at {
                unsettled.push(session.key);
            }
            arrivals.insert(session.key, Ok(Arrival { session, attachment, read_at, taken_over_from }));
        }
        arrivals.extend(attached.failed.into_iter().map(|(key, error)| (key, Err(error))));
        if !unsettled.is_empty() {
            self.settle(&unsettled, &mut arrivals).await;
        }
        arrivals
    }

    /// Reads sessions again in order with the decisions: a decision taken in time may be on its way.
    async fn settle(&self, keys: &[SessionKey], arrivals: &mut HashMap<SessionKey, Result<Arrival, Arc<StoreError>>>) {
        let settled = self.read_settled(keys).await;
        let mut found: HashMap<_, _> =
            settled.found.into_iter().map(|(read_at, session)| (session.key, (read_at, session))).collect();
        let mut failed: HashMap<_, _> = settled.failed.into_iter().collect();
        for key in keys {
            let Some(Ok(arrival)) = arrivals.remove(key) else { continue };
            if let Some((read_at, session)) = found.remove(key) {
                arrivals.insert(*key, Ok(Arrival { session, read_at, ..arrival }));
            } else if let Some(error) = failed.remove(key) {
                arrivals.insert(*key, Err(error));
            }
        }
    }

    /// Reads sessions in order with the decisions, each with the instant as of which it was read.
    pub async fn read_settled(&self, keys: &[SessionKey]) -> Apart<(Timestamp, Session)> {
        let query = |keys: Vec<_>| {
            let store = self.store.clone();
            async move {
                let (read_at, sessions) = store.read_settled(&keys).await?;
                Ok(sessions.into_iter().map(|session| (read_at, session)).collect())
            }
        };
        read_apart(keys, query).await
    }

    /// What `code` is good for. A forged code is looked for like any other, so that the time of the answer reveals
    /// nothing.
    async fn presented(&self, code: &Code) -> Result<Presented, LoginError> {
        if let Some(presented) = self.codes.presented(code) {
            return Ok(presented);
        }
        self.store.find_by_code(&code.key()).await?;
        Err(LoginError::NotFound)
    }

    /// Applies a transition to a session, and returns the session as it is stored then. The browser is told before this
    /// returns.
    ///
    /// If it takes a while, it runs as a task of its own: a phone that hangs up does not undo what it asked for.
    async fn change(
        self: &Arc<Self>,
        which: Which,
        transition: impl Fn(&Session, Timestamp) -> Result<Step, Refusal> + Send + Sync + 'static,
    ) -> Result<Arc<Session>, LoginError> {
        let logins = self.clone();
        let mut change = Box::pin(async move {
            let announcer: Arc<dyn Announcer> = logins.clone();
            logins.store.change(which, Arc::new(transition), announcer).await
        });
        // A store that need not be waited for has done it at once, and no other thread is woken for it.
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

    fn note(&self, session: &Session) {
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
    /// Counts and logs a new change, and passes it on to the browser. A state that was found is passed on only: the
    /// call that wrote it may have failed to.
    fn announce(&self, stored: &Stored) {
        let Stored { session, waits, is_new, since } = stored;
        if *is_new && session.version == FIRST_CHANGE {
            self.pending.left(session.created_at);
        }
        if session.version >= FIRST_CHANGE {
            self.bus.announce(&Change { session: session.clone(), waits: waits.clone(), since: *since });
        }
        if *is_new {
            self.note(session);
        }
    }
}
