use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::SessionKey;
use crate::store::SessionSelector;

impl Logins {
    /// Cancels a session for its browser. A phone that has scanned it gets
    /// [`Refusal::Cancelled`](crate::session::Refusal) when it decides.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn cancel(self: &Arc<Self>, key: SessionKey) -> Result<(), LoginError> {
        self.change(SessionSelector::Key(key), |session, now| session.cancel(now)).await.map(drop)
    }
}
