use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::SessionKey;

impl Logins {
    /// The browser's receipt: it has its token, which is not given again.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn claim(self: &Arc<Self>, key: SessionKey) -> Result<(), LoginError> {
        let found = self.store.read(&[key]).await?.pop().ok_or(LoginError::NotFound)?;
        self.change(found, |session, now| session.claim(now)).await?;
        Ok(())
    }
}
