//! The machine's own clock, for tests that run several processes. A test cannot move the time of other processes.

use std::time::{Duration, Instant};

use qrlogin::internals::system::clock::Clock;

use crate::random;

/// Returns the current time, for durations of the machine's clock.
#[expect(clippy::disallowed_methods, reason = "the only place in the tests that reads the machine's clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Returns the milliseconds since the Unix epoch by the machine's wall clock.
pub fn wall_millis() -> i64 {
    Clock::system().wall().as_millis()
}

/// Returns the seconds since the Unix epoch by the machine's wall clock.
pub fn wall_seconds() -> i64 {
    Clock::system().wall().as_seconds()
}

/// Sleeps for this time.
#[expect(clippy::disallowed_methods, reason = "the only place in the tests that sleeps on the runtime")]
pub async fn sleep_millis(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Sleeps for a random time below `most_millis` milliseconds (full jitter).
pub async fn pause(most_millis: u32) {
    sleep_millis(random::below(most_millis).into()).await;
}

/// Maximum time of a wait, in seconds. It is well below the time that the runner gives to a test.
pub const WAIT_SECONDS: u64 = 30;

/// Waits for `future`. Panics after 30 seconds with the name of what it waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_seconds(WAIT_SECONDS, what, future).await
}

/// Like [`within`], with another maximum time.
#[expect(clippy::disallowed_methods, reason = "the only place in the tests that limits a time")]
pub async fn within_seconds<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    let limited = tokio::time::timeout(Duration::from_secs(seconds), future).await;
    limited.unwrap_or_else(|_| panic!("has not happened within {seconds} s: {what}"))
}

/// Waits until `holds` returns true. Panics after 30 seconds, so that a test fails instead of hanging.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(WAIT_SECONDS), "still not true after {WAIT_SECONDS} s: {what}");
        tokio::task::yield_now().await;
    }
}
