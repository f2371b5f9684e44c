use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tracing::{info, warn};

use super::{LoginError, Logins};
use crate::session::{Session, SessionKey, Timestamp};
use crate::store::SessionSelector;

/// Sessions cancelled per round, as a divisor of the limit. They are cancelled in batches because finding the heaviest
/// client reads all rows.
const BATCH_DIVISOR: u64 = 100;
/// Maximum number of sessions cancelled per round.
const MAX_BATCH: u64 = 5000;
/// Maximum number of cancellations that run concurrently.
const MAX_CONCURRENT: usize = 16;

/// Number of sessions that wait to be scanned (pending sessions), estimated.
///
/// The estimate takes one number for each second in which sessions were made, and nothing per session. It counts the
/// sessions that this node has made and subtracts those whose first change this node has written. With several nodes
/// these are not the same sessions, so the number is corrected by the store before sessions are cancelled.
pub struct PendingCount {
    limit: u64,
    ttl_seconds: i64,
    counts: Mutex<Counts>,
    /// Held while sessions are cancelled, so that one task at a time does it.
    cancelling: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Counts {
    /// Number of pending sessions by the second in which they were made, in ascending order.
    seconds: VecDeque<(i64, u64)>,
    /// Sum of the numbers in `seconds`.
    total: u64,
}

impl PendingCount {
    /// Makes a count of no sessions. Sessions expire after `ttl_seconds`. A `limit` of 0 means no limit.
    #[must_use]
    pub fn new(limit: u32, ttl_seconds: u32) -> Self {
        let (counts, cancelling) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { limit: limit.into(), ttl_seconds: ttl_seconds.into(), counts, cancelling }
    }

    /// Counts a new session. Returns whether there are more than the limit.
    fn count_new(&self, at: Timestamp) -> bool {
        if self.limit == 0 {
            return false;
        }
        let mut counts = self.counts.lock();
        counts.add(at.as_seconds(), 1);
        counts.discard_before(at.as_seconds() - self.ttl_seconds);
        counts.total > self.limit
    }

    /// Subtracts a session that was made at this time and has been scanned, decided or cancelled.
    pub(super) fn count_changed(&self, made_at: Timestamp) {
        self.counts.lock().remove(made_at.as_seconds());
    }

    /// Returns whether there are more pending sessions than the limit.
    fn exceeds_limit(&self, now: Timestamp) -> bool {
        let mut counts = self.counts.lock();
        counts.discard_before(now.as_seconds() - self.ttl_seconds);
        counts.total > self.limit
    }

    /// Replaces the estimate by the count from the store. All sessions are counted as made now, so they leave the
    /// estimate too late rather than too early.
    fn recount(&self, now: Timestamp, total: u64) {
        let mut counts = self.counts.lock();
        *counts = Counts::default();
        counts.add(now.as_seconds(), total);
    }
}

impl Counts {
    fn add(&mut self, second: i64, count: u64) {
        self.total += count;
        match self.seconds.back_mut() {
            // Session time that was set back is counted in the last second, which keeps the seconds in order.
            Some((last, of_last)) if *last >= second => *of_last += count,
            _ => self.seconds.push_back((second, count)),
        }
    }

    /// Subtracts a session that was made in this second. If the second has no entry, as after a recount, the next later
    /// entry is reduced.
    fn remove(&mut self, second: i64) {
        let index = self.seconds.partition_point(|(at, _)| *at < second);
        if let Some((_, count)) = self.seconds.get_mut(index).filter(|(_, count)| *count > 0) {
            *count -= 1;
            self.total -= 1;
        }
    }

    /// Discards the seconds before this one, whose sessions have expired.
    fn discard_before(&mut self, second: i64) {
        while let Some((_, count)) = self.seconds.front().copied().filter(|(at, _)| *at < second) {
            self.total -= count;
            self.seconds.pop_front();
        }
    }
}

impl Logins {
    /// Counts a new session. If more sessions are pending than the limit, cancels the oldest ones of the client that
    /// has the most, so that a flood evicts its own sessions.
    pub(super) async fn cancel_excess(self: &Arc<Self>, made_at: Timestamp) -> Result<(), LoginError> {
        if !self.pending.count_new(made_at) {
            return Ok(());
        }
        let _alone = self.pending.cancelling.lock().await;
        while self.pending.exceeds_limit(self.clock.now()) {
            let (now, limit) = (self.clock.now(), self.pending.limit);
            let batch = (limit / BATCH_DIVISOR).clamp(1, MAX_BATCH);
            let largest = self.store.largest_network(now, u32::try_from(batch).unwrap_or(u32::MAX)).await?;
            self.pending.recount(now, largest.total_pending);
            if largest.total_pending <= limit || largest.oldest.is_empty() {
                break;
            }
            warn!(event = "overload", pending = largest.total_pending, limit, giving_way = largest.oldest.len());
            let cancellations = largest.oldest.into_iter().map(|session| self.cancel_for_overload(session));
            stream::iter(cancellations).buffer_unordered(MAX_CONCURRENT).collect::<()>().await;
        }
        Ok(())
    }

    /// Cancels a session. The write checks again that it is still pending.
    async fn cancel_for_overload(self: &Arc<Self>, session: Session) {
        let key: SessionKey = session.key;
        if let Err(error) =
            self.change(SessionSelector::Key(key), |session, now| session.cancel_for_overload(now)).await
        {
            info!(event = "did not give way", session = %key, %error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_counts_sessions_that_are_neither_changed_nor_expired() {
        let at = |second: i64| Timestamp::from_millis(second * 1000);
        let pending = PendingCount::new(3, 300);
        assert!((0..3).all(|_| !pending.count_new(at(10))));
        assert!(pending.count_new(at(11)));
        pending.count_changed(at(10));
        assert!(!pending.exceeds_limit(at(11)));
        pending.count_changed(at(11));
        pending.count_changed(at(11));
        assert_eq!(pending.counts.lock().total, 2, "a session is subtracted once");
        assert!(!pending.count_new(at(12)));
        assert!(pending.count_new(at(13)));
        assert!(pending.exceeds_limit(at(310)));
        assert!(!pending.exceeds_limit(at(311)));
        assert_eq!(pending.counts.lock().total, 2);
        pending.recount(at(311), 9);
        assert!(pending.exceeds_limit(at(611)) && !pending.exceeds_limit(at(612)));
        let many = PendingCount::new(3, 300);
        for second in [10, 10, 10, 10, 10, 11, 11] {
            many.count_new(at(second));
        }
        assert_eq!(many.counts.lock().seconds.len(), 2, "one number a second");
        assert!(!many.count_new(at(311)), "the sessions of second 10 have expired");
        assert_eq!(many.counts.lock().total, 3);
        let any = PendingCount::new(0, 300);
        assert!((0..100).all(|_| !any.count_new(at(10))));
    }
}
