use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::{Client, OAuthRequest, Session, SessionId, State};
use crate::system::random;

/// A new session and its session id.
#[derive(Debug)]
pub struct NewSession {
    /// Session id. Only the browser is given it.
    pub id: SessionId,
    /// Session, as it was stored.
    pub session: Session,
}

impl Logins {
    /// Makes a session for a browser and stores it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn generate(self: &Arc<Self>, client: Client) -> Result<NewSession, LoginError> {
        self.generate_for(client, None).await
    }

    /// Makes a session for a browser or a device, whose result the OAuth client of `request` collects, and stores it.
    ///
    /// # Errors
    /// The store failed.
    pub async fn generate_for(
        self: &Arc<Self>,
        client: Client,
        request: Option<OAuthRequest>,
    ) -> Result<NewSession, LoginError> {
        let id = SessionId::from_random(random::bytes());
        let now = self.clock.now();
        let session = Session {
            key: id.key(),
            code: id.key().code_key(),
            version: 1,
            created_at: now,
            expires_at: now.plus_seconds(self.policy.ttl_seconds),
            client,
            request: request.map(Box::new),
            scanned_at: None,
            state: State::Pending,
        };
        self.store.insert(&session).await?;
        self.record(&session);
        self.cancel_excess(session.created_at).await?;
        Ok(NewSession { id, session })
    }
}
