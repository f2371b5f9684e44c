//! The machine's own time, for tests of several processes: nobody moves that for all of them.

use std::time::{Duration, Instant};

use qrlogin::random;

#[expect(clippy::disallowed_methods, reason = "the one place of the tests that may ask")]
pub fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the one place of the tests that may sleep")]
pub async fn sleep_millis(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Full jitter.
pub async fn pause(most_millis: u32) {
    sleep_millis(random::below(most_millis).into()).await;
}

/// Until this holds, for half a minute at most: a test that waits for what never comes fails, and does not hang.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(30), "not after 30 s: {what}");
        tokio::task::yield_now().await;
    }
}
