//! The outcome of a change, and the guarantee that every committed state is passed to the announcer.

use std::sync::Arc;

use crate::cluster::node::Waits;
use crate::metrics::Stopwatch;
use crate::session::{CodeKey, Refusal, Session, SessionKey, Step, Timestamp};

/// Identifies the session to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionSelector {
    /// The session with this key.
    Key(SessionKey),
    /// The session with this code.
    Code(CodeKey),
}

/// A transition: returns the session that an event leads to at a given time. It must be pure, because a store calls it
/// again if another change was written first or a transaction was rolled back.
pub type Transition = Arc<dyn Fn(&Session, Timestamp) -> Result<Step, Refusal> + Send + Sync>;

/// Receives sessions as they are stored. Every change that a store commits is passed to it, whether or not the caller
/// of [`super::Store::change`] still awaits the outcome.
pub trait Announcer: Send + Sync + 'static {
    /// Passes `stored` to the connections of its session. Must not block.
    fn announce(&self, stored: &Stored);
}

/// A session as the store holds it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The session.
    pub session: Arc<Session>,
    /// Node and connection where the browser of the session waits, if the store knows them.
    pub waits: Option<Waits>,
    /// Whether this call wrote this version. Otherwise an earlier call did.
    pub is_new: bool,
    /// Time since the commit, or since the read if nothing was written.
    pub since: Stopwatch,
}

/// A committed session that has not been passed to the announcer yet. Dropping this value passes it, so no caller that
/// times out, disconnects or panics can leave it out.
#[must_use = "the caller announces it before it answers"]
pub struct Committed {
    stored: Option<Stored>,
    announcer: Arc<dyn Announcer>,
}

impl Committed {
    /// Wraps a session that is committed, or was read as committed.
    pub fn new(stored: Stored, announcer: Arc<dyn Announcer>) -> Self {
        Self { stored: Some(stored), announcer }
    }

    /// Passes the session to the announcer and returns it.
    #[must_use]
    pub fn announce(mut self) -> Option<Arc<Session>> {
        let stored = self.stored.take()?;
        self.announcer.announce(&stored);
        Some(stored.session)
    }
}

impl Drop for Committed {
    fn drop(&mut self) {
        if let Some(stored) = self.stored.take() {
            self.announcer.announce(&stored);
        }
    }
}

/// The outcome of [`super::Store::change`].
pub enum Changed {
    /// The change is stored. It was written by this call, or found ([`Step::Repeated`]).
    Done(Committed),
    /// The state of the session does not permit the change. The state that was found is passed to the announcer too,
    /// because an earlier call that wrote it may have failed to do so.
    Refused(Refusal, Committed),
    /// The store has no such session.
    Missing,
    /// Other writers changed the session too often, and the change was not written.
    Contended,
}
