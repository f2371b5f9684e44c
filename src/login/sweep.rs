use tracing::debug;

use super::{LoginError, Logins};
use crate::metrics::Outcome;
use crate::store::Ended;

/// How long the row of an ended session is kept, so that whoever comes late is told how it ended.
const KEEP_SECONDS: u32 = 600;
/// Rows deleted in one go; few enough that a decision behind it does not notice.
const BATCH: u32 = 500;

impl Logins {
    /// Deletes the rows of sessions that ended long ago, in batches.
    ///
    /// # Errors
    /// The store failed; what was deleted before stays deleted.
    pub async fn sweep(&self) -> Result<(), LoginError> {
        let kept_millis = 1000 * (i64::from(self.policy.claim_seconds) + i64::from(KEEP_SECONDS));
        let expired_before = self.clock.now().plus_millis(-kept_millis);
        loop {
            let batch = self.store.sweep(expired_before, BATCH).await?;
            for ended in &batch {
                match ended {
                    Ended::Expired => self.metrics.session_ended(Outcome::Expired),
                    Ended::Unclaimed => self.metrics.session_ended(Outcome::Unclaimed),
                    Ended::Settled => {}
                }
            }
            debug!(event = "swept", sessions = batch.len());
            if batch.len() < BATCH as usize {
                return Ok(());
            }
        }
    }
}
