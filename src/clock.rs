//! Time, as the rest of the program sees it. Nothing else asks the system for the time (`clippy.toml` sees to it), so
//! a test can hold it still and move it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::session::Timestamp;

/// Where the time comes from.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Shared(Arc<SharedTime>),
    Manual(watch::Receiver<Timestamp>),
}

/// The time of another, which all who work together go by. Between two readings of it, it is carried on by a timer
/// that nobody sets.
#[derive(Debug)]
struct SharedTime {
    since: Instant,
    /// What the other's clock showed then, as far as we know.
    started_at_millis: AtomicI64,
    is_known: AtomicBool,
}

/// Moves the time of the clock that [`Clock::manual`] gave with it.
#[derive(Debug)]
pub struct Hands(watch::Sender<Timestamp>);

impl Clock {
    /// The machine's own clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that follows another one, from the first time that [`Clock::follow`] tells how that stands; until then it
    /// shows what the machine's own does.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    pub fn shared() -> Self {
        let now = Self::system().now().as_millis();
        Self(Source::Shared(Arc::new(SharedTime {
            since: Instant::now(),
            started_at_millis: AtomicI64::new(now),
            is_known: AtomicBool::new(false),
        })))
    }

    /// The clock to be followed showed `shown` at some moment of the last `took`, which ends now. Moves only as far as it
    /// must to agree: a slow answer says little. A clock that follows none is not moved.
    pub fn follow(&self, shown: Timestamp, took: Duration) {
        let Source::Shared(time) = &self.0 else { return };
        let took_millis = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        let ours = self.now().as_millis();
        let (earliest, latest) = (shown.as_millis(), shown.plus_millis(took_millis).as_millis());
        let agreed = if time.is_known.swap(true, Ordering::Relaxed) {
            ours.clamp(earliest, latest)
        } else {
            earliest.midpoint(latest)
        };
        time.started_at_millis.fetch_add(agreed - ours, Ordering::Relaxed);
    }

    /// A clock that stands at `start` until its hands are moved.
    #[must_use]
    pub fn manual(start: Timestamp) -> (Self, Hands) {
        let (sender, receiver) = watch::channel(start);
        (Self(Source::Manual(receiver)), Hands(sender))
    }

    /// The present instant.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
            }
            Source::Shared(time) => {
                let passed = i64::try_from(time.since.elapsed().as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_millis(time.started_at_millis.load(Ordering::Relaxed)).plus_millis(passed)
            }
            Source::Manual(now) => *now.borrow(),
        }
    }

    /// Time that passes evenly, also when the clock is set; from any instant on.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
    pub fn steady(&self) -> Duration {
        static FIRST_ASKED: LazyLock<Instant> = LazyLock::new(Instant::now);
        match &self.0 {
            Source::System | Source::Shared(_) => FIRST_ASKED.elapsed(),
            Source::Manual(now) => Duration::from_millis(now.borrow().millis_since(Timestamp::from_millis(0))),
        }
    }

    /// Waits until the clock shows `instant` or later; never returns earlier, also when the machine's clock is set
    /// back meanwhile.
    #[expect(clippy::disallowed_methods, reason = "the one place that may sleep")]
    pub async fn sleep_until(&self, instant: Timestamp) {
        match &self.0 {
            Source::System | Source::Shared(_) => {
                // In bounded naps: a clock that is set forward is noticed within a second.
                while let left @ 1.. = instant.millis_since(self.now()) {
                    tokio::time::sleep(Duration::from_millis(left.min(1000))).await;
                }
            }
            Source::Manual(now) => {
                let moved = now.clone().wait_for(|now| *now >= instant).await.map(|_| ());
                if moved.is_err() {
                    // The hands are gone: this clock never moves again.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Waits for `seconds`.
    pub async fn sleep_seconds(&self, seconds: u32) {
        self.sleep_until(self.now().plus_seconds(seconds)).await;
    }

    /// Waits for `future`, for `seconds` at most; `None` if it took longer.
    pub async fn timeout<F: Future>(&self, seconds: u32, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.sleep_seconds(seconds) => None,
        }
    }
}

impl Hands {
    /// Moves the clock on by `millis`.
    pub fn advance_millis(&self, millis: i64) {
        self.0.send_modify(|now| *now = now.plus_millis(millis));
    }

    /// Moves the clock on by `seconds`.
    pub fn advance_seconds(&self, seconds: u32) {
        self.0.send_modify(|now| *now = now.plus_seconds(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_clock_goes_by_the_one_it_follows() {
        let clock = Clock::shared();
        let (hour_ahead, at_once) = (clock.now().plus_seconds(3600), Duration::ZERO);
        clock.follow(hour_ahead, at_once);
        assert!(clock.now().millis_since(hour_ahead) < 1000);
        let behind = hour_ahead.plus_millis(-5000);
        clock.follow(behind, at_once);
        assert!(clock.now().millis_since(behind) < 1000);
    }

    #[test]
    fn a_slow_answer_moves_it_only_as_far_as_it_must() {
        let clock = Clock::shared();
        let start = clock.now().plus_seconds(60);
        clock.follow(start, Duration::ZERO);
        clock.follow(start.plus_millis(-10_000), Duration::from_secs(20));
        assert!(clock.now().millis_since(start) < 1000);
        clock.follow(start.plus_millis(-10_000), Duration::from_secs(7));
        let moved = clock.now();
        assert!(moved < start && moved.millis_since(start.plus_millis(-3000)) < 1000);
    }
}
