//! The time, as the rest of the program reads it. There are three clocks, for three purposes:
//!
//! - [`Clock::steady`] is monotonic. Use it to measure or wait for a duration.
//! - [`Clock::now`] is session time. Sessions begin, expire and are decided by it. After a step of the wall clock, it
//!   is slewed towards the wall clock by at most one part in 200 of the time that passes.
//! - [`Clock::wall`] is the date. Use it only for dates that leave the server, or that come from outside.
//!
//! `clippy.toml` bans other ways to read the time, so that tests can hold all three clocks still and move them.

mod session_time;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};

use crate::session::Timestamp;
use session_time::SessionTime;

/// Minimum correction of a shared clock that counts as a step, in milliseconds.
const STEP_MILLIS: u64 = 1000;

/// The three clocks of the server. Clones share their state.
#[derive(Debug, Clone)]
pub struct Clock(TimeSource);

#[derive(Debug, Clone)]
enum TimeSource {
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
        Self(TimeSource::System(Arc::new(SessionTime::starting(micros_of(machine_steady()), machine_wall_micros()))))
    }

    /// Returns a clock whose session time and date follow the clock of a shared store. Until the first call of
    /// [`Clock::follow`], they are those of this machine.
    #[must_use]
    pub fn shared() -> Self {
        let offset_millis = machine_wall_micros() / 1000 - millis_of(machine_steady());
        Self(TimeSource::Shared(Arc::new(SharedTime {
            offset_millis: AtomicI64::new(offset_millis),
            is_known: AtomicBool::new(false),
            stepped: Notify::new(),
        })))
    }

    /// Adjusts a shared clock to the store's clock, which showed `shown` at some instant within the last `took`.
    ///
    /// The first call sets the clock to the middle of the possible range. Later calls move it only as far as the
    /// reading proves it wrong, because a slow response leaves a wide range. Other clocks ignore the call.
    pub fn follow(&self, shown: Timestamp, took: Duration) {
        let TimeSource::Shared(time) = &self.0 else { return };
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
            TimeSource::Shared(time) => time.stepped.notified().await,
            TimeSource::System(_) | TimeSource::Manual(..) => std::future::pending().await,
        }
    }

    /// Returns a clock that stands at `start`, and the hands that move it.
    #[must_use]
    pub fn manual(start: Timestamp) -> (Self, Hands) {
        let moment = Moment { steady: Duration::ZERO, wall: start };
        let session = SessionTime::starting(0, start.as_millis() * 1000);
        let (sender, receiver) = watch::channel(moment);
        (Self(TimeSource::Manual(receiver, Arc::new(session))), Hands(sender))
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
            TimeSource::System(time) => time.at(micros_of(steady), machine_wall_micros),
            TimeSource::Shared(time) => {
                Timestamp::from_millis(time.offset_millis.load(Ordering::Relaxed)).plus_millis(millis_of(steady))
            }
            TimeSource::Manual(moment, time) => time.at(micros_of(steady), || moment.borrow().wall.as_millis() * 1000),
        };
        Reading { steady, session }
    }

    /// Returns the date: the wall clock of this machine. With a shared store it is the store's clock, so that all nodes
    /// give the same date.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            TimeSource::System(_) => Timestamp::from_millis(machine_wall_micros() / 1000),
            TimeSource::Shared(_) => self.now(),
            TimeSource::Manual(moment, _) => moment.borrow().wall,
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
            TimeSource::System(_) | TimeSource::Shared(_) => machine_steady(),
            TimeSource::Manual(moment, _) => moment.borrow().steady,
        }
    }

    /// Waits until [`Clock::steady`] is at least `instant`.
    #[expect(clippy::disallowed_methods, reason = "the only place that sleeps on the runtime's timer")]
    pub async fn sleep_until_steady(&self, instant: Duration) {
        match &self.0 {
            TimeSource::System(_) | TimeSource::Shared(_) => {
                tokio::time::sleep(instant.saturating_sub(self.steady())).await
            }
            TimeSource::Manual(moment, _) => {
                let moved = moment.clone().wait_for(|moment| moment.steady >= instant).await.map(|_| ());
                if moved.is_err() {
                    // The hands have been dropped, so the clock never moves again.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Waits until `duration` has passed.
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
    static FIRST_READING: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST_READING.elapsed()
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
