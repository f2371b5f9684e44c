//! How a change gets from where it was decided to where the browser waits. A hint, never the truth: whoever missed it
//! finds the change in the store.

use std::sync::{Arc, OnceLock, Weak};

use crate::metrics::Stopwatch;
use crate::session::Session;

/// Someone who wants to hear of changes.
pub trait Listener: Send + Sync + 'static {
    /// This session has just been written. Must not block.
    fn changed(self: Arc<Self>, session: &Arc<Session>, since: Stopwatch);
}

/// The bus of a single process: a function call, which also spares the listener a reading of the store.
#[derive(Default)]
pub struct LocalBus(OnceLock<Weak<dyn Listener>>);

impl LocalBus {
    /// Lets `listener` hear what is announced from here on. There is one; a second is not heard.
    pub fn listen(&self, listener: Weak<dyn Listener>) {
        drop(self.0.set(listener));
    }

    /// Says that `session` has just been written; `since` runs from the write on.
    pub fn announce(&self, session: &Arc<Session>, since: Stopwatch) {
        if let Some(listener) = self.0.get().and_then(Weak::upgrade) {
            listener.changed(session, since);
        }
    }
}
