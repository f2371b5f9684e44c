//! Rate limit for warnings of a repeating fault: at most one a minute, with the number of failures.

use std::time::Duration;

use parking_lot::Mutex;

/// Minimum time between two warnings of one fault.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Counts the failures of one kind, and decides when the next warning is due.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<FailureCount>);

#[derive(Debug, Default)]
struct FailureCount {
    /// Number of failures since the last warning.
    failures: u64,
    warned_at: Option<Duration>,
}

impl Warnings {
    /// Counts a failure at `now`, a reading of a monotonic clock. If a warning is due, returns the number of failures
    /// since the last warning, including this one.
    pub fn count(&self, now: Duration) -> Option<u64> {
        let mut counted = self.0.lock();
        counted.failures += 1;
        if counted.warned_at.is_some_and(|warned_at| now < warned_at + WARNING_INTERVAL) {
            return None;
        }
        counted.warned_at = Some(now);
        Some(std::mem::take(&mut counted.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_is_due_once_a_minute_with_the_number_of_failures() {
        let warnings = Warnings::default();
        let due = |seconds| warnings.count(Duration::from_secs(seconds));
        assert_eq!(due(7), Some(1));
        assert_eq!((due(8), due(66)), (None, None));
        assert_eq!(due(67), Some(3));
        assert_eq!(due(126), None);
        assert_eq!(due(1000), Some(2));
    }
}
