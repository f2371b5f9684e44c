//! The use-cases of a login, one file each. Each reads a session, lets [`crate::session`] decide, writes what was
//! decided, and announces it.

mod cancel;
mod claim;
mod decide;
mod generate;
mod scan;
mod sweep;
mod tell;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use thiserror::Error;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::bus::LocalBus;
use crate::clock::Clock;
use crate::metrics::{Metrics, Outcome, Stopwatch};
use crate::session::{Code, Refusal, Session, SessionKey, State, Step, Timestamp};
use crate::store::{BatchingReader, Replaced, Store, StoreError};
use crate::token::{MintError, Minter};

pub use decide::Verdict;
pub use generate::Generated;
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
}

/// All use-cases, with what they need.
pub struct Logins {
    /// Where sessions are kept.
    pub store: Arc<dyn Store>,
    /// Where the rows of those who come and ask are read.
    pub reader: BatchingReader,
    /// Where changes are announced.
    pub bus: LocalBus,
    /// Where the time comes from.
    pub clock: Clock,
    /// What mints tokens.
    pub minter: Minter,
    /// How long things last.
    pub policy: Policy,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The changes under way.
    pub changes: TaskTracker,
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

    /// As [`Logins::current`], of many at once; those that are not there are left out.
    ///
    /// # Errors
    /// The store failed.
    pub async fn current_of_all(
        &self,
        keys: &[SessionKey],
    ) -> Result<HashMap<SessionKey, (Session, Timestamp)>, Arc<StoreError>> {
        let sessions = self.store.read(keys).await?;
        let now = self.clock.now();
        let is_out_of_time = |session: &Session| session.is_undecided() && now >= session.expires_at;
        let unsettled: Vec<_> =
            sessions.iter().filter(|session| is_out_of_time(session)).map(|session| session.key).collect();
        let mut current: HashMap<_, _> = sessions.into_iter().map(|session| (session.key, (session, now))).collect();
        if !unsettled.is_empty() {
            let (now, settled) = self.store.read_settled(&unsettled).await?;
            for key in unsettled {
                current.remove(&key);
            }
            current.extend(settled.into_iter().map(|session| (session.key, (session, now))));
        }
        Ok(current)
    }

    async fn find(&self, code: &Code) -> Result<Session, LoginError> {
        self.store.find_by_code(&code.key()).await?.ok_or(LoginError::NotFound)
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
            if self.store.replace(&next).await? == Replaced::Written {
                let stored = Stopwatch::start();
                let next = Arc::new(next);
                self.bus.announce(&next, stored);
                self.note(&next);
                return Ok(Arc::unwrap_or_clone(next));
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
            State::Cancelled => ("cancelled", Some(Outcome::Cancelled)),
        };
        if let Some(outcome) = outcome {
            self.metrics.session_ended(outcome);
        }
        info!(event, session = %session.key, version = session.version, active = self.metrics.active_connections());
    }
}
