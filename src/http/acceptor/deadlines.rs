//! The deadlines of request heads.

use std::collections::VecDeque;
use std::time::Duration;

use slab::Slab;

use super::request_head::Head;
use crate::metrics::Stopwatch;

/// Number of stale deadlines from which on the queue is compacted, in addition to one for each open head.
const MAX_STALE: usize = 1024;

/// A queue of deadlines of heads, in order. A serial number tells a head from an earlier one in the same slot.
pub(super) struct HeadDeadlines {
    time: Duration,
    queue: VecDeque<(Stopwatch, usize, u64)>,
}

impl HeadDeadlines {
    pub(super) fn after(time: Duration) -> Self {
        Self { time, queue: VecDeque::new() }
    }

    pub(super) fn add(&mut self, slot: usize, serial: u64) {
        self.queue.push_back((Stopwatch::start(), slot, serial));
    }

    /// Returns the time until the first deadline.
    pub(super) fn left(&self) -> Option<Duration> {
        self.queue.front().map(|(since, ..)| self.time.saturating_sub(since.elapsed()))
    }

    pub(super) fn take_past(&mut self) -> Option<(usize, u64)> {
        self.left().filter(Duration::is_zero)?;
        self.queue.pop_front().map(|(_, slot, serial)| (slot, serial))
    }

    /// Compacts the queue. Most requests arrive in time, and leave a stale deadline.
    pub(super) fn compact(&mut self, heads: &Slab<Head>) {
        if self.queue.len() > 2 * heads.len() + MAX_STALE {
            self.queue.retain(|(_, slot, serial)| heads.get(*slot).is_some_and(|head| head.serial == *serial));
            self.queue.shrink_to(2 * heads.len() + MAX_STALE);
        }
    }
}
