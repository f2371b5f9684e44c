use tracing::debug;

use super::{LoginError, Logins};
use crate::metrics::Outcome;
use crate::store::Ended;

/// Time for which the row of an ended session is kept, in seconds, so that a late request still gets the outcome.
const KEEP_SECONDS: u32 = 600;
/// Maximum number of rows per delete. It keeps each delete short, because decisions wait for it.
const BATCH: u32 = 500;

impl Logins {
    /// Deletes the rows of sessions that ended at least ten minutes ago, and then those of records that have ended, in
    /// batches.
    ///
    /// # Errors
    /// The store failed. Batches that were deleted before stay deleted.
    pub async fn sweep(&self) -> Result<(), LoginError> {
        self.sweep_sessions().await?;
        self.sweep_records().await
    }

    async fn sweep_sessions(&self) -> Result<(), LoginError> {
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

    async fn sweep_records(&self) -> Result<(), LoginError> {
        let now = self.clock.now();
        loop {
            let swept = self.store.sweep_records(now, BATCH).await?;
            debug!(event = "records swept", records = swept);
            if swept < BATCH {
                return Ok(());
            }
        }
    }
}
