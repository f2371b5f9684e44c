use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::{Client, Code, PhoneUser, Refusal, Timestamp};
use crate::store::Which;

/// What the phone's owner is shown.
#[derive(Debug)]
pub struct Scan {
    /// Who is asking.
    pub client: Client,
    /// When it asked.
    pub asked_at: Timestamp,
    /// How long there is to decide.
    pub expires_in_seconds: u64,
    /// The numbers of which one must be picked, if they are compared.
    pub numbers: Option<[String; 3]>,
}

impl Logins {
    /// A phone scans a code and learns who is asking, if that `is_safe`; the browser is told.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn scan(
        self: &Arc<Self>,
        code: &Code,
        by: PhoneUser,
        is_safe: impl Fn(&Client) -> bool + Send + Sync + 'static,
    ) -> Result<Scan, LoginError> {
        let presented = self.presented(code).await?;
        let scanned = self.change(Which::Code(code.key()), move |session, now| {
            if is_safe(&session.client) { session.scan(&by, presented, now) } else { Err(Refusal::Risk) }
        });
        let session = scanned.await?;
        Ok(Scan {
            expires_in_seconds: session.expires_at.seconds_since(self.clock.now()),
            numbers: self.codes.choice(&session.key),
            asked_at: session.created_at,
            client: session.client.clone(),
        })
    }
}
