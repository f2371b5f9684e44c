use zeroize::Zeroizing;

use super::Logins;
use crate::session::{Cancellation, PhoneUser, Session, State, Status, Timestamp};
use crate::token::MintError;

/// What a browser is told of its session. Not to be printed: it may hold a token.
pub enum Told {
    /// Waiting for a phone.
    Pending {
        /// The session's version.
        version: u32,
        /// Until expiry.
        expires_in_seconds: u64,
    },
    /// A phone is looking at it.
    Scanned {
        /// The session's version.
        version: u32,
        /// Whose.
        user: PhoneUser,
        /// What the phone's owner must pick, if numbers are compared.
        number: Option<String>,
    },
    /// Logged in.
    Confirmed {
        /// The token; a secret.
        web_token: Zeroizing<String>,
        /// Until the token's end.
        expires_in_seconds: u64,
        /// Who.
        user: PhoneUser,
    },
    /// Logged in, and the token was received before.
    Claimed,
    /// The phone's owner said no.
    Rejected,
    /// Out of time.
    Expired,
    /// It was given up.
    Cancelled(Cancellation),
}

impl Logins {
    /// What the browser of this session is told at `now`.
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
