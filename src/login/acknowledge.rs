use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::SessionKey;
use crate::store::SessionSelector;

impl Logins {
    /// Stores the acknowledgement of the browser. After that the token is not delivered again.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn acknowledge(self: &Arc<Self>, key: SessionKey) -> Result<(), LoginError> {
        self.change(SessionSelector::Key(key), |session, now| session.acknowledge(now)).await.map(drop)
    }
}
