use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::{Session, SessionKey};
use crate::store::SessionSelector;

impl Logins {
    /// Stores the acknowledgement of the browser. After that the token is not delivered again.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn acknowledge(self: &Arc<Self>, key: SessionKey) -> Result<(), LoginError> {
        self.change(SessionSelector::Key(key), |session, now| session.acknowledge(now)).await.map(drop)
    }

    /// Stores that the OAuth client has collected its tokens, which is possible once.
    ///
    /// # Errors
    /// [`Refusal::AlreadyDecided`](crate::session::Refusal::AlreadyDecided) if they were collected before, otherwise see
    /// [`LoginError`].
    pub async fn collect(self: &Arc<Self>, key: SessionKey) -> Result<Arc<Session>, LoginError> {
        self.change(SessionSelector::Key(key), |session, now| session.collect(now)).await
    }
}
