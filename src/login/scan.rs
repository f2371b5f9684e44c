use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::{Client, Code, PhoneUser};

/// What the phone's owner is shown.
#[derive(Debug)]
pub struct Scan {
    /// Who is asking.
    pub client: Client,
    /// How long there is to decide.
    pub expires_in_seconds: u64,
}

impl Logins {
    /// A phone scans a code and learns who is asking; the browser is told.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn scan(self: &Arc<Self>, code: &Code, by: PhoneUser) -> Result<Scan, LoginError> {
        let found = self.find(code).await?;
        let session = self.change(found, move |session, now| session.scan(&by, now)).await?;
        let expires_in_seconds = session.expires_at.seconds_since(self.clock.now());
        Ok(Scan { client: session.client, expires_in_seconds })
    }
}
