//! The result of a change, and its announcement, which cannot be left out.

use std::sync::Arc;

use crate::metrics::Stopwatch;
use crate::node::Waits;
use crate::session::{CodeKey, Refusal, Session, SessionKey, Step, Timestamp};

/// Names the session to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The session with this key.
    Key(SessionKey),
    /// The session with this code.
    Code(CodeKey),
}

/// Decides what an event makes of a session at an instant. A pure function: a store calls it again when another change
/// was written first, or when a transaction was rolled back.
pub type Transition = Arc<dyn Fn(&Session, Timestamp) -> Result<Step, Refusal> + Send + Sync>;

/// Receives the stored state of sessions. Every change that a store commits reaches it, whether or not the caller of
/// [`super::Store::change`] still waits for the result.
pub trait Announcer: Send + Sync + 'static {
    /// Passes `stored` on to the browser. Must not block.
    fn announce(&self, stored: &Stored);
}

/// A session as the store holds it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The session.
    pub session: Arc<Session>,
    /// The node at which the session's browser waits, if the store knows it.
    pub waits: Option<Waits>,
    /// Whether this call wrote the session's version. Otherwise an earlier one did.
    pub is_new: bool,
    /// Runs from the commit on (or from the reading).
    pub since: Stopwatch,
}

/// A stored session that has not been announced yet. It is announced when this value is dropped, at the latest: also
/// when the caller timed out, hung up or panicked.
#[must_use = "the caller announces it before it answers"]
pub struct Committed {
    stored: Option<Stored>,
    announcer: Arc<dyn Announcer>,
}

impl Committed {
    /// To be called once `stored` is committed, or has been read as committed.
    pub fn new(stored: Stored, announcer: Arc<dyn Announcer>) -> Self {
        Self { stored: Some(stored), announcer }
    }

    /// Announces the session and returns it.
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
    /// The change is stored, or the same change was stored before ([`Step::Repeated`]).
    Done(Committed),
    /// The session's state does not permit the change. The state that was found is announced too: it may be a change
    /// that reached no browser.
    Refused(Refusal, Committed),
    /// The store has no such session.
    Missing,
    /// Other writers changed the session again and again.
    Contended,
}
