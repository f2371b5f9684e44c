//! The OpenID provider of the demo, at which a user chooses who they are, without a password. Its only client is the
//! demo's approve page. It implements the authorization code flow (OpenID Connect Core 1.0 §3.1) with PKCE (RFC 7636)
//! and RP-Initiated Logout 1.0.

use std::collections::VecDeque;

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value, json};
use url::{Url, form_urlencoded};

use super::{DemoUser, USERS};
use crate::config::{Secret, Settings};
use crate::session::Timestamp;
use crate::system::random;
use crate::token::sign_app_token;

/// Path of the issuer.
pub const PROVIDER_PATH: &str = "/demo/provider";

/// Time for which an authorization code can be exchanged, in seconds.
const CODE_SECONDS: u32 = 60;
/// Time from the login to the expiry of its ID token, in seconds.
const TOKEN_SECONDS: u32 = 600;
/// Maximum number of authorization codes that are kept. A new code then replaces the oldest one.
const MAX_CODES: usize = 1000;
/// Number of characters of a base64url-encoded SHA-256.
const CHALLENGE_CHARS: usize = 43;

/// State of the provider.
pub struct DemoProvider {
    issuer: String,
    /// `public_url` without slashes at its end. Browsers reach the provider under it.
    public_base: String,
    /// Origin of the pages of the provider.
    origin: String,
    client_id: String,
    client_secret: Secret,
    /// Codes that have not been exchanged yet, the oldest one first.
    codes: Mutex<VecDeque<IssuedCode>>,
}

/// A code, and what the token endpoint must know of the request for it.
struct IssuedCode {
    code: String,
    user: DemoUser,
    request: AuthorizationRequest,
    issued_at: Timestamp,
}

/// An authorization request that has been checked.
#[derive(Debug)]
pub struct AuthorizationRequest {
    state: Option<String>,
    nonce: Option<String>,
    challenge: String,
}

/// The reason for which an authorization request is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum AuthorizationError {
    /// The client or its redirect URI is not registered, so the user is not sent back (RFC 6749 §4.1.2.1).
    Client(&'static str),
    /// The user is sent back to this URL, which has the error.
    Sent(String),
}

/// An error of the token endpoint (RFC 6749 §5.2).
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct TokenError {
    /// Code of the error.
    pub error: &'static str,
    /// Reason, for a developer.
    pub error_description: &'static str,
}

/// What follows a request to the logout endpoint.
#[derive(Debug, PartialEq, Eq)]
pub enum Logout {
    /// The user is sent to this URL.
    Back(String),
    /// The user stays at the provider.
    Stay,
    /// The request is not valid.
    Refused(&'static str),
}

impl DemoProvider {
    /// Returns the provider that the settings name as `approve.issuer`, with their client as its client.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            issuer: settings.approve.issuer.clone(),
            public_base: settings.public_base().to_owned(),
            origin: settings.public_origin().unwrap_or_default(),
            client_id: settings.approve.client_id.clone(),
            client_secret: settings.approve.client_secret.clone(),
            codes: Mutex::default(),
        }
    }

    /// Returns the origin of the pages of the provider.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the metadata (OpenID Connect Discovery 1.0 §3). Browsers reach the provider by `public_url`, from
    /// another machine too, and the server reaches it by the issuer.
    #[must_use]
    pub fn metadata(&self) -> Value {
        let (issuer, public) = (&self.issuer, format!("{}{PROVIDER_PATH}", self.public_base));
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{public}/authorize"),
            "end_session_endpoint": format!("{public}/logout"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks.json"),
            "scopes_supported": ["openid", "profile"],
            "claims_supported": ["iss", "aud", "sub", "name", "iat", "exp", "nonce", "auth_time"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["HS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true,
            "request_uri_parameter_supported": false,
        })
    }

    /// Checks an authorization request, which is the query of a URL.
    ///
    /// # Errors
    /// Returns an error if the request is not one of the approve page, or if the provider does not support it.
    pub fn authorization_request(&self, query: &str) -> Result<AuthorizationRequest, AuthorizationError> {
        let parameters = Parameters::parse(query.as_bytes());
        if parameters.one("client_id") != Some(&*self.client_id) {
            return Err(AuthorizationError::Client("unknown client_id"));
        }
        if parameters.one("redirect_uri") != Some(&*self.redirect_uri()) {
            return Err(AuthorizationError::Client("redirect_uri is not that of the client"));
        }
        let state = parameters.one("state").map(ToOwned::to_owned);
        match checked(&parameters) {
            Ok(challenge) => {
                let (nonce, challenge) = (parameters.one("nonce").map(ToOwned::to_owned), challenge.to_owned());
                Ok(AuthorizationRequest { state, nonce, challenge })
            }
            Err((error, reason)) => {
                let response = [("error", error), ("error_description", reason)];
                Err(AuthorizationError::Sent(self.authorization_response(&response, state.as_deref())))
            }
        }
    }

    /// Issues a code for the user with this id. Returns the URL to which the user is sent back, or `None` if there is no
    /// such user.
    #[must_use]
    pub fn log_in(&self, request: AuthorizationRequest, user: &str, now: Timestamp) -> Option<String> {
        let user = USERS.into_iter().find(|known| known.id == user)?;
        let code = URL_SAFE_NO_PAD.encode(random::bytes::<32>());
        let url = self.authorization_response(&[("code", &code)], request.state.as_deref());
        let mut codes = self.codes.lock();
        codes.retain(|issued| issued.is_valid(now));
        if codes.len() == MAX_CODES {
            codes.pop_front();
        }
        codes.push_back(IssuedCode { code, user, request, issued_at: now });
        Some(url)
    }

    /// Returns the URL to which a user who does not log in is sent back.
    #[must_use]
    pub fn cancel(&self, request: &AuthorizationRequest) -> String {
        self.authorization_response(&[("error", "access_denied")], request.state.as_deref())
    }

    /// Exchanges a code for an ID token (OpenID Connect Core 1.0 §3.1.3). `authorization` is the header field of this
    /// name, `body` is a form. A code is used up by the first request that names it. `now` is session time, `date` the
    /// wall clock.
    ///
    /// # Errors
    /// Returns an error if the client does not authenticate, or if the code is not valid for the request.
    pub fn exchange(
        &self,
        authorization: Option<&str>,
        body: &[u8],
        now: Timestamp,
        date: Timestamp,
    ) -> Result<Value, TokenError> {
        let parameters = Parameters::parse(body);
        if parameters.has_repeated() {
            return Err(TokenError::new("invalid_request", "a parameter is repeated"));
        }
        self.authenticate(authorization, &parameters)?;
        match parameters.one("grant_type") {
            Some("authorization_code") => {}
            Some(_) => return Err(TokenError::new("unsupported_grant_type", "grant_type is not authorization_code")),
            None => return Err(TokenError::new("invalid_request", "grant_type is missing")),
        }
        let code = parameters.one("code").ok_or_else(|| TokenError::new("invalid_request", "code is missing"))?;
        let issued = self.take(code).filter(|issued| issued.is_valid(now));
        let issued = issued.ok_or_else(|| TokenError::new("invalid_grant", "the code is unknown, used or expired"))?;
        if parameters.one("redirect_uri") != Some(&*self.redirect_uri()) {
            return Err(TokenError::new("invalid_grant", "redirect_uri is not that of the authorization request"));
        }
        let verifier = parameters.one("code_verifier").unwrap_or_default();
        let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
        if challenge != issued.request.challenge {
            return Err(TokenError::new("invalid_grant", "code_verifier does not match the code_challenge"));
        }
        let id_token = self.id_token(&issued, now, date);
        let id_token = id_token.ok_or_else(|| TokenError::new("server_error", "the token cannot be signed"))?;
        let access_token = URL_SAFE_NO_PAD.encode(random::bytes::<32>());
        Ok(json!({
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": TOKEN_SECONDS,
            "scope": "openid profile",
            "id_token": id_token,
        }))
    }

    /// Returns what follows a logout request, which is the query of a URL. The provider has no sessions to end.
    #[must_use]
    pub fn log_out(&self, query: &str) -> Logout {
        let parameters = Parameters::parse(query.as_bytes());
        if parameters.has_repeated() {
            return Logout::Refused("a parameter is repeated");
        }
        if parameters.one("id_token_hint").is_some_and(|token| !self.has_signed(token)) {
            return Logout::Refused("id_token_hint is not an ID token of this provider");
        }
        if parameters.one("client_id").is_some_and(|id| id != self.client_id) {
            return Logout::Refused("unknown client_id");
        }
        let names_client = ["id_token_hint", "client_id"].into_iter().any(|name| parameters.one(name).is_some());
        let back_to = format!("{}/q/logged-out", self.public_base);
        match parameters.one("post_logout_redirect_uri") {
            None => Logout::Stay,
            Some(uri) if uri == back_to && names_client => {
                let state = parameters.one("state").map(|state| ("state", state));
                Logout::Back(with_query(&back_to, state))
            }
            Some(_) => Logout::Refused("post_logout_redirect_uri is not that of the client"),
        }
    }

    fn redirect_uri(&self) -> String {
        format!("{}/q/callback", self.public_base)
    }

    /// Returns the redirect URI with these parameters, and with `state` and `iss` (RFC 9207).
    fn authorization_response(&self, parameters: &[(&str, &str)], state: Option<&str>) -> String {
        let state = state.map(|state| ("state", state));
        let parameters = parameters.iter().copied().chain(state).chain([("iss", &*self.issuer)]);
        with_query(&self.redirect_uri(), parameters)
    }

    /// Checks the client's id and secret, in the header field or in the form (RFC 6749 §2.3.1).
    fn authenticate(&self, authorization: Option<&str>, parameters: &Parameters) -> Result<(), TokenError> {
        let invalid = || TokenError::new("invalid_client", "the client id or the client secret is wrong");
        let in_form = parameters.one("client_secret").map(|secret| (parameters.one("client_id"), secret));
        let decoded = authorization.map(|field| basic_credentials(field).ok_or_else(invalid)).transpose()?;
        // Neither the id nor the secret has a character that is percent-encoded.
        let in_header = decoded.as_deref().map(|pair| pair.split_once(':').ok_or_else(invalid)).transpose()?;
        let (id, secret) = match (in_header, in_form) {
            (Some(_), Some(_)) => {
                return Err(TokenError::new("invalid_request", "the client authenticates in two ways"));
            }
            (Some((id, secret)), None) => (Some(id), secret),
            (None, Some(credentials)) => credentials,
            (None, None) => return Err(invalid()),
        };
        let is_client = |id: &str| id == self.client_id;
        let secret = constant_time::verify_slices_are_equal(secret.as_bytes(), self.client_secret.expose().as_bytes());
        // A form beside the header field may repeat the id.
        let is_known = id.is_some_and(is_client) && parameters.one("client_id").is_none_or(is_client);
        if is_known && secret.is_ok() { Ok(()) } else { Err(invalid()) }
    }

    fn take(&self, code: &str) -> Option<IssuedCode> {
        let mut codes = self.codes.lock();
        let index = codes.iter().position(|issued| issued.code == code)?;
        codes.remove(index)
    }

    fn id_token(&self, issued: &IssuedCode, now: Timestamp, date: Timestamp) -> Option<String> {
        let (issued_at, age) = (date.as_seconds(), now.seconds_since(issued.issued_at).cast_signed());
        let mut claims = Map::from_iter([
            ("iss".to_owned(), Value::from(&*self.issuer)),
            ("aud".to_owned(), Value::from(&*self.client_id)),
            ("sub".to_owned(), Value::from(issued.user.id)),
            ("name".to_owned(), Value::from(issued.user.name)),
            ("iat".to_owned(), Value::from(issued_at)),
            ("exp".to_owned(), Value::from(issued_at + i64::from(TOKEN_SECONDS))),
            ("auth_time".to_owned(), Value::from(issued_at - age)),
        ]);
        if let Some(nonce) = &issued.request.nonce {
            claims.insert("nonce".to_owned(), Value::from(&**nonce));
        }
        sign_app_token(self.client_secret.expose().as_bytes(), &claims)
    }

    /// Returns whether a token is one of this provider. It may have expired (RP-Initiated Logout 1.0 §2).
    fn has_signed(&self, token: &str) -> bool {
        let Some((signed, signature)) = token.rsplit_once('.') else { return false };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.client_secret.expose().as_bytes());
        hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
    }
}

impl IssuedCode {
    fn is_valid(&self, now: Timestamp) -> bool {
        now < self.issued_at.plus_seconds(CODE_SECONDS)
    }
}

impl TokenError {
    const fn new(error: &'static str, error_description: &'static str) -> Self {
        Self { error, error_description }
    }
}

/// Returns the PKCE challenge of an authorization request, or the error and its reason (RFC 6749 §4.1.2.1 and OpenID
/// Connect Core 1.0 §3.1.2.6).
fn checked(parameters: &Parameters) -> Result<&str, (&'static str, &'static str)> {
    if parameters.has_repeated() {
        return Err(("invalid_request", "a parameter is repeated"));
    }
    for (name, error) in [
        ("request", "request_not_supported"),
        ("request_uri", "request_uri_not_supported"),
        ("registration", "registration_not_supported"),
    ] {
        if parameters.one(name).is_some() {
            return Err((error, "the provider does not support this parameter"));
        }
    }
    match parameters.one("response_type") {
        Some("code") => {}
        Some(_) => return Err(("unsupported_response_type", "response_type is not code")),
        None => return Err(("invalid_request", "response_type is missing")),
    }
    if parameters.one("response_mode").is_some_and(|mode| mode != "query") {
        return Err(("invalid_request", "response_mode is not query"));
    }
    if !parameters.one("scope").is_some_and(|scope| scope.split(' ').any(|scope| scope == "openid")) {
        return Err(("invalid_scope", "scope does not have openid"));
    }
    // The provider asks each time, so a login without a question is impossible.
    if parameters.one("prompt").is_some_and(|prompt| prompt.split(' ').any(|prompt| prompt == "none")) {
        return Err(("login_required", "the user must choose who they are"));
    }
    let challenge = parameters.one("code_challenge").ok_or(("invalid_request", "code_challenge is missing"))?;
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_challenge = challenge.len() == CHALLENGE_CHARS && challenge.bytes().all(is_letter);
    if !is_challenge || parameters.one("code_challenge_method") != Some("S256") {
        return Err(("invalid_request", "code_challenge is not one of the method S256"));
    }
    Ok(challenge)
}

/// Returns the decoded credentials of a header field `Authorization` (RFC 7617).
fn basic_credentials(field: &str) -> Option<String> {
    let (scheme, credentials) = field.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()
}

/// Returns the URL with these parameters added to its query.
fn with_query<'a>(url: &str, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let Ok(mut url) = Url::parse(url) else { return url.to_owned() };
    for (name, value) in parameters {
        url.query_pairs_mut().append_pair(name, value);
    }
    url.into()
}

/// The parameters of a request. A parameter without a value counts as omitted (RFC 6749 §3.1).
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn parse(text: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(text).filter(|(_, value)| !value.is_empty());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// Returns the value of a parameter, or `None` if it is omitted or repeated.
    fn one(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(known, _)| known == name);
        let (_, value) = values.next()?;
        values.next().is_none().then_some(value)
    }

    fn has_repeated(&self) -> bool {
        self.0.iter().any(|(name, _)| self.one(name).is_none())
    }
}
