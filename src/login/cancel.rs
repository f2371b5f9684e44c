use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::SessionKey;
use crate::store::Which;

impl Logins {
    /// The browser gives up; a phone that is looking at the login learns so when it decides.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn cancel(self: &Arc<Self>, key: SessionKey) -> Result<(), LoginError> {
        self.change(Which::Key(key), |session, now| session.cancel(now)).await.map(drop)
    }
}
