//! What is due when: expiries and heartbeats, in ticks coarse enough that those of one tick are handled together.

use std::collections::BTreeMap;

use super::registry::ConnectionId;
use crate::session::{SessionKey, Timestamp};

/// Deadlines within one tick are due together, at its end: never early, and late by less than this.
const TICK_MILLIS: i64 = 100;

/// What falls due. It names the connection and not the entry: if that is gone by then, nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Time for a ping.
    Heartbeat(SessionKey, ConnectionId),
    /// The session's end.
    Expiry {
        key: SessionKey,
        id: ConnectionId,
        /// When it was due first.
        at: Timestamp,
    },
}

#[derive(Default)]
pub(super) struct Deadlines {
    ticks: BTreeMap<Timestamp, Vec<Due>>,
}

impl Deadlines {
    /// Notes what is due at `at`; whether that is now the next of all.
    pub(super) fn arm(&mut self, at: Timestamp, due: Due) -> bool {
        let millis = at.as_millis();
        let tick = Timestamp::from_millis(millis + (-millis).rem_euclid(TICK_MILLIS));
        let is_next = self.next().is_none_or(|next| tick < next);
        self.ticks.entry(tick).or_default().push(due);
        is_next
    }

    /// When the next tick is due at which there is anything to do.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.ticks.first_key_value().map(|(tick, _)| *tick)
    }

    /// Takes all that is due by `now`, in order.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<Due> {
        let later = self.ticks.split_off(&now.plus_millis(1));
        std::mem::replace(&mut self.ticks, later).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_within_a_tick_comes_together_and_never_early() {
        let mut deadlines = Deadlines::default();
        let due = |id| Due::Heartbeat(SessionKey([0; 32]), ConnectionId(id));
        assert!(deadlines.arm(Timestamp::from_millis(5_001), due(1)));
        assert!(!deadlines.arm(Timestamp::from_millis(5_100), due(2)));
        assert!(!deadlines.arm(Timestamp::from_millis(5_101), due(3)));
        assert!(deadlines.arm(Timestamp::from_millis(4_000), due(4)));

        assert_eq!(deadlines.take_due(Timestamp::from_millis(5_099)), [due(4)]);
        assert_eq!(deadlines.next(), Some(Timestamp::from_millis(5_100)));
        assert_eq!(deadlines.take_due(Timestamp::from_millis(5_100)), [due(1), due(2)]);
        assert_eq!(deadlines.take_due(Timestamp::from_millis(9_000)), [due(3)]);
        assert_eq!(deadlines.next(), None);
    }
}
