use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::SessionKey;

impl Logins {
    /// The browser gives up; a phone that is looking at the login learns so when it decides.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn cancel(self: &Arc<Self>, key: SessionKey) -> Result<(), LoginError> {
        let (found, _) = self.current(key).await?;
        self.change(found, |session, now| session.cancel(now)).await?;
        Ok(())
    }
}
