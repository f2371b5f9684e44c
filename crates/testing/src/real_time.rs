//! The machine's own clock, for tests that run several processes. A test cannot move the time of other processes.

use std::time::{Duration, Instant};

use qrlogin::internals::system::random;

#[expect(clippy::disallowed_methods, reason = "the only place in the tests that reads the machine's clock")]
pub fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the only place in the tests that sleeps")]
pub async fn sleep_millis(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Sleeps for a random time below `most_millis` milliseconds (full jitter).
pub async fn pause(most_millis: u32) {
    sleep_millis(random::below(most_millis).into()).await;
}

/// Waits until `holds` returns true. Panics after 30 seconds, so that a test fails instead of hanging.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(30), "still not true after 30 s: {what}");
        tokio::task::yield_now().await;
    }
}
