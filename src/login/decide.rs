use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::{Code, Decision};
use crate::token::AppUser;

/// What the phone's owner says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Confirm,
    /// No.
    Reject,
}

impl Logins {
    /// The phone's owner decides; the browser is told, and on a yes given its token.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn decide(self: &Arc<Self>, code: &Code, by: AppUser, verdict: Verdict) -> Result<(), LoginError> {
        let found = self.find(code).await?;
        let logins = self.clone();
        self.change(found, move |session, now| {
            let decision = match verdict {
                Verdict::Confirm => Decision::Confirm {
                    grant: logins.minter.grant(&by, now),
                    claimable_until: now.plus_seconds(logins.policy.claim_seconds),
                },
                Verdict::Reject => Decision::Reject,
            };
            session.decide(&by.user, decision, now)
        })
        .await?;
        Ok(())
    }
}
