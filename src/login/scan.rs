use std::sync::Arc;

use super::{LoginError, Logins};
use crate::session::{Client, Code, PhoneUser, Refusal, Step, Timestamp};
use crate::store::SessionSelector;

/// The response to a scan, for the phone user.
#[derive(Debug)]
pub struct Scan {
    /// Browser that generated the session.
    pub client: Client,
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
        code: &Code,
        by: PhoneUser,
        is_safe: impl Fn(&Client) -> bool + Send + Sync + 'static,
    ) -> Result<Scan, LoginError> {
        let presented = self.verify_code(code).await?;
        let scanned = self.change(SessionSelector::Code(code.key()), move |session, now| {
            let step = session.scan(&by, presented, now)?;
            // A repeated scan changes nothing, and is answered as before.
            if matches!(step, Step::Repeated) || is_safe(&session.client) { Ok(step) } else { Err(Refusal::Risk) }
        });
        let session = scanned.await?;
        Ok(Scan {
            expires_in_seconds: session.expires_at.seconds_since(self.clock.now()),
            numbers: self.codes.numbers(&session.key),
            created_at: session.created_at,
            client: session.client.clone(),
        })
    }
}
