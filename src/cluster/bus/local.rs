use std::sync::{Arc, OnceLock, Weak};

use super::{Announcement, Bus, Listener};
use crate::cluster::node::{NodeName, Notification};

/// The bus of a single process. It calls the listener directly and passes the session along, so the listener need not
/// read the store.
#[derive(Default)]
pub struct LocalBus(OnceLock<Weak<dyn Listener>>);

impl LocalBus {
    /// Returns the listener, unless none was set or it was dropped.
    pub(super) fn listener(&self) -> Option<Arc<dyn Listener>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl Bus for LocalBus {
    fn listen(&self, listener: Weak<dyn Listener>) {
        drop(self.0.set(listener));
    }

    fn announce(&self, announcement: &Announcement) {
        if let Some(listener) = self.listener() {
            let attachment = announcement.waits.as_ref().map_or(0, |waits| waits.attachment);
            listener.changed(&announcement.session, attachment, announcement.since);
        }
    }

    /// Does nothing, because there is no other node.
    fn supersede(&self, _before: &NodeName, _notification: Notification) {}
}
