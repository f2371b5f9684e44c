//! How a change gets from where it was decided to where the browser waits. A hint, never the truth: whoever missed it
//! finds the change in the store.

use std::sync::Arc;

use crate::metrics::Stopwatch;
use crate::session::Session;

/// Someone who wants to hear of changes.
pub trait Listener: Send + Sync + 'static {
    /// This session has just been written. Must not block.
    fn changed(&self, session: &Arc<Session>, since: Stopwatch);
}

/// The bus of a single process: a function call, which also spares the listener a reading of the store.
#[derive(Clone)]
pub struct LocalBus(Arc<dyn Listener>);

impl LocalBus {
    /// A bus to this listener.
    #[must_use]
    pub fn new(listener: Arc<dyn Listener>) -> Self {
        Self(listener)
    }

    /// Says that `session` has just been written; `since` runs from the write on.
    pub fn announce(&self, session: &Arc<Session>, since: Stopwatch) {
        self.0.changed(session, since);
    }
}
