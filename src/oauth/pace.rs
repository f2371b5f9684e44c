use std::time::Duration;

/// Seconds by which the interval grows with each poll that comes too early (RFC 8628 §3.5).
const SLOWER_SECONDS: u32 = 5;
/// Time by which a poll may come too early, because the network delays polls by different times.
const LEEWAY: Duration = Duration::from_secs(1);

/// The pace at which a device polls.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Minimum time between two polls, in seconds.
    interval_seconds: u32,
    /// Steady time of the last poll.
    last: Option<Duration>,
}

impl Pace {
    /// Returns the pace of a device that has not polled.
    #[must_use]
    pub const fn new(interval_seconds: u32) -> Self {
        Self { interval_seconds, last: None }
    }

    /// Counts a poll at the steady time `now`.
    ///
    /// # Errors
    /// Returns the new interval, in seconds, if the poll came before the interval since the last one had passed.
    pub fn poll(&mut self, now: Duration) -> Result<(), u32> {
        let earliest = self.last.map(|last| last + Duration::from_secs(self.interval_seconds.into()));
        self.last = Some(now);
        if earliest.is_some_and(|earliest| now + LEEWAY < earliest) {
            self.interval_seconds = self.interval_seconds.saturating_add(SLOWER_SECONDS);
            return Err(self.interval_seconds);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Pauses are at most two minutes, and a delay is the time that a poll takes to the server.
        #[test]
        fn poller_that_keeps_to_the_interval_is_never_slowed_down(
            first in 1..=60_u32,
            polls in prop::collection::vec((0..120_000_u64, 0..1000_u64), 1..40),
        ) {
            let mut pace = Pace::new(first);
            let mut sent = Duration::ZERO;
            for (extra_millis, delay_millis) in polls {
                sent += Duration::from_secs(first.into()) + Duration::from_millis(extra_millis);
                prop_assert_eq!(pace.poll(sent + Duration::from_millis(delay_millis)), Ok(()));
            }
        }

        /// A poller is random until it is told to slow down, and then keeps to the interval that it was told.
        #[test]
        fn each_early_poll_adds_five_seconds_and_no_other_one(
            first in 1..=60_u32,
            pauses in prop::collection::vec(0..150_000_u64, 1..60),
        ) {
            let mut pace = Pace::new(first);
            let (mut now, mut interval) = (Duration::from_secs(1), first);
            prop_assert_eq!(pace.poll(now), Ok(()));
            for pause_millis in pauses {
                let pause = Duration::from_millis(pause_millis);
                now += pause;
                let is_early = pause + LEEWAY < Duration::from_secs(interval.into());
                if is_early {
                    interval += SLOWER_SECONDS;
                    prop_assert_eq!(pace.poll(now), Err(interval));
                    now += Duration::from_secs(interval.into());
                }
                prop_assert_eq!(pace.poll(now), Ok(()));
                if !is_early {
                    now += Duration::from_secs(interval.into());
                    prop_assert_eq!(pace.poll(now), Ok(()));
                }
            }
        }
    }
}
