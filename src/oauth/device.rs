//! The device grant (RFC 8628): a device shows a code, polls, and collects its tokens when the user has confirmed.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{OAuth, OAuthClient, OAuthError, Pace, Parameters, Tokens, UserCode};
use crate::config::{GrantType, OFFLINE_ACCESS};
use crate::login::LoginError;
use crate::session::{Cancellation, Client, OAuthRequest, Session, SessionId, SessionKey, State, Status, Timestamp};
use crate::store::{Record, RecordId};
use crate::wire::types::{CodeView, WEBSOCKET_PATH};

/// Maximum number of random user codes that are tried until one is free.
const MAX_ATTEMPTS: usize = 5;

/// The response of the device authorization endpoint (RFC 8628 §3.2), with `ws_uri`.
#[derive(Serialize)]
pub struct DeviceAuthorization {
    device_code: Zeroizing<String>,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: String,
    expires_in: u64,
    interval: u32,
    /// WebSocket on which the device is told when to collect, so that it need not poll.
    ws_uri: Zeroizing<String>,
}

impl OAuth {
    /// Begins a login of a device. `browser` describes the device to the approver.
    ///
    /// # Errors
    /// See [`OAuthError`].
    pub async fn begin_device(
        &self,
        client: &OAuthClient,
        parameters: &Parameters,
        browser: Client,
    ) -> Result<DeviceAuthorization, OAuthError> {
        if !client.settings.may_use(GrantType::DeviceCode) {
            return Err(OAuthError::UnauthorizedClient);
        }
        let scopes = self.scopes(client, parameters.get("scope"))?;
        let request = OAuthRequest { client_id: client.settings.id.clone(), scopes, redirect: None };
        let generated = self.logins.generate_for(browser, Some(request)).await?;
        let session = &generated.session;
        let user_code = self.user_code_for(session).await?;
        let code = self.codes.current(session, session.created_at).map_err(|_| OAuthError::Internal)?;
        let session_id = generated.id.expose();
        // `http` becomes `ws`, and `https` becomes `wss`.
        let ws_base = self.issuer.replacen("http", "ws", 1);
        Ok(DeviceAuthorization {
            ws_uri: Zeroizing::new(format!("{ws_base}{WEBSOCKET_PATH}/{}", *session_id)),
            device_code: session_id,
            user_code: user_code.to_string(),
            verification_uri: format!("{}/device", self.issuer),
            verification_uri_complete: code.qr_url,
            expires_in: session.expires_at.seconds_since(session.created_at),
            interval: self.lifetimes.poll_interval_seconds,
        })
    }

    /// Returns the scopes of a request. A request that names none has those of the client that need no consent of their
    /// own.
    ///
    /// # Errors
    /// [`OAuthError::InvalidScope`] if the client may have none of the scopes.
    pub(super) fn scopes(&self, client: &OAuthClient, requested: Option<&str>) -> Result<Vec<String>, OAuthError> {
        let scopes = match requested {
            Some(requested) => client.scopes_of(requested),
            None => client.settings.scopes.iter().filter(|scope| *scope != OFFLINE_ACCESS).cloned().collect(),
        };
        if scopes.is_empty() {
            Err(OAuthError::InvalidScope("the client may have none of these scopes"))
        } else {
            Ok(scopes)
        }
    }

    async fn user_code_for(&self, session: &Session) -> Result<UserCode, OAuthError> {
        for _ in 0..MAX_ATTEMPTS {
            let user_code = UserCode::random();
            let record = Record {
                id: self.user_code_id(&user_code),
                version: 1,
                expires_at: session.expires_at,
                data: serde_json::to_string(&session.key).unwrap_or_default(),
            };
            if self.store.insert_record(&record).await? {
                return Ok(user_code);
            }
        }
        Err(OAuthError::Unavailable)
    }

    fn user_code_id(&self, user_code: &UserCode) -> RecordId {
        RecordId(self.codes.secret.user_code_hash(user_code.letters()))
    }

    /// Returns the QR code of the device that shows this user code. Returns `None` if there is no such
    /// device, or its session has ended.
    ///
    /// # Errors
    /// [`OAuthError::Unavailable`] if the store failed.
    pub async fn device_code(&self, user_code: &UserCode) -> Result<Option<CodeView>, OAuthError> {
        let Some(record) = self.store.read_record(&self.user_code_id(user_code)).await? else { return Ok(None) };
        let Ok(key) = serde_json::from_str(&record.data) else { return Ok(None) };
        let (session, now) = match self.logins.current(key).await {
            Ok(found) => found,
            Err(LoginError::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let is_open = matches!(session.status(now), Status::Pending | Status::Scanned);
        Ok(if is_open { self.codes.current(&session, now).ok() } else { None })
    }

    /// Answers a poll of a device (RFC 8628 §3.4, §3.5).
    ///
    /// # Errors
    /// See [`OAuthError`].
    pub async fn poll_device(&self, client: &OAuthClient, parameters: &Parameters) -> Result<Tokens, OAuthError> {
        if !client.settings.may_use(GrantType::DeviceCode) {
            return Err(OAuthError::UnauthorizedClient);
        }
        let unknown = OAuthError::InvalidGrant("the device code is unknown, used or expired");
        let Some(id) = SessionId::parse(parameters.need("device_code")?) else { return Err(unknown) };
        match self.collect_for_device(client, id.key()).await {
            Ok(Some(tokens)) => Ok(tokens),
            Ok(None) => Err(unknown),
            // The device polls again, and then finds what is stored. Most clients would give up after another error.
            Err(OAuthError::Unavailable) => Err(OAuthError::AuthorizationPending),
            Err(error) => Err(error),
        }
    }

    async fn collect_for_device(&self, client: &OAuthClient, key: SessionKey) -> Result<Option<Tokens>, OAuthError> {
        let (session, now) = self.session(key).await?;
        let is_of_client =
            |request: &OAuthRequest| request.client_id == client.settings.id && request.redirect.is_none();
        if !session.request.as_deref().is_some_and(is_of_client) {
            return Ok(None);
        }
        self.refuse_undecided(&session, now)?;
        let Some(issue) = self.collect(&session, now).await? else { return Ok(None) };
        let scopes = issue.stored.authorization.scopes.clone();
        self.tokens(client, issue, &scopes, None).map(Some)
    }

    fn refuse_undecided(&self, session: &Session, now: Timestamp) -> Result<(), OAuthError> {
        match session.status(now) {
            Status::Confirmed | Status::Claimed => Ok(()),
            Status::Expired => Err(OAuthError::ExpiredToken),
            Status::Cancelled if matches!(session.state, State::Cancelled(Cancellation::Overload)) => {
                Err(OAuthError::ExpiredToken)
            }
            Status::Rejected | Status::Cancelled => Err(OAuthError::AccessDenied),
            Status::Pending | Status::Scanned => {
                let new = || Ok::<_, OAuthError>(Arc::new(Mutex::new(Pace::new(self.lifetimes.poll_interval_seconds))));
                let pace = self.paces.get_or_insert_with(&session.key, new)?;
                let polled = pace.lock().poll(self.clock.steady());
                polled.map_err(OAuthError::SlowDown)?;
                Err(OAuthError::AuthorizationPending)
            }
        }
    }
}
