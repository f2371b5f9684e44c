//! What is due when: expiries, heartbeats, and what else a browser is waited for. In ticks coarse enough that those of
//! one tick are handled together; a tick costs what is due in it, not what waits.

use std::collections::BTreeMap;

use super::registry::Place;
use crate::session::Timestamp;

/// Deadlines within one tick are due together, at its end: never early, and late by less than this.
const TICK_MILLIS: u64 = 100;

/// A tenth of a second, counted from when the hub was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(pub(super) u32);

impl Tick {
    pub(super) const NEVER: Self = Self(u32::MAX);

    pub(super) fn plus_seconds(self, seconds: u32) -> Self {
        self.plus_millis(u64::from(seconds) * 1000)
    }

    /// Rounded up.
    pub(super) fn plus_millis(self, millis: u64) -> Self {
        Self(u32::try_from(u64::from(self.0) + millis.div_ceil(TICK_MILLIS)).unwrap_or(u32::MAX))
    }
}

/// Where ticks are counted from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epoch(pub(super) Timestamp);

impl Epoch {
    /// The first tick at or after this instant.
    pub(super) fn tick_at(self, instant: Timestamp) -> Tick {
        Self::tick(instant.millis_since(self.0).div_ceil(TICK_MILLIS))
    }

    /// The last tick at or before this instant.
    pub(super) fn tick_by(self, instant: Timestamp) -> Tick {
        Self::tick(instant.millis_since(self.0) / TICK_MILLIS)
    }

    fn tick(number: u64) -> Tick {
        u32::try_from(number).map_or(Tick::NEVER, Tick)
    }

    pub(super) fn instant_of(self, tick: Tick) -> Timestamp {
        self.0.plus_millis(i64::from(tick.0) * TICK_MILLIS.cast_signed())
    }
}

/// Each entry is only the place of one who is to be looked at; what is due there, it knows itself. If it has gone, or
/// was put off, nothing happens.
#[derive(Default)]
pub(super) struct Wheel {
    ticks: BTreeMap<Tick, Vec<Place>>,
}

impl Wheel {
    /// Notes that `place` is to be looked at; whether that is now the next of all.
    pub(super) fn arm(&mut self, tick: Tick, place: Place) -> bool {
        let is_next = self.next().is_none_or(|next| tick < next);
        self.ticks.entry(tick).or_default().push(place);
        is_next
    }

    /// The next tick at which there is anything to do.
    pub(super) fn next(&self) -> Option<Tick> {
        self.ticks.first_key_value().map(|(tick, _)| *tick)
    }

    /// Takes the first tick that is due by `now`.
    pub(super) fn take_due(&mut self, now: Tick) -> Option<(Tick, Vec<Place>)> {
        self.ticks.first_entry().filter(|first| *first.key() <= now).map(|first| first.remove_entry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_belongs_to_the_tick_at_whose_end_it_has_passed() {
        let epoch = Epoch(Timestamp::from_millis(5_000));
        let ticks = |millis| {
            let instant = Timestamp::from_millis(millis);
            (epoch.tick_at(instant).0, epoch.tick_by(instant).0)
        };
        assert_eq!(ticks(5_000), (0, 0));
        assert_eq!(ticks(5_001), (1, 0));
        assert_eq!(ticks(5_100), (1, 1));
        assert_eq!(ticks(5_101), (2, 1));
        assert_eq!(ticks(1_000), (0, 0), "a clock that was set back");
        assert_eq!(epoch.instant_of(Tick(2)), Timestamp::from_millis(5_200));
        assert_eq!(Tick(7).plus_seconds(3), Tick(37));
    }

    #[test]
    fn what_is_due_within_a_tick_comes_together_in_order_and_never_early() {
        let mut wheel = Wheel::default();
        let place = Place::from_token;
        assert!(wheel.arm(Tick(51), place(1)));
        assert!(!wheel.arm(Tick(51), place(2)));
        assert!(!wheel.arm(Tick(52), place(3)));
        assert!(wheel.arm(Tick(40), place(4)));

        assert_eq!(wheel.take_due(Tick(39)), None);
        assert_eq!(wheel.take_due(Tick(51)), Some((Tick(40), vec![place(4)])));
        assert_eq!(wheel.take_due(Tick(51)), Some((Tick(51), vec![place(1), place(2)])));
        assert_eq!(wheel.take_due(Tick(51)), None);
        assert_eq!(wheel.next(), Some(Tick(52)));
        assert_eq!(wheel.take_due(Tick(900)), Some((Tick(52), vec![place(3)])));
        assert_eq!(wheel.next(), None);
    }
}
