//! Single sign-on in one browser: a login of a client lets the same user log in to another client without a scan.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::clients::sha256;
use super::{OAuth, OAuthError};
use crate::session::{PhoneUser, Session, SessionKey, State};
use crate::store::{Record, RecordId};
use crate::system::random;
use crate::token::{AppUser, Kept};

/// The cookie of a single sign-on session: its secret, of which the store has the hash.
#[derive(Serialize, Deserialize)]
pub struct SsoCookie {
    secret: String,
}

impl Kept for SsoCookie {
    const PURPOSE: &'static str = "sso";
    /// The record ends earlier.
    const SECONDS: u32 = 30 * 86_400;
}

/// A single sign-on session: the user of the login that began it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sso {
    /// Id of the user.
    pub sub: String,
    name: Option<String>,
    picture: Option<String>,
    claims: Map<String, Value>,
    /// Time of the login, in seconds since the Unix epoch.
    pub auth_time: i64,
}

impl SsoCookie {
    fn id(&self) -> RecordId {
        RecordId(sha256(format!("single sign-on {}", self.secret).as_bytes()))
    }
}

impl OAuth {
    /// Begins a single sign-on session for the user of a confirmed session.
    ///
    /// # Errors
    /// [`OAuthError::Unavailable`] if the store failed.
    pub async fn begin_sso(&self, session: &Session) -> Result<Option<SsoCookie>, OAuthError> {
        let State::Confirmed(confirmation) = &session.state else { return Ok(None) };
        if !self.has_sso() {
            return Ok(None);
        }
        let sso = Sso {
            sub: confirmation.by.id.clone(),
            name: confirmation.by.name.clone(),
            picture: confirmation.by.picture.clone(),
            claims: confirmation.grant.claims.clone(),
            auth_time: confirmation.grant.iat,
        };
        let cookie = SsoCookie { secret: URL_SAFE_NO_PAD.encode(random::bytes::<32>()) };
        let record = Record {
            id: cookie.id(),
            version: 1,
            expires_at: self.clock.now().plus_seconds(self.lifetimes.sso_seconds),
            data: serde_json::to_string(&sso).unwrap_or_default(),
        };
        self.store.insert_record(&record).await?;
        Ok(Some(cookie))
    }

    /// Returns the single sign-on session of a cookie, if it has not ended.
    ///
    /// # Errors
    /// [`OAuthError::Unavailable`] if the store failed.
    pub async fn sso(&self, cookie: &SsoCookie) -> Result<Option<Sso>, OAuthError> {
        if !self.has_sso() {
            return Ok(None);
        }
        let now = self.clock.now();
        let record = self.store.read_record(&cookie.id()).await?.filter(|record| now < record.expires_at);
        Ok(record.and_then(|record| serde_json::from_str(&record.data).ok()))
    }

    /// Ends the single sign-on session of a cookie.
    ///
    /// # Errors
    /// [`OAuthError::Unavailable`] if the store failed.
    pub async fn end_sso(&self, cookie: &SsoCookie) -> Result<(), OAuthError> {
        Ok(self.store.delete_record(&cookie.id()).await.map(drop)?)
    }

    /// Confirms a new session for the user of a single sign-on session. Returns the session.
    ///
    /// # Errors
    /// [`OAuthError::Unavailable`] if the store failed.
    pub async fn confirm_by_sso(&self, key: SessionKey, sso: Sso) -> Result<Session, OAuthError> {
        let Sso { sub, name, picture, claims, auth_time } = sso;
        let user = AppUser { user: PhoneUser { id: sub, name, picture }, claims };
        let confirmed = self.logins.confirm_known(key, user, auth_time).await?;
        Ok((*confirmed).clone())
    }
}
