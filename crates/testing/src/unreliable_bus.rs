//! A bus that loses, repeats and reorders notifications.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use qrlogin::internals::cluster::bus::{Announcement, Bus, Listener};
use qrlogin::internals::cluster::node::{NodeName, Notification};
use qrlogin::internals::metrics::Stopwatch;
use qrlogin::session::Session;

use crate::random;

/// A bus that loses half of the notifications, delivers one in six twice, and holds each other one back until it holds
/// the next one.
pub struct UnreliableBus {
    inner: Arc<dyn Bus>,
    listener: OnceLock<Arc<UnreliableListener>>,
}

/// Stands between the reliable bus and the node's listener.
struct UnreliableListener {
    inner: Weak<dyn Listener>,
    held_back: Mutex<Option<Notification>>,
}

impl UnreliableBus {
    /// Wraps a reliable bus.
    pub fn new(inner: Arc<dyn Bus>) -> Self {
        Self { inner, listener: OnceLock::new() }
    }
}

impl Bus for UnreliableBus {
    fn listen(&self, listener: Weak<dyn Listener>) {
        let unreliable =
            self.listener.get_or_init(|| Arc::new(UnreliableListener { inner: listener, held_back: Mutex::default() }));
        let unreliable: Weak<dyn Listener> = Arc::<UnreliableListener>::downgrade(unreliable);
        self.inner.listen(unreliable);
    }
    fn announce(&self, change: &Announcement) {
        self.inner.announce(change);
    }
    fn supersede(&self, before: &NodeName, notification: Notification) {
        self.inner.supersede(before, notification);
    }
}

impl Listener for UnreliableListener {
    fn changed(self: Arc<Self>, session: &Arc<Session>, attachment: u32, since: Stopwatch) {
        if let Some(inner) = self.inner.upgrade() {
            inner.changed(session, attachment, since);
        }
    }
    fn notified(self: Arc<Self>, notification: Notification) {
        let Some(inner) = self.inner.upgrade() else { return };
        match random::below(6) {
            0..3 => {}
            3 => {
                inner.clone().notified(notification);
                inner.notified(notification);
            }
            _ => {
                let earlier = self.held_back.lock().unwrap().replace(notification);
                if let Some(earlier) = earlier {
                    inner.notified(earlier);
                }
            }
        }
    }
    fn may_have_lost(self: Arc<Self>) {
        if let Some(inner) = self.inner.upgrade() {
            inner.may_have_lost();
        }
    }
}
