use zeroize::Zeroizing;

use super::Logins;
use crate::session::{Cancellation, PhoneUser, Session, State, Status, Timestamp};
use crate::token::MintError;

/// The state of a session, as it is delivered to the browser. It does not implement `Debug`, because it may hold a
/// token.
pub enum Told {
    /// No phone has scanned the code.
    Pending {
        /// Version of the session.
        version: u32,
        /// Time until the session expires, in seconds.
        expires_in_seconds: u64,
    },
    /// A phone has scanned the code.
    Scanned {
        /// Version of the session.
        version: u32,
        /// User of the phone.
        user: PhoneUser,
        /// Number that the browser shows. `None` without number matching.
        number: Option<String>,
    },
    /// The phone user has confirmed.
    Confirmed {
        /// The token, which is a secret.
        web_token: Zeroizing<String>,
        /// Time until the token expires, in seconds.
        expires_in_seconds: u64,
        /// User that confirmed.
        user: PhoneUser,
    },
    /// The browser has acknowledged the token before.
    Claimed,
    /// The phone user has rejected.
    Rejected,
    /// The session has expired.
    Expired,
    /// The browser or the server has cancelled the session.
    Cancelled(Cancellation),
}

impl Logins {
    /// Returns the state of a session at `now`, as it is delivered to the browser.
    ///
    /// # Errors
    /// The token cannot be minted.
    pub fn tell(&self, session: &Session, now: Timestamp) -> Result<Told, MintError> {
        let version = session.version;
        Ok(match (session.status(now), &session.state) {
            (Status::Scanned, State::Scanned(user)) => {
                Told::Scanned { version, user: user.clone(), number: self.codes.number(&session.key) }
            }
            (Status::Confirmed, State::Confirmed(confirmation)) => {
                let grant = &confirmation.grant;
                let lifetime_seconds = u64::try_from(grant.exp - grant.iat).unwrap_or(0);
                Told::Confirmed {
                    web_token: Zeroizing::new(self.minter.mint(grant)?),
                    expires_in_seconds: lifetime_seconds.saturating_sub(now.seconds_since(confirmation.decided_at)),
                    user: confirmation.by.clone(),
                }
            }
            (Status::Claimed, _) => Told::Claimed,
            (Status::Rejected, _) => Told::Rejected,
            (Status::Cancelled, State::Cancelled(by)) => Told::Cancelled(*by),
            (Status::Pending, _) => {
                Told::Pending { version, expires_in_seconds: session.expires_at.seconds_since(now) }
            }
            (Status::Expired | Status::Scanned | Status::Confirmed | Status::Cancelled, _) => Told::Expired,
        })
    }
}
