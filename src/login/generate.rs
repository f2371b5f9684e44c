use std::sync::Arc;

use super::{LoginError, Logins};
use crate::random;
use crate::session::{Client, Session, SessionId, State};

/// A new session, with the secret that only the browser is given.
#[derive(Debug)]
pub struct Generated {
    /// The browser's secret.
    pub id: SessionId,
    /// The session as it is stored.
    pub session: Session,
}

impl Logins {
    /// A browser asks for a code.
    ///
    /// # Errors
    /// The store failed.
    pub async fn generate(self: &Arc<Self>, client: Client) -> Result<Generated, LoginError> {
        let id = SessionId::from_random(random::bytes());
        let now = self.clock.now();
        let session = Session {
            key: id.key(),
            code: id.key().code_key(),
            version: 1,
            created_at: now,
            expires_at: now.plus_seconds(self.policy.ttl_seconds),
            client,
            scanned_at: None,
            state: State::Pending,
        };
        self.store.insert(&session).await?;
        self.note(&session);
        self.make_room_after(session.created_at).await?;
        Ok(Generated { id, session })
    }
}
