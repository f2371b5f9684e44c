//! Session time of a single node.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::session::Timestamp;

/// Divisor that gives the maximum slew of session time for an elapsed time: 5 ms for each second.
pub const SLEW_DIVISOR: i64 = 200;
/// Minimum time between two comparisons of session time with the wall clock, in microseconds.
const COMPARE_MICROS: i64 = 100_000;

/// Session time of a single node: starts as the wall clock, advances with the monotonic clock, and is slewed towards
/// the wall clock.
///
/// Between any two readings, it advances by the steady time that has passed, plus or minus one part in [`SLEW_DIVISOR`]
/// of that and the rounding of a millisecond. It never goes back.
#[derive(Debug)]
pub(super) struct SessionTime {
    /// Session time minus steady time, in microseconds.
    offset_micros: AtomicI64,
    /// Steady time of the last comparison with the wall clock.
    compared_at_micros: AtomicI64,
    /// Latest session time that was returned. It keeps session time from going back when threads read the steady time
    /// in one order and the offset in another.
    latest_millis: AtomicI64,
}

impl SessionTime {
    /// Returns a session time that begins as the wall clock.
    pub(super) fn starting(steady_micros: i64, wall_micros: i64) -> Self {
        Self {
            offset_micros: AtomicI64::new(wall_micros - steady_micros),
            compared_at_micros: AtomicI64::new(steady_micros),
            latest_millis: AtomicI64::new(i64::MIN),
        }
    }

    /// Returns the session time at this steady time. Calls `wall_micros` if a comparison is due.
    pub(super) fn at(&self, steady_micros: i64, wall_micros: impl FnOnce() -> i64) -> Timestamp {
        let compared_at = self.compared_at_micros.load(Ordering::Relaxed);
        let passed_micros = steady_micros - compared_at;
        if passed_micros >= COMPARE_MICROS && self.begins_comparison(compared_at, steady_micros) {
            let ahead_micros = wall_micros() - (steady_micros + self.offset_micros.load(Ordering::Relaxed));
            let most_micros = passed_micros / SLEW_DIVISOR;
            self.offset_micros.fetch_add(ahead_micros.clamp(-most_micros, most_micros), Ordering::Relaxed);
        }
        let millis = (steady_micros + self.offset_micros.load(Ordering::Relaxed)).div_euclid(1000);
        let latest_millis = self.latest_millis.load(Ordering::Relaxed);
        if millis <= latest_millis {
            return Timestamp::from_millis(latest_millis);
        }
        Timestamp::from_millis(self.latest_millis.fetch_max(millis, Ordering::Relaxed).max(millis))
    }

    /// Returns whether the caller is to make the comparison. Of the threads that find it due, one gets `true`.
    fn begins_comparison(&self, compared_at: i64, steady_micros: i64) -> bool {
        let at = &self.compared_at_micros;
        at.compare_exchange(compared_at, steady_micros, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START_MICROS: i64 = 1_893_456_000_000_000;

    /// Returns the session time at `steady_micros`, with a wall clock that was stepped by `stepped_micros` since the
    /// start.
    fn session_millis(time: &SessionTime, steady_micros: i64, stepped_micros: i64) -> i64 {
        time.at(steady_micros, || START_MICROS + steady_micros + stepped_micros).as_millis()
    }

    fn events() -> impl Strategy<Value = Vec<(i64, i64)>> {
        let passed_micros = prop_oneof![0..2_000_i64, 0..2_000_000_i64, 0..2_000_000_000_i64];
        let step_micros = prop_oneof![Just(0), -2_000_i64..2_000, -3_600_000_000_i64..3_600_000_000];
        proptest::collection::vec((passed_micros, step_micros), 1..200)
    }

    proptest! {
        #[test]
        fn session_time_advances_with_steady_time_despite_steps_of_the_wall_clock(events in events()) {
            let time = SessionTime::starting(0, START_MICROS);
            let (mut steady_micros, mut stepped_micros) = (0, 0);
            let mut readings = vec![(0, START_MICROS / 1000)];
            for (passed, step) in events {
                steady_micros += passed;
                stepped_micros += step;
                readings.push((steady_micros, session_millis(&time, steady_micros, stepped_micros)));
            }
            for (index, (earlier_micros, earlier)) in readings.iter().enumerate() {
                for (later_micros, later) in &readings[index..] {
                    let passed_micros = later_micros - earlier_micros;
                    // Each reading is rounded to a millisecond, and the slew of one whole interval between comparisons
                    // may fall between two readings.
                    let slack = passed_micros / SLEW_DIVISOR + COMPARE_MICROS / SLEW_DIVISOR + 1000;
                    prop_assert!(later >= earlier);
                    prop_assert!(((later - earlier) * 1000 - passed_micros).abs() <= slack);
                }
            }
        }

        #[test]
        fn session_time_reaches_a_stepped_wall_clock_within_two_hundred_times_the_step(
            step_micros in -3_600_000_000_i64..3_600_000_000,
            look_micros in 1_000..10_000_000_i64,
        ) {
            let time = SessionTime::starting(0, START_MICROS);
            let needed_micros = step_micros.abs() * SLEW_DIVISOR + COMPARE_MICROS;
            let mut steady_micros = 0;
            let mut last = session_millis(&time, 0, step_micros);
            while steady_micros < needed_micros {
                // At most about 1,000 readings, however long the slew takes.
                steady_micros += look_micros.max(needed_micros / 1000);
                let session = session_millis(&time, steady_micros, step_micros);
                prop_assert!(session >= last);
                last = session;
            }
            steady_micros += COMPARE_MICROS;
            let left_micros = session_millis(&time, steady_micros, step_micros) * 1000
                - (START_MICROS + steady_micros + step_micros);
            prop_assert!(left_micros.abs() <= 1000, "{left_micros} µs left");
        }
    }

    #[test]
    fn session_time_follows_a_wall_clock_that_ntp_slews() {
        let time = SessionTime::starting(0, START_MICROS);
        // NTP adjusts a clock by at most 500 ppm. The loop runs for an hour.
        for second in 1..3600 {
            let (steady_micros, adjusted_micros) = (second * 1_000_000, second * 500);
            let wall_millis = (START_MICROS + steady_micros + adjusted_micros) / 1000;
            assert!((session_millis(&time, steady_micros, adjusted_micros) - wall_millis).abs() <= 1);
        }
    }
}
