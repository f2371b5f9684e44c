//! How a change gets from where it was decided to where the browser waits. A hint, never the truth: what a node has
//! missed it finds in the store (`Store::untold`), a little later.

mod hearing;
mod local;
mod postgres;
mod redis;

use std::sync::{Arc, Weak};

use crate::metrics::Stopwatch;
use crate::node::{Hint, NodeName, Waits};
use crate::session::Session;

pub use local::LocalBus;
pub use postgres::PostgresBus;
pub use redis::{BusUrlError, RedisBus};

/// Someone who wants to hear of changes. Nothing here may block.
pub trait Listener: Send + Sync + 'static {
    /// This session has just been written by this very node; `since` runs from the write on. `attachment` is its newest
    /// connection's, or 0 where there is only one node.
    fn changed(self: Arc<Self>, session: &Arc<Session>, attachment: u32, since: Stopwatch);

    /// Another node has done something that concerns this one.
    fn hinted(self: Arc<Self>, hint: Hint);

    /// There was a time in which nothing could be heard, and now it is over.
    fn may_have_missed(self: Arc<Self>);
}

/// A change that has just been written.
pub struct Change {
    /// As it was written.
    pub session: Arc<Session>,
    /// Where its browser waits, if the store knows.
    pub waits: Option<Waits>,
    /// Runs from the write on.
    pub since: Stopwatch,
}

/// What every bus does; `tests/black_box/bus_conformance.rs` says how it must behave. It may lose, repeat and reorder
/// what is said, and it never holds up who says it.
pub trait Bus: Send + Sync + 'static {
    /// Lets `listener` hear what concerns this node from here on. There is one; a second is not heard. To be called
    /// within the runtime that the bus is to use.
    fn listen(&self, listener: Weak<dyn Listener>);

    /// Says that a session has changed, to the node where its browser waits.
    fn announce(&self, change: &Change);

    /// Says to the node `before` that a browser which waited there has come here.
    fn take_over(&self, before: &NodeName, hint: Hint);
}

impl Change {
    /// What is said of it to another node.
    fn hint(&self, waits: &Waits) -> Hint {
        Hint { key: self.session.key, version: self.session.version, attachment: waits.attachment }
    }
}
