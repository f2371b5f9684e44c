//! Carries session changes between nodes: from the node that wrote a change to the node where the browser waits.
//!
//! Notifications are not reliable. A node that missed one finds the change in the store, at its next call of
//! `Store::undelivered`.

mod local;
mod postgres;
mod redis;
mod subscription;

use std::sync::{Arc, Weak};

use crate::cluster::node::{NodeName, Notification, Waits};
use crate::metrics::Stopwatch;
use crate::session::Session;

pub use local::LocalBus;
pub use postgres::PostgresBus;
pub use redis::{BusUrlError, RedisBus};

/// Receives the session changes that concern this node. The methods must not block.
pub trait Listener: Send + Sync + 'static {
    /// Called when this node has written or found a session whose browser may wait here. `attachment` is the attachment
    /// number of its newest connection, or 0 with a single node. `since` runs from the write or the read.
    fn changed(self: Arc<Self>, session: &Arc<Session>, attachment: u32, since: Stopwatch);

    /// Called for each notification from another node.
    fn notified(self: Arc<Self>, notification: Notification);

    /// Called when the bus becomes connected. Notifications may have been lost before.
    fn may_have_lost(self: Arc<Self>);
}

/// A session that was written, or found in the store, and that its browser may not have.
pub struct Announcement {
    /// Session, as it is stored.
    pub session: Arc<Session>,
    /// Node and connection where the browser waits, if the store knows them.
    pub waits: Option<Waits>,
    /// Time since the write or the read.
    pub since: Stopwatch,
}

/// A bus. `tests/conformance/bus.rs` tests what every implementation must do. A bus may lose, repeat and
/// reorder notifications. Its methods do not block.
pub trait Bus: Send + Sync + 'static {
    /// Starts to pass changes that concern this node to `listener`. Only the first call has an effect. Must be called
    /// within the runtime on which the bus is to run.
    fn listen(&self, listener: Weak<dyn Listener>);

    /// Passes a change to the node where the browser waits.
    fn announce(&self, announcement: &Announcement);

    /// Notifies the node `before` that a connection at this node supersedes its connection.
    fn supersede(&self, before: &NodeName, notification: Notification);
}

impl Announcement {
    /// Returns the notification of this change for another node.
    fn notification(&self, waits: &Waits) -> Notification {
        Notification { key: self.session.key, version: self.session.version, attachment: waits.attachment }
    }
}
