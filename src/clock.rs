//! Time, as the rest of the program reads it. Three clocks, for three purposes:
//!
//! - [`Clock::steady`] is monotonic. Everything that measures or waits for a duration uses it.
//! - [`Clock::now`] is session time. Sessions begin, expire and are decided by it. A step of the wall clock moves it by
//!   at most one part in [`SLEW_DIVISOR`] of the time that passes.
//! - [`Clock::wall`] is the date. Only what leaves the server as a date uses it.
//!
//! `clippy.toml` bans other ways to read the time, so a test can hold all three still and move them.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};

use crate::session::Timestamp;

/// Session time passes at most one part in this many faster or slower than the monotonic clock: 5 ms a second.
pub const SLEW_DIVISOR: i64 = 200;
/// Shortest time between two comparisons of session time with the wall clock.
const COMPARE_MICROS: i64 = 100_000;
/// Smallest correction of a shared clock that counts as a step, in milliseconds.
const STEP_MILLIS: u64 = 1000;

/// Source of the three times. Clones share their state.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System(Arc<SessionTime>),
    Shared(Arc<SharedTime>),
    Manual(watch::Receiver<Moment>, Arc<SessionTime>),
}

/// A monotonic reading and the session time at the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// As of [`Clock::steady`].
    pub steady: Duration,
    /// As of [`Clock::now`].
    pub session: Timestamp,
}

/// Session time of a server that shares it with no other: the wall clock as it was at the start, carried on by the
/// monotonic clock, and moved towards the wall clock slowly.
///
/// Between any two readings, it advances by the steady time that has passed, plus or minus one part in
/// [`SLEW_DIVISOR`] of that and the rounding of a millisecond. It never goes back.
#[derive(Debug)]
struct SessionTime {
    /// Session time minus steady time.
    offset_micros: AtomicI64,
    /// Steady time of the last comparison with the wall clock.
    compared_at_micros: AtomicI64,
    /// Latest session time that was returned. Threads may read the steady time in one order and the offset in another.
    latest_millis: AtomicI64,
}

/// Session time of a server that shares its store: the time of the store's machine. Between two readings of that, the
/// monotonic clock carries it on.
#[derive(Debug)]
struct SharedTime {
    /// Session time minus steady time.
    offset_millis: AtomicI64,
    is_known: AtomicBool,
    stepped: Notify,
}

/// State of a manual clock's hands.
#[derive(Debug, Clone, Copy)]
struct Moment {
    steady: Duration,
    wall: Timestamp,
}

/// Moves the clock that [`Clock::manual`] returned with it.
#[derive(Debug)]
pub struct Hands(watch::Sender<Moment>);

impl Clock {
    /// The machine's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System(Arc::new(SessionTime::starting(micros_of(machine_steady()), machine_wall_micros()))))
    }

    /// A clock whose session time and date follow those of a shared store. They are the machine's until the first call
    /// of [`Clock::follow`].
    #[must_use]
    pub fn shared() -> Self {
        let offset_millis = machine_wall_micros() / 1000 - millis_of(machine_steady());
        Self(Source::Shared(Arc::new(SharedTime {
            offset_millis: AtomicI64::new(offset_millis),
            is_known: AtomicBool::new(false),
            stepped: Notify::new(),
        })))
    }

    /// Adjusts a shared clock: the store's clock showed `shown` at some instant of the last `took`, which ends now.
    ///
    /// Moves the clock no further than agreement requires, as a slow answer says little. Does nothing to other clocks.
    pub fn follow(&self, shown: Timestamp, took: Duration) {
        let Source::Shared(time) = &self.0 else { return };
        let ours = self.now().as_millis();
        let (earliest, latest) = (shown.as_millis(), shown.plus_millis(millis_of(took)).as_millis());
        let was_known = time.is_known.swap(true, Ordering::Relaxed);
        let agreed = if was_known { ours.clamp(earliest, latest) } else { earliest.midpoint(latest) };
        time.offset_millis.fetch_add(agreed - ours, Ordering::Relaxed);
        if was_known && agreed.abs_diff(ours) >= STEP_MILLIS {
            time.stepped.notify_one();
        }
    }

    /// Waits until a shared clock has been stepped by [`Clock::follow`] since the last call. Other clocks are never
    /// stepped.
    pub async fn stepped(&self) {
        match &self.0 {
            Source::Shared(time) => time.stepped.notified().await,
            Source::System(_) | Source::Manual(..) => std::future::pending().await,
        }
    }

    /// Returns a clock that stands at `start` until its hands are moved.
    #[must_use]
    pub fn manual(start: Timestamp) -> (Self, Hands) {
        let moment = Moment { steady: Duration::ZERO, wall: start };
        let session = SessionTime::starting(0, start.as_millis() * 1000);
        let (sender, receiver) = watch::channel(moment);
        (Self(Source::Manual(receiver, Arc::new(session))), Hands(sender))
    }

    /// Returns the session time: what `created_at`, `expires_at` and decisions are judged by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.reading().session
    }

    /// Returns the monotonic time and the session time of one instant.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let steady = self.steady();
        let session = match &self.0 {
            Source::System(time) => time.at(micros_of(steady), machine_wall_micros),
            Source::Shared(time) => {
                Timestamp::from_millis(time.offset_millis.load(Ordering::Relaxed)).plus_millis(millis_of(steady))
            }
            Source::Manual(moment, time) => time.at(micros_of(steady), || moment.borrow().wall.as_millis() * 1000),
        };
        Reading { steady, session }
    }

    /// Returns the date, for what leaves the server as one: the wall clock of the machine, or with a shared store that
    /// of the store, so that all nodes give the same date.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Source::System(_) => Timestamp::from_millis(machine_wall_micros() / 1000),
            Source::Shared(_) => self.now(),
            Source::Manual(moment, _) => moment.borrow().wall,
        }
    }

    /// Returns the date of an instant of session time. They differ by what session time has not made up for yet since
    /// the wall clock was stepped, in whole seconds: so the date of an instant does not change from one call to the next
    /// while the clocks agree.
    #[must_use]
    pub fn date_of(&self, instant: Timestamp) -> Timestamp {
        let ahead_millis = self.wall().as_millis() - self.now().as_millis();
        instant.plus_millis(ahead_millis / 1000 * 1000)
    }

    /// Returns the monotonic time since an arbitrary instant. Setting the wall clock does not change it.
    #[must_use]
    pub fn steady(&self) -> Duration {
        match &self.0 {
            Source::System(_) | Source::Shared(_) => machine_steady(),
            Source::Manual(moment, _) => moment.borrow().steady,
        }
    }

    /// Waits until [`Clock::steady`] is at least `instant`.
    #[expect(clippy::disallowed_methods, reason = "the one place that may sleep")]
    pub async fn sleep_until_steady(&self, instant: Duration) {
        match &self.0 {
            Source::System(_) | Source::Shared(_) => tokio::time::sleep(instant.saturating_sub(self.steady())).await,
            Source::Manual(moment, _) => {
                let moved = moment.clone().wait_for(|moment| moment.steady >= instant).await.map(|_| ());
                if moved.is_err() {
                    // The hands are gone: this clock never moves again.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until_steady(self.steady() + duration).await;
    }

    /// Waits for `millis`.
    pub async fn sleep_millis(&self, millis: u32) {
        self.sleep(Duration::from_millis(millis.into())).await;
    }

    /// Waits for `seconds`.
    pub async fn sleep_seconds(&self, seconds: u32) {
        self.sleep(Duration::from_secs(seconds.into())).await;
    }

    /// Waits for `future`, for at most `seconds`. Returns `None` if it took longer.
    pub async fn timeout<F: Future>(&self, seconds: u32, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.sleep_seconds(seconds) => None,
        }
    }
}

impl SessionTime {
    fn starting(steady_micros: i64, wall_micros: i64) -> Self {
        Self {
            offset_micros: AtomicI64::new(wall_micros - steady_micros),
            compared_at_micros: AtomicI64::new(steady_micros),
            latest_millis: AtomicI64::new(i64::MIN),
        }
    }

    /// Returns the session time at this steady time. Calls `wall_micros` if a comparison is due.
    fn at(&self, steady_micros: i64, wall_micros: impl FnOnce() -> i64) -> Timestamp {
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

    /// Returns whether the caller is the one that compares at this time.
    fn begins_comparison(&self, compared_at: i64, steady_micros: i64) -> bool {
        let at = &self.compared_at_micros;
        at.compare_exchange(compared_at, steady_micros, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Hands {
    /// Lets `millis` pass on all three clocks.
    pub fn advance_millis(&self, millis: i64) {
        self.0.send_modify(|moment| {
            moment.steady += Duration::from_millis(u64::try_from(millis).unwrap_or(0));
            moment.wall = moment.wall.plus_millis(millis.max(0));
        });
    }

    /// Lets `seconds` pass on all three clocks.
    pub fn advance_seconds(&self, seconds: u32) {
        self.advance_millis(i64::from(seconds) * 1000);
    }

    /// Sets the wall clock forward by `millis`, or back if that is negative. No time passes.
    pub fn step_wall_millis(&self, millis: i64) {
        self.0.send_modify(|moment| moment.wall = moment.wall.plus_millis(millis));
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
fn machine_steady() -> Duration {
    static FIRST_ASKED: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST_ASKED.elapsed()
}

#[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
fn machine_wall_micros() -> i64 {
    micros_of(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

fn micros_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn millis_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START_MICROS: i64 = 1_893_456_000_000_000;

    /// Session time at `steady_micros`, with a wall clock that has been set forward by `stepped_micros` since the start.
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
        fn time_of_sessions_passes_at_nearly_one_rate_however_the_wall_clock_is_set(events in events()) {
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
                    // Each reading is rounded to a millisecond, and one interval between comparisons counts in full.
                    let slack = passed_micros / SLEW_DIVISOR + COMPARE_MICROS / SLEW_DIVISOR + 1000;
                    prop_assert!(later >= earlier);
                    prop_assert!(((later - earlier) * 1000 - passed_micros).abs() <= slack);
                }
            }
        }

        #[test]
        fn time_of_sessions_reaches_the_wall_clock_in_two_hundred_times_the_step(
            step_micros in -3_600_000_000_i64..3_600_000_000,
            look_micros in 1_000..10_000_000_i64,
        ) {
            let time = SessionTime::starting(0, START_MICROS);
            let needed_micros = step_micros.abs() * SLEW_DIVISOR + COMPARE_MICROS;
            let mut steady_micros = 0;
            let mut last = session_millis(&time, 0, step_micros);
            while steady_micros < needed_micros {
                // A bounded number of readings: the longer the way, the rarer they are.
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
    fn time_of_sessions_follows_a_wall_clock_that_is_adjusted_slowly() {
        let time = SessionTime::starting(0, START_MICROS);
        // 500 ppm, the most that NTP adjusts by; for an hour.
        for second in 1..3600 {
            let (steady_micros, adjusted_micros) = (second * 1_000_000, second * 500);
            let wall_millis = (START_MICROS + steady_micros + adjusted_micros) / 1000;
            assert!((session_millis(&time, steady_micros, adjusted_micros) - wall_millis).abs() <= 1);
        }
    }

    #[test]
    fn time_of_sessions_does_not_go_back_between_threads() {
        let (clock, hands) = Clock::manual(Timestamp::from_millis(0));
        hands.step_wall_millis(-3_600_000);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = clock.now();
                    for _ in 0..50_000 {
                        let now = clock.now();
                        assert!(now >= last);
                        last = now;
                    }
                });
            }
            scope.spawn(|| (0..5_000).for_each(|_| hands.advance_millis(50)));
        });
        // 250 s have passed, less 5 ms a second.
        let now_millis = clock.now().as_millis();
        assert!((248_749..=248_751).contains(&now_millis), "{now_millis}");
    }

    #[test]
    fn time_of_dates_is_the_wall_clock_at_once() {
        let (clock, hands) = Clock::manual(Timestamp::from_millis(1_000_000_000));
        let expires_at = clock.now().plus_seconds(300);
        assert_eq!(clock.date_of(expires_at), expires_at);
        hands.step_wall_millis(999);
        assert_eq!(clock.date_of(expires_at), expires_at);
        hands.step_wall_millis(-600_999);
        assert_eq!(clock.wall(), Timestamp::from_millis(999_400_000));
        assert_eq!(clock.now(), Timestamp::from_millis(1_000_000_000));
        assert_eq!(clock.date_of(expires_at), clock.wall().plus_seconds(300));
        hands.advance_seconds(100);
        assert_eq!(clock.steady(), Duration::from_secs(100));
        assert_eq!(clock.now(), Timestamp::from_millis(1_000_099_500));
        assert_eq!(clock.wall(), Timestamp::from_millis(999_500_000));
    }

    #[test]
    fn time_of_a_shared_store_is_followed() {
        let clock = Clock::shared();
        let (hour_ahead, at_once) = (clock.now().plus_seconds(3600), Duration::ZERO);
        clock.follow(hour_ahead, at_once);
        assert!(clock.now().millis_since(hour_ahead) < 1000);
        assert!(clock.wall().millis_since(hour_ahead) < 1000);
        let behind = hour_ahead.plus_millis(-5000);
        clock.follow(behind, at_once);
        assert!(clock.now().millis_since(behind) < 1000);
    }

    #[test]
    fn time_of_a_shared_store_moves_only_as_far_as_a_slow_answer_requires() {
        let clock = Clock::shared();
        let start = clock.now().plus_seconds(60);
        clock.follow(start, Duration::ZERO);
        clock.follow(start.plus_millis(-10_000), Duration::from_secs(20));
        assert!(clock.now().millis_since(start) < 1000);
        clock.follow(start.plus_millis(-10_000), Duration::from_secs(7));
        let moved = clock.now();
        assert!(moved < start && moved.millis_since(start.plus_millis(-3000)) < 1000);
    }

    #[tokio::test]
    async fn time_of_a_shared_store_says_when_it_was_stepped() {
        let clock = Clock::shared();
        let is_stepped = async || tokio::select! { biased; () = clock.stepped() => true, () = async {} => false };
        let steps = async |millis: i64| {
            clock.follow(clock.now().plus_millis(millis), Duration::ZERO);
            is_stepped().await
        };
        assert!(!steps(600_000).await, "the first reading");
        assert!(!steps(500).await);
        assert!(!steps(-500).await);
        assert!(steps(-600_000).await);
        assert!(!is_stepped().await);
        assert!(steps(2000).await);
    }
}
