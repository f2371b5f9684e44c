use std::sync::Arc;

use super::{LoginError, Logins, ScannedCode};
use crate::session::{Client, OAuthRequest, PhoneUser, Refusal, Step, Timestamp};
use crate::store::SessionSelector;

/// The response to a scan, for the phone user.
#[derive(Debug)]
pub struct Scan {
    /// Browser that generated the session.
    pub client: Client,
    /// Request of the OAuth client that collects the result.
    pub request: Option<Box<OAuthRequest>>,
    /// Time at which the session was generated.
    pub created_at: Timestamp,
    /// Time until the session expires, in seconds.
    pub expires_in_seconds: u64,
    /// Numbers among which the user picks. `None` without number matching.
    pub numbers: Option<[String; 3]>,
}

impl Logins {
    /// Stores a scan, delivers it to the browser, and returns what the phone user is shown.
    ///
    /// `is_safe` is the risk policy. If it returns false for the browser, the scan is refused with [`Refusal::Risk`].
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn scan(
        self: &Arc<Self>,
        scanned: ScannedCode,
        by: PhoneUser,
        is_safe: impl Fn(&Client) -> bool + Send + Sync + 'static,
    ) -> Result<Scan, LoginError> {
        let presented = self.verify_code(&scanned.code).await?;
        let selector = SessionSelector::Code(scanned.code.key());
        let changed = self.change(selector, move |session, now| {
            let step = session.scan(&by, scanned.presented_to(session, presented), now)?;
            // A repeated scan changes nothing, and is answered as before.
            if matches!(step, Step::Repeated) || is_safe(&session.client) { Ok(step) } else { Err(Refusal::Risk) }
        });
        let session = changed.await?;
        Ok(Scan {
            expires_in_seconds: session.expires_at.seconds_since(self.clock.now()),
            numbers: self.codes.numbers(&session),
            created_at: session.created_at,
            client: session.client.clone(),
            request: session.request.clone(),
        })
    }
}
