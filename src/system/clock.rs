//! The time, as the rest of the program reads it. There are three clocks, for three purposes:
//!
//! - [`Clock::steady`] is monotonic. Use it to measure or wait for a duration.
//! - [`Clock::now`] is session time. Sessions begin, expire and are decided by it. After a step of the wall clock, it
//!   is slewed towards the wall clock by at most one part in [`SLEW_DIVISOR`] of the time that passes.
//! - [`Clock::wall`] is the date. Use it only for dates that leave the server, or that come from outside.
//!
//! `clippy.toml` bans other ways to read the time, so that tests can hold all three clocks still and move them.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};

use crate::session::Timestamp;

/// Divisor that gives the maximum slew of session time for an elapsed time: 5 ms for each second.
pub const SLEW_DIVISOR: i64 = 200;
/// Minimum time between two comparisons of session time with the wall clock, in microseconds.
const COMPARE_MICROS: i64 = 100_000;
/// Minimum correction of a shared clock that counts as a step, in milliseconds.
const STEP_MILLIS: u64 = 1000;

/// The three clocks of the server. Clones share their state.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System(Arc<SessionTime>),
    Shared(Arc<SharedTime>),
    Manual(watch::Receiver<Moment>, Arc<SessionTime>),
}

/// The monotonic time and the session time of one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Monotonic time, as [`Clock::steady`] returns it.
    pub steady: Duration,
    /// Session time, as [`Clock::now`] returns it.
    pub session: Timestamp,
}

/// Session time of a single node: starts as the wall clock, advances with the monotonic clock, and is slewed towards
/// the wall clock.
///
/// Between any two readings, it advances by the steady time that has passed, plus or minus one part in [`SLEW_DIVISOR`]
/// of that and the rounding of a millisecond. It never goes back.
#[derive(Debug)]
struct SessionTime {
    /// Session time minus steady time, in microseconds.
    offset_micros: AtomicI64,
    /// Steady time of the last comparison with the wall clock.
    compared_at_micros: AtomicI64,
    /// Latest session time that was returned. It keeps session time from going back when threads read the steady time
    /// in one order and the offset in another.
    latest_millis: AtomicI64,
}

/// Session time of a node that shares its store: the clock of the store's machine. Between two readings of that clock,
/// it advances with the monotonic clock.
#[derive(Debug)]
struct SharedTime {
    /// Session time minus steady time, in milliseconds.
    offset_millis: AtomicI64,
    /// Whether the store's clock has been read.
    is_known: AtomicBool,
    /// Notified when the offset has been corrected by at least [`STEP_MILLIS`].
    stepped: Notify,
}

/// State of a manual clock.
#[derive(Debug, Clone, Copy)]
struct Moment {
    steady: Duration,
    wall: Timestamp,
}

/// The control of a manual clock. [`Clock::manual`] returns the two together.
#[derive(Debug)]
pub struct Hands(watch::Sender<Moment>);

impl Clock {
    /// Returns the clocks of this machine.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System(Arc::new(SessionTime::starting(micros_of(machine_steady()), machine_wall_micros()))))
    }

    /// Returns a clock whose session time and date follow the clock of a shared store. Until the first call of
    /// [`Clock::follow`], they are those of this machine.
    #[must_use]
    pub fn shared() -> Self {
        let offset_millis = machine_wall_micros() / 1000 - millis_of(machine_steady());
        Self(Source::Shared(Arc::new(SharedTime {
            offset_millis: AtomicI64::new(offset_millis),
            is_known: AtomicBool::new(false),
            stepped: Notify::new(),
        })))
    }

    /// Adjusts a shared clock to the store's clock, which showed `shown` at some instant within the last `took`.
    ///
    /// The first call sets the clock to the middle of the possible range. Later calls move it only as far as the
    /// reading proves it wrong, because a slow answer leaves a wide range. Other clocks ignore the call.
    pub fn follow(&self, shown: Timestamp, took: Duration) {
        let Source::Shared(time) = &self.0 else { return };
        let offset = time.offset_millis.load(Ordering::Relaxed);
        let ours = offset + millis_of(self.steady());
        let (earliest, latest) = (shown.as_millis(), shown.plus_millis(millis_of(took)).as_millis());
        let was_known = time.is_known.swap(true, Ordering::Relaxed);
        let agreed = if was_known { ours.clamp(earliest, latest) } else { earliest.midpoint(latest) };
        // Concurrent calls may have read the same offset. Only one of them corrects it, because two would overshoot.
        let corrected = offset + (agreed - ours);
        let is_corrected =
            time.offset_millis.compare_exchange(offset, corrected, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_corrected && was_known && agreed.abs_diff(ours) >= STEP_MILLIS {
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

    /// Returns a clock that stands at `start`, and the hands that move it.
    #[must_use]
    pub fn manual(start: Timestamp) -> (Self, Hands) {
        let moment = Moment { steady: Duration::ZERO, wall: start };
        let session = SessionTime::starting(0, start.as_millis() * 1000);
        let (sender, receiver) = watch::channel(moment);
        (Self(Source::Manual(receiver, Arc::new(session))), Hands(sender))
    }

    /// Returns the session time, by which sessions are created, expire and are decided.
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

    /// Returns the date: the wall clock of this machine. With a shared store it is the store's clock, so that all nodes
    /// give the same date.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Source::System(_) => Timestamp::from_millis(machine_wall_micros() / 1000),
            Source::Shared(_) => self.now(),
            Source::Manual(moment, _) => moment.borrow().wall,
        }
    }

    /// Returns the date of an instant of session time.
    ///
    /// The two differ by the part of a step of the wall clock that session time has not made up for yet. The difference
    /// is truncated to whole seconds, so that the date of an instant is the same from one call to the next while the
    /// clocks agree.
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
    #[expect(clippy::disallowed_methods, reason = "the only place that sleeps on the runtime's timer")]
    pub async fn sleep_until_steady(&self, instant: Duration) {
        match &self.0 {
            Source::System(_) | Source::Shared(_) => tokio::time::sleep(instant.saturating_sub(self.steady())).await,
            Source::Manual(moment, _) => {
                let moved = moment.clone().wait_for(|moment| moment.steady >= instant).await.map(|_| ());
                if moved.is_err() {
                    // The hands have been dropped, so the clock never moves again.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until_steady(self.steady() + duration).await;
    }

    /// Waits for `millis` milliseconds.
    pub async fn sleep_millis(&self, millis: u32) {
        self.sleep(Duration::from_millis(millis.into())).await;
    }

    /// Waits for `seconds` seconds.
    pub async fn sleep_seconds(&self, seconds: u32) {
        self.sleep(Duration::from_secs(seconds.into())).await;
    }

    /// Waits for `future`, for at most `seconds` seconds. Returns `None` if it took longer.
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

    /// Returns whether the caller is to make the comparison. Of the threads that find it due, one gets `true`.
    fn begins_comparison(&self, compared_at: i64, steady_micros: i64) -> bool {
        let at = &self.compared_at_micros;
        at.compare_exchange(compared_at, steady_micros, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Hands {
    /// Advances all three clocks by `millis` milliseconds. A negative number counts as 0.
    pub fn advance_millis(&self, millis: i64) {
        self.0.send_modify(|moment| {
            moment.steady += Duration::from_millis(u64::try_from(millis).unwrap_or(0));
            moment.wall = moment.wall.plus_millis(millis.max(0));
        });
    }

    /// Advances all three clocks by `seconds` seconds.
    pub fn advance_seconds(&self, seconds: u32) {
        self.advance_millis(i64::from(seconds) * 1000);
    }

    /// Steps the wall clock by `millis` milliseconds, back if that is negative. The steady clock does not move.
    pub fn step_wall_millis(&self, millis: i64) {
        self.0.send_modify(|moment| moment.wall = moment.wall.plus_millis(millis));
    }
}

#[expect(clippy::disallowed_methods, reason = "the only place that reads the monotonic clock")]
fn machine_steady() -> Duration {
    static FIRST_ASKED: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST_ASKED.elapsed()
}

#[expect(clippy::disallowed_methods, reason = "the only place that reads the wall clock")]
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
        fn session_time_advances_with_steady_time_however_the_wall_clock_is_stepped(events in events()) {
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

    #[test]
    fn session_time_never_goes_back_with_concurrent_readers() {
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
        // The clocks have advanced by 250 s, and session time was slewed back by 5 ms a second.
        let now_millis = clock.now().as_millis();
        assert!((248_749..=248_751).contains(&now_millis), "{now_millis}");
    }

    #[test]
    fn dates_follow_a_step_of_the_wall_clock_at_once() {
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
    fn shared_clock_follows_the_store() {
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
    fn slow_answer_moves_a_shared_clock_only_as_far_as_it_proves_it_wrong() {
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
    async fn shared_clock_notifies_of_a_step_and_not_of_the_first_reading() {
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
