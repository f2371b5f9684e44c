use std::sync::{Arc, OnceLock, Weak};

use super::{Bus, Change, Listener};
use crate::node::{Hint, NodeName};

/// The bus of a single process: a function call, which also spares the listener a reading of the store.
#[derive(Default)]
pub struct LocalBus(OnceLock<Weak<dyn Listener>>);

impl LocalBus {
    pub(super) fn listener(&self) -> Option<Arc<dyn Listener>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl Bus for LocalBus {
    fn listen(&self, listener: Weak<dyn Listener>) {
        drop(self.0.set(listener));
    }

    fn announce(&self, change: &Change) {
        if let Some(listener) = self.listener() {
            let attachment = change.waits.as_ref().map_or(0, |waits| waits.attachment);
            listener.changed(&change.session, attachment, change.since);
        }
    }

    /// There is no other node.
    fn take_over(&self, _before: &NodeName, _hint: Hint) {}
}
