//! OpenID Connect and OAuth 2.0 for clients whose users log in by QR code: authorization codes (RFC 6749 §4.1 with PKCE,
//! RFC 7636), the device grant (RFC 8628), refresh tokens, and what belongs to them.
//!
//! A login of a client is a session like any other, with an [`OAuthRequest`](crate::session::OAuthRequest). Its tokens
//! are collected once, by the transition that acknowledges a `web_token` otherwise. An authorization code is the sealed
//! key of its session, and a device code is the session id, so neither is stored. What outlives the session is a record:
//!
//! - an [`Authorization`]: what a user has granted a client, which its tokens name as `sid`, with the number of its last
//!   refresh token, and whether that has been delivered
//! - a single sign-on session
//! - a user code, until its session expires
//! - the id of a used assertion

mod access;
mod authenticate;
mod authorization;
mod authorize;
mod browser;
mod clients;
mod code;
mod device;
mod error;
mod issue;
mod metadata;
mod pace;
mod parameters;
mod refresh;
mod refusals;
mod sso;
mod tokens;
mod user_code;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::config::Settings;
use crate::login::{Codes, LoginError, Logins};
use crate::session::{Session, SessionKey, Timestamp};
use crate::store::Store;
use crate::system::clock::Clock;
use crate::system::random;
use crate::token::{Minter, Sealer};

pub use authorization::Authorization;
pub use authorize::{Authorize, AuthorizeError, ErrorRedirect, PageError, Prompt};
pub use browser::BrowserCookie;
pub use clients::{Clients, ClientsError, OAuthClient, hash_secret};
pub use error::OAuthError;
pub use issue::{Deliveries, Issue};
pub use metadata::{AUTHORIZATION_SERVER_METADATA, OPENID_CONFIGURATION};
pub use parameters::{Parameters, ParametersFault};
pub use sso::{Sso, SsoCookie};
pub use tokens::Tokens;
pub use user_code::UserCode;

use pace::Pace;
use refusals::Refusals;

/// Maximum number of devices whose pace is remembered. Of more devices, the pace of those that have not polled for the
/// longest time is forgotten, so they may poll once too early.
const MAX_DEVICES: usize = 100_000;

/// Time for which a request is repeated while the store does not answer, in seconds. Most clients wait for 20 seconds or
/// more.
const REPEAT_SECONDS: u32 = 8;
/// Pause between two repetitions, in seconds.
const PAUSE_SECONDS: u32 = 1;

/// The use cases of OpenID Connect and OAuth.
pub struct OAuth {
    /// Registered clients.
    pub clients: Arc<Clients>,
    /// Issuer of all tokens: `public_url` without slashes at its end.
    pub issuer: String,
    /// Issues that this node is answering.
    pub deliveries: Arc<Deliveries>,
    logins: Arc<Logins>,
    codes: Arc<Codes>,
    store: Arc<dyn Store>,
    minter: Arc<Minter>,
    sealer: Arc<Sealer>,
    clock: Clock,
    lifetimes: Lifetimes,
    /// Paces of devices that poll.
    paces: Cache<SessionKey, Arc<Mutex<Pace>>>,
    /// Name of this node, which is another one after a restart.
    node: String,
    refusals: Refusals,
}

/// Lifetimes of tokens and records, in seconds.
#[derive(Debug, Clone, Copy)]
struct Lifetimes {
    access_seconds: u32,
    refresh_seconds: u32,
    id_token_seconds: u32,
    sso_seconds: u32,
    poll_interval_seconds: u32,
}

/// The parts from which [`OAuth`] is assembled.
pub struct OAuthParts {
    /// Registered clients.
    pub clients: Arc<Clients>,
    /// Use cases of a login.
    pub logins: Arc<Logins>,
    /// Codes of sessions.
    pub codes: Arc<Codes>,
    /// Store of sessions and records.
    pub store: Arc<dyn Store>,
    /// Minter that signs the tokens.
    pub minter: Arc<Minter>,
    /// Sealer of codes and refresh tokens.
    pub sealer: Arc<Sealer>,
    /// Source of time.
    pub clock: Clock,
}

impl OAuth {
    /// Assembles the use cases.
    #[must_use]
    pub fn new(settings: &Settings, parts: OAuthParts) -> Self {
        let OAuthParts { clients, logins, codes, store, minter, sealer, clock } = parts;
        let lifetimes = Lifetimes {
            access_seconds: settings.oauth.access_ttl_seconds,
            refresh_seconds: settings.oauth.refresh_ttl_seconds,
            id_token_seconds: settings.token.ttl_seconds,
            sso_seconds: settings.sso.ttl_seconds,
            poll_interval_seconds: settings.oauth.poll_interval_seconds,
        };
        Self {
            clients,
            issuer: settings.public_base().to_owned(),
            deliveries: Arc::default(),
            logins,
            codes,
            store,
            minter,
            sealer,
            clock,
            lifetimes,
            paces: Cache::new(MAX_DEVICES),
            node: URL_SAFE_NO_PAD.encode(random::bytes::<16>()),
            refusals: Refusals::default(),
        }
    }

    /// Returns whether single sign-on is on.
    #[must_use]
    pub const fn has_sso(&self) -> bool {
        self.lifetimes.sso_seconds > 0
    }

    /// Repeats a request while the store does not answer. Most clients would give up after an error.
    ///
    /// # Errors
    /// [`OAuthError::Unavailable`] if the store does not answer within [`REPEAT_SECONDS`], and the errors of the request.
    pub async fn repeated<T, F>(&self, request: impl Fn() -> F) -> Result<T, OAuthError>
    where
        F: Future<Output = Result<T, OAuthError>>,
    {
        let answered = async {
            loop {
                match request().await {
                    Err(OAuthError::Unavailable) => self.clock.sleep_seconds(PAUSE_SECONDS).await,
                    answer => return answer,
                }
            }
        };
        self.clock.timeout(REPEAT_SECONDS, answered).await.unwrap_or(Err(OAuthError::Unavailable))
    }

    /// Returns a session of an OAuth client and the time of the read.
    ///
    /// # Errors
    /// [`OAuthError::InvalidGrant`] if there is no such session, [`OAuthError::Unavailable`] if the store failed.
    pub async fn session(&self, key: SessionKey) -> Result<(Session, Timestamp), OAuthError> {
        let (session, now) = self.logins.current(key).await?;
        if session.request.is_some() { Ok((session, now)) } else { Err(LoginError::NotFound.into()) }
    }
}
