//! The client's side of the OAuth 2.0 Device Authorization Grant (RFC 8628), for any authorization server: its metadata,
//! the code that the user scans, the polls for the tokens, and the verification of the ID token.

mod http_client;
mod id_token;
mod metadata;
mod polling;
mod status_socket;

use std::fmt;
use std::time::Duration;

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey, CoreJsonWebKeySet,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreRevocableToken, CoreRevocationErrorResponse,
    CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    Client, ClientId, ClientSecret, DeviceAuthorizationResponse, DeviceCodeErrorResponse, DeviceCodeErrorResponseType,
    EmptyAdditionalClaims, EndpointNotSet, EndpointSet, ErrorResponse, ExtraDeviceAuthorizationFields,
    ExtraTokenFields, IdTokenFields, OAuth2TokenResponse as _, RequestTokenError, Scope, StandardErrorResponse,
    StandardTokenResponse, TokenResponse as _,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::secret::Secret;
use crate::session::printable;
use crate::system::clock::Clock;
use crate::telemetry::cause::{cleaned, explain};
use http_client::{HttpClient, RequestError};
use metadata::Metadata;
use polling::{Pacer, poll};
use status_socket::StatusSocket;

/// Scope that requests an ID token (OpenID Connect Core 1.0 §3.1.2.1).
const OPENID: &str = "openid";
/// Maximum length of a text of the server that is shown to the user, in characters.
const MAX_SHOWN_CHARS: usize = 2000;

/// The settings of the client.
pub struct DeviceClientSettings {
    /// Issuer of the authorization server.
    pub issuer: String,
    /// Id with which the client is registered there.
    pub client_id: String,
    /// Client secret. Empty for a public client.
    pub client_secret: Secret,
    /// Scopes that are requested.
    pub scopes: Vec<String>,
}

impl DeviceClientSettings {
    /// Returns whether an ID token is requested.
    #[must_use]
    pub fn requests_id_token(&self) -> bool {
        self.scopes.iter().any(|scope| scope == OPENID)
    }
}

/// A client of an authorization server whose metadata are known.
pub struct DeviceClient {
    settings: DeviceClientSettings,
    metadata: Metadata,
    oauth: OauthClient,
    http: HttpClient,
    clock: Clock,
}

/// A login that waits for the user.
pub struct PendingLogin {
    response: DeviceAuthorizationResponse<QrloginFields>,
    /// Time at which the code expires, by [`Clock::steady`].
    expires_at: Duration,
}

/// A login that the user has confirmed.
pub struct FinishedLogin {
    /// The server's response, with the tokens.
    pub tokens: TokenResponse,
    /// Name of the user in the ID token, if one was requested.
    pub user: Option<String>,
}

/// The reason for which a login failed.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The issuer cannot be used.
    #[error("the issuer {0}")]
    Issuer(String),
    /// The server's answer cannot be used. Holds the path of the member that is wrong, or `.` for the whole.
    #[error("the server's answer is not one of RFC 8628{}", member(.0))]
    Malformed(String),
    /// The server does not answer.
    #[error("the server does not answer: {0}")]
    Unavailable(String),
    /// The server refused the client or its request.
    #[error("the server refused the request: {0}")]
    Refused(String),
    /// The user has rejected the login.
    #[error("the login was rejected")]
    Denied,
    /// The user has not decided in time.
    #[error("the code has expired")]
    Expired,
    /// The ID token is missing or not valid.
    #[error("the ID token is not valid: {0}")]
    IdToken(String),
}

impl DeviceClient {
    /// Returns a client, for which the metadata of the issuer are fetched.
    ///
    /// # Errors
    /// Returns an error if the issuer is not an https URL, if its metadata cannot be fetched, or if they have no device
    /// authorization endpoint.
    pub async fn discover(settings: DeviceClientSettings, clock: Clock) -> Result<Self, DeviceError> {
        let issuer = metadata::issuer_url(&settings.issuer)?;
        let http = HttpClient::new(&issuer).map_err(|error| DeviceError::Unavailable(explain(&error)))?;
        let metadata = Metadata::fetch(&issuer, &http).await?;
        let (device_url, token_url) = metadata.endpoints()?;
        let client_id = ClientId::new(settings.client_id.clone());
        // The keys are fetched when an ID token is verified, because the server can change them before.
        let mut oauth = Client::new(client_id, metadata.issuer.clone(), CoreJsonWebKeySet::default())
            .set_device_authorization_url(device_url)
            .set_token_uri(token_url)
            .set_auth_type(metadata.auth_type())
            .disable_openid_scope();
        if !settings.client_secret.is_empty() {
            oauth = oauth.set_client_secret(ClientSecret::new(settings.client_secret.expose().to_owned()));
        }
        Ok(Self { settings, metadata, oauth, http, clock })
    }

    /// Begins a login: requests a code that the user scans or types.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or if it refuses the client.
    pub async fn begin(&self) -> Result<PendingLogin, DeviceError> {
        let scopes = self.settings.scopes.iter().cloned().map(Scope::new);
        let response: DeviceAuthorizationResponse<QrloginFields> = self
            .oauth
            .exchange_device_code()
            .add_scopes(scopes)
            .request_async(&self.http)
            .await
            .map_err(of_begin_request)?;
        let expires_at = self.clock.steady() + response.expires_in();
        Ok(PendingLogin { response, expires_at })
    }

    /// Waits until the user has decided, and returns the tokens. If the scope `openid` was requested, the ID token is
    /// verified.
    ///
    /// # Errors
    /// Returns an error if the user rejects the login or does not decide in time, if the server refuses the client, or
    /// if the ID token is not valid.
    pub async fn wait(&self, login: &PendingLogin) -> Result<FinishedLogin, DeviceError> {
        let mut pacer = Pacer::new(self.clock.clone(), login.response.interval(), login.expires_at);
        if let Some(url) = &login.response.extra_fields().ws_uri
            // Without the socket, polls find the decision.
            && let Ok(socket) = StatusSocket::open(&self.http, url).await
        {
            pacer = pacer.notified_by(socket.ended());
        }
        let request = self.oauth.exchange_device_access_token(&login.response);
        let tokens = poll(request, &self.http, &pacer).await.map_err(of_poll)?;
        let user = if self.settings.requests_id_token() { Some(self.verified_user(&tokens).await?) } else { None };
        Ok(FinishedLogin { tokens, user })
    }

    /// Verifies the ID token of a response. Returns the name of its user.
    async fn verified_user(&self, tokens: &TokenResponse) -> Result<String, DeviceError> {
        let token = tokens.id_token().ok_or_else(|| DeviceError::IdToken("there is none".to_owned()))?;
        let keys = self.metadata.keys(&self.http).await?;
        let verifier = id_token::verifier(&self.settings, &self.metadata, keys, &self.clock);
        let name = id_token::verified_user(&verifier, token, tokens.access_token())?;
        Ok(printable(&name, MAX_SHOWN_CHARS))
    }
}

impl PendingLogin {
    /// Returns the URL for the QR code, which has the user code in it if the server supports this.
    #[must_use]
    pub fn qr_url(&self) -> String {
        let complete = self.response.verification_uri_complete().map(|url| url.secret().as_str());
        printable(complete.unwrap_or_else(|| self.response.verification_uri()), MAX_SHOWN_CHARS)
    }

    /// Returns the URL at which the user types the user code.
    #[must_use]
    pub fn verification_url(&self) -> String {
        printable(self.response.verification_uri(), MAX_SHOWN_CHARS)
    }

    /// Returns the code that the user types.
    #[must_use]
    pub fn user_code(&self) -> String {
        printable(self.response.user_code().secret(), MAX_SHOWN_CHARS)
    }

    /// Returns the lifetime of the code.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.response.expires_in()
    }
}

impl FinishedLogin {
    /// Returns the access token.
    #[must_use]
    pub fn access_token(&self) -> &str {
        self.tokens.access_token().secret()
    }

    /// Returns the ID token, if there is one.
    #[must_use]
    pub fn id_token(&self) -> Option<String> {
        self.tokens.id_token().map(ToString::to_string)
    }
}

impl fmt::Debug for DeviceClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceClient({})", self.settings.issuer)
    }
}

/// Members of the device authorization response that only a qrlogin server sends.
#[derive(Debug, Serialize, Deserialize)]
struct QrloginFields {
    /// URL of a WebSocket on which the server delivers the states of the login.
    ws_uri: Option<String>,
}

impl ExtraDeviceAuthorizationFields for QrloginFields {}

/// Members of a token response that no standard defines, such as `refresh_expires_in`. They are passed on.
#[derive(Debug, Serialize, Deserialize)]
pub struct OtherFields {
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl ExtraTokenFields for OtherFields {}

type TokenFields = IdTokenFields<
    EmptyAdditionalClaims,
    OtherFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

/// A response of the token endpoint.
pub type TokenResponse = StandardTokenResponse<TokenFields, CoreTokenType>;

type BeginErrorResponse = StandardErrorResponse<CoreErrorResponseType>;

type OauthClient = Client<
    EmptyAdditionalClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    BeginErrorResponse,
    TokenResponse,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointNotSet,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
    EndpointNotSet,
>;

/// Returns the error of a request to the device authorization endpoint (RFC 8628 §3.2, RFC 6749 §5.2).
fn of_begin_request(error: RequestTokenError<RequestError, BeginErrorResponse>) -> DeviceError {
    match error {
        RequestTokenError::ServerResponse(response) => DeviceError::Refused(cleaned(&response.to_string())),
        error => of_failed_request(error),
    }
}

/// Returns the error with which the polls ended (RFC 8628 §3.5).
fn of_poll(error: RequestTokenError<RequestError, DeviceCodeErrorResponse>) -> DeviceError {
    match error {
        RequestTokenError::ServerResponse(response) => match response.error() {
            DeviceCodeErrorResponseType::AccessDenied => DeviceError::Denied,
            DeviceCodeErrorResponseType::ExpiredToken => DeviceError::Expired,
            _ => DeviceError::Refused(cleaned(&response.to_string())),
        },
        error => of_failed_request(error),
    }
}

/// Returns the part of an error's text that names a member of the answer.
fn member(path: &str) -> String {
    if path == "." { String::new() } else { format!(": the member {path}") }
}

fn of_failed_request<T: ErrorResponse + 'static>(error: RequestTokenError<RequestError, T>) -> DeviceError {
    DeviceError::Unavailable(match error {
        RequestTokenError::Request(error) => explain(&error),
        // The body can hold tokens, so it is not a part of the text. The error names the member only.
        RequestTokenError::Parse(error, _) => return DeviceError::Malformed(error.path().to_string()),
        RequestTokenError::Other(reason) => cleaned(&reason),
        RequestTokenError::ServerResponse(response) => cleaned(&format!("{response:?}")),
    })
}
