//! The use-cases of a login, one file each. Each reads a session, lets [`crate::session`] decide, writes what was
//! decided, and announces it.

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
use crate::metrics::{Metrics, Outcome, Stopwatch};
use crate::node::Hint;
use crate::session::{Cancellation, Client, Code, Presented, Refusal, Session, SessionKey, State, Step, Timestamp};
use crate::store::{Attached, BatchingReader, Replaced, Store, StoreError};
use crate::token::{MintError, Minter};

pub use codes::Codes;
pub use decide::Verdict;
pub use generate::Generated;
pub use overload::Pending;
pub use scan::Scan;
pub use tell::Told;

/// How often a change that lost a race is tried on what won. A session changes four times at most.
const MAX_ATTEMPTS: usize = 8;

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
    /// The phone and the browser lie too far apart.
    #[error("the phone and the browser lie apart")]
    Risk,
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
    /// # Errors
    /// The store failed.
    pub async fn attach(&self, keys: &[SessionKey]) -> Result<HashMap<SessionKey, Arrival>, Arc<StoreError>> {
        let attached = self.store.attach(keys).await?;
        let read_at = self.clock.now();
        let mut arrivals = HashMap::with_capacity(attached.len());
        let mut unsettled = Vec::new();
        for Attached { session, attachment, taken_over_from } in attached {
            if let Some(before) = taken_over_from {
                self.bus.take_over(&before, Hint { key: session.key, version: session.version, attachment });
            }
            if session.is_undecided() && read_at >= session.expires_at {
                unsettled.push(session.key);
            }
            arrivals.insert(session.key, Arrival { session, attachment, read_at });
        }
        if !unsettled.is_empty() {
            let (read_at, settled) = self.store.read_settled(&unsettled).await?;
            let mut settled: HashMap<_, _> = settled.into_iter().map(|session| (session.key, session)).collect();
            for key in unsettled {
                let Some(arrival) = arrivals.remove(&key) else { continue };
                if let Some(session) = settled.remove(&key) {
                    arrivals.insert(key, Arrival { session, read_at, ..arrival });
                }
            }
        }
        Ok(arrivals)
    }

    /// The session of a code, and what the code is good for. A forged code is looked for like any other, so that how
    /// long the answer takes tells nothing.
    async fn find(&self, code: &Code) -> Result<(Session, Presented), LoginError> {
        let presented = self.codes.presented(code);
        let found = self.store.find_by_code(&code.key()).await?;
        found.zip(presented).ok_or(LoginError::NotFound)
    }

    /// As [`Logins::find`], of a browser that `is_safe`.
    async fn find_safe(
        &self,
        code: &Code,
        is_safe: impl Fn(&Client) -> bool,
    ) -> Result<(Session, Presented), LoginError> {
        let (found, code) = self.find(code).await?;
        if is_safe(&found.client) { Ok((found, code)) } else { Err(LoginError::Risk) }
    }

    /// Applies a transition to `found`, writes and announces it; if another change came first, applies it to what
    /// that left.
    ///
    /// If it takes a while, it runs as a task of its own: a phone that hangs up between the write and the announcement
    /// takes neither back.
    async fn change(
        self: &Arc<Self>,
        found: Session,
        transition: impl Fn(&Session, Timestamp) -> Result<Step, Refusal> + Send + Sync + 'static,
    ) -> Result<Session, LoginError> {
        let logins = self.clone();
        let mut change = Box::pin(async move { logins.write_and_announce(found, transition).await });
        // A store that need not be waited for has it done at once, and no other thread is woken for it.
        if let Some(done) = change.as_mut().now_or_never() {
            return done;
        }
        let change = self.changes.spawn(change);
        match change.await {
            Ok(result) => result,
            Err(failure) => std::panic::resume_unwind(failure.into_panic()),
        }
    }

    async fn write_and_announce(
        &self,
        mut session: Session,
        transition: impl Fn(&Session, Timestamp) -> Result<Step, Refusal>,
    ) -> Result<Session, LoginError> {
        for _ in 0..MAX_ATTEMPTS {
            let Step::To(next) = transition(&session, self.clock.now())? else { return Ok(session) };
            if let Replaced::Written(waits) = self.store.replace(&next).await? {
                if session.state == State::Pending {
                    self.pending.left(session.created_at);
                }
                let change = Change { session: Arc::new(next), waits, since: Stopwatch::start() };
                self.bus.announce(&change);
                self.note(&change.session);
                return Ok(Arc::unwrap_or_clone(change.session));
            }
            let (_, mut settled) = self.store.read_settled(&[session.key]).await?;
            session = settled.pop().ok_or(LoginError::NotFound)?;
        }
        Err(LoginError::Contended)
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
