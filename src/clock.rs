//! Time, as the rest of the program sees it. Nothing else asks the system for the time (`clippy.toml` sees to it), so
//! a test can hold it still and move it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::session::Timestamp;

/// Where the time comes from.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(watch::Receiver<Timestamp>),
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
            Source::Manual(now) => *now.borrow(),
        }
    }

    /// Waits until the clock shows `instant` or later; never returns earlier, also when the machine's clock is set
    /// back meanwhile.
    #[expect(clippy::disallowed_methods, reason = "the one place that may sleep")]
    pub async fn sleep_until(&self, instant: Timestamp) {
        match &self.0 {
            Source::System => {
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
