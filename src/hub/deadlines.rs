//! The deadlines: the queue of times at which a connection must be looked at. Deadlines are rounded up to ticks, and
//! those of one tick are handled together. A tick costs time for what is due in it and not for all that waits.

use std::collections::BTreeMap;
use std::time::Duration;

use super::registry::Slot;
use crate::session::Timestamp;
use crate::system::clock::Reading;

/// Length of a tick, in milliseconds. A deadline is handled at the end of its tick: never early, and late by less than
/// a tick.
const TICK_MILLIS: u64 = 100;

/// A point in steady time, in tenths of a second since the hub was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(pub(super) u32);

impl Tick {
    pub(super) const NEVER: Self = Self(u32::MAX);

    pub(super) fn plus_seconds(self, seconds: u32) -> Self {
        self.plus_millis(u64::from(seconds) * 1000)
    }

    /// Returns the last tick of session time at or before the instant of this one, by the current relation of session
    /// time to steady time.
    pub(super) fn session(self, lag: Lag) -> SessionTick {
        let millis = i64::from(self.0) * TICK_MILLIS.cast_signed() - lag.0;
        SessionTick(Epoch::tick(u64::try_from(millis).unwrap_or(0) / TICK_MILLIS).0)
    }

    /// Adds a duration, rounded up to whole ticks.
    pub(super) fn plus_millis(self, millis: u64) -> Self {
        Self(u32::try_from(u64::from(self.0) + millis.div_ceil(TICK_MILLIS)).unwrap_or(u32::MAX))
    }
}

/// A point in session time, in tenths of a second since [`SESSION_LEAD_MILLIS`] before the hub was created.
///
/// Session time may pass faster or slower than steady time, and that of a shared store may be stepped. So the
/// corresponding [`Tick`] is computed each time that it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionTick(pub(super) u32);

impl SessionTick {
    pub(super) const NEVER: Self = Self(u32::MAX);

    pub(super) fn plus_seconds(self, seconds: u32) -> Self {
        Self(Tick(self.0).plus_seconds(seconds).0)
    }

    /// Returns the first tick at or after this one, by the current relation of session time to steady time.
    pub(super) fn tick(self, lag: Lag) -> Tick {
        if self == Self::NEVER {
            return Tick::NEVER;
        }
        let millis = i64::from(self.0) * TICK_MILLIS.cast_signed() + lag.0;
        Epoch::tick(u64::try_from(millis).unwrap_or(0).div_ceil(TICK_MILLIS))
    }
}

/// Steady time minus session time, each since its own epoch, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lag(pub(super) i64);

/// Time before the creation of the hub at which session ticks begin, in milliseconds. It exceeds the age of any session
/// and any step of session time backwards: a year.
const SESSION_LEAD_MILLIS: i64 = 365 * 86_400_000;

/// The instants from which ticks are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epoch {
    steady: Duration,
    session: Timestamp,
}

impl Epoch {
    /// Returns the epoch of a hub that is created at this instant.
    pub(super) fn at(now: Reading) -> Self {
        Self { steady: now.steady, session: now.session.plus_millis(-SESSION_LEAD_MILLIS) }
    }

    /// Returns the first tick at or after this instant.
    pub(super) fn tick_at(self, steady: Duration) -> Tick {
        Self::tick(self.millis_since(steady).div_ceil(TICK_MILLIS))
    }

    /// Returns the last tick at or before this instant.
    pub(super) fn tick_by(self, steady: Duration) -> Tick {
        Self::tick(self.millis_since(steady) / TICK_MILLIS)
    }

    /// Returns the first tick of session time at or after this instant.
    pub(super) fn session_tick_at(self, instant: Timestamp) -> SessionTick {
        SessionTick(Self::tick(instant.millis_since(self.session).div_ceil(TICK_MILLIS)).0)
    }

    /// Returns steady time minus session time, as of `now`.
    pub(super) fn lag(self, now: Reading) -> Lag {
        let session_millis = now.session.as_millis().saturating_sub(self.session.as_millis());
        Lag(i64::try_from(self.millis_since(now.steady)).unwrap_or(i64::MAX).saturating_sub(session_millis))
    }

    /// Returns the instant of this tick in steady time.
    pub(super) fn instant_of(self, tick: Tick) -> Duration {
        self.steady + Duration::from_millis(u64::from(tick.0) * TICK_MILLIS)
    }

    fn millis_since(self, steady: Duration) -> u64 {
        u64::try_from(steady.saturating_sub(self.steady).as_millis()).unwrap_or(u64::MAX)
    }

    fn tick(number: u64) -> Tick {
        u32::try_from(number).map_or(Tick::NEVER, Tick)
    }
}

/// The queue of deadlines. An entry is only the slot of a connection. The connection itself knows what is due, and
/// ignores an entry that is out of date.
#[derive(Default)]
pub(super) struct Deadlines {
    ticks: BTreeMap<Tick, Vec<Slot>>,
}

impl Deadlines {
    /// Adds a deadline for the connection in this slot. Returns whether it is before all others.
    pub(super) fn arm(&mut self, tick: Tick, slot: Slot) -> bool {
        let is_next = self.next().is_none_or(|next| tick < next);
        self.ticks.entry(tick).or_default().push(slot);
        is_next
    }

    /// Returns the first tick with an entry.
    pub(super) fn next(&self) -> Option<Tick> {
        self.ticks.first_key_value().map(|(tick, _)| *tick)
    }

    /// Removes the first tick with an entry and returns it, if it is due by `now`.
    pub(super) fn take_due(&mut self, now: Tick) -> Option<(Tick, Vec<Slot>)> {
        self.ticks.first_entry().filter(|first| *first.key() <= now).map(|first| first.remove_entry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(steady_millis: u64, session_millis: i64) -> Reading {
        Reading { steady: Duration::from_millis(steady_millis), session: Timestamp::from_millis(session_millis) }
    }

    #[test]
    fn instants_are_rounded_to_the_tick_before_or_after() {
        let epoch = Epoch::at(reading(5_000, 0));
        let ticks = |millis| {
            let instant = Duration::from_millis(millis);
            (epoch.tick_at(instant).0, epoch.tick_by(instant).0)
        };
        assert_eq!(ticks(5_000), (0, 0));
        assert_eq!(ticks(5_001), (1, 0));
        assert_eq!(ticks(5_100), (1, 1));
        assert_eq!(ticks(5_101), (2, 1));
        assert_eq!(ticks(1_000), (0, 0));
        assert_eq!(epoch.instant_of(Tick(2)), Duration::from_millis(5_200));
        assert_eq!(Tick(7).plus_seconds(3), Tick(37));
    }

    #[test]
    fn session_ticks_are_converted_by_the_current_lag_and_never_early() {
        let epoch = Epoch::at(reading(5_000, 1_000_000));
        let at = |millis| epoch.session_tick_at(Timestamp::from_millis(millis));
        let together = epoch.lag(reading(9_000, 1_004_000));
        assert_eq!(at(1_010_000).tick(together), Tick(100));
        assert_eq!(at(1_010_001).tick(together), Tick(101));
        assert_eq!(at(1_010_000).plus_seconds(2).tick(together), Tick(120));
        let a_little_slower = epoch.lag(reading(9_000, 1_003_999));
        assert_eq!(at(1_010_000).tick(a_little_slower), Tick(101), "never early");
        let set_forward = epoch.lag(reading(9_000, 1_604_000));
        assert_eq!(at(1_610_000).tick(set_forward), Tick(100));
        assert_eq!(at(1_010_000).tick(set_forward), Tick(0), "past");
        let set_back = epoch.lag(reading(9_000, 404_000));
        assert_eq!(at(410_000).tick(set_back), Tick(100));
        assert_eq!(at(1_010_000).tick(set_back), Tick(6100));
        for lag in [together, a_little_slower, set_forward, set_back] {
            assert!((Tick(99)..=Tick(100)).contains(&Tick(100).session(lag).tick(lag)));
        }
        assert_eq!(SessionTick::NEVER.tick(set_back), Tick::NEVER);
        assert_eq!(SessionTick::NEVER.tick(set_forward), Tick::NEVER);
    }

    #[test]
    fn due_ticks_are_taken_whole_in_order_and_never_early() {
        let mut deadlines = Deadlines::default();
        let slot = Slot::from_token;
        assert!(deadlines.arm(Tick(51), slot(1)));
        assert!(!deadlines.arm(Tick(51), slot(2)));
        assert!(!deadlines.arm(Tick(52), slot(3)));
        assert!(deadlines.arm(Tick(40), slot(4)));

        assert_eq!(deadlines.take_due(Tick(39)), None);
        assert_eq!(deadlines.take_due(Tick(51)), Some((Tick(40), vec![slot(4)])));
        assert_eq!(deadlines.take_due(Tick(51)), Some((Tick(51), vec![slot(1), slot(2)])));
        assert_eq!(deadlines.take_due(Tick(51)), None);
        assert_eq!(deadlines.next(), Some(Tick(52)));
        assert_eq!(deadlines.take_due(Tick(900)), Some((Tick(52), vec![slot(3)])));
        assert_eq!(deadlines.next(), None);
    }
}
