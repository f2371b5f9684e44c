use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::SessionKey;
use crate::store::Which;

impl Logins {
    /// The browser's receipt: it has its token, which is not given again.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn claim(self: &Arc<Self>, key: SessionKey) -> Result<(), LoginError> {
        self.change(Which::Key(key), |session, now| session.claim(now)).await.map(drop)
    }
}
