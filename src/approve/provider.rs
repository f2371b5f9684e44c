//! The OpenID provider at which the users of the approve page log in: the client's side of the authorization code flow
//! (OpenID Connect Core 1.0 §3.1), by the crate `openidconnect`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreErrorResponseType,
    CoreGenderClaim, CoreGrantType, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm,
    CoreJwsSigningAlgorithm, CoreResponseMode, CoreResponseType, CoreRevocableToken, CoreRevocationErrorResponse,
    CoreSubjectIdentifierType, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, AdditionalProviderMetadata, AuthType, AuthenticationFlow, AuthorizationCode,
    ClaimsVerificationError, Client, ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, IdTokenFields, IssuerUrl, LanguageTag, Nonce, OAuth2TokenResponse as _,
    PkceCodeChallenge, PkceCodeVerifier, ProviderMetadata, RedirectUrl, RequestTokenError, Scope,
    StandardErrorResponse, StandardTokenResponse, TokenResponse as _, UserInfoClaims,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::Mutex;
use tracing::{info, warn};
use url::Url;

use super::http_client::HttpClient;
use crate::secret::Secret;
use crate::system::clock::Clock;
use crate::system::http_client::HttpError;
use crate::telemetry::cause::explain;

/// Time for which the provider's metadata and keys are used before they are fetched again, in seconds.
const METADATA_SECONDS: u32 = 3600;
/// Minimum time between two fetches of the metadata because a token did not verify, in seconds.
const REFETCH_SECONDS: u32 = 10;
/// Time for which a failure to fetch the metadata is remembered, in seconds. Visitors who wait for the same fetch share
/// its failure, in place of waiting for one request each.
const FAILURE_SECONDS: u32 = 2;

/// The settings of the provider.
pub struct ProviderSettings {
    /// Issuer of the provider, at which `/.well-known/openid-configuration` is found.
    pub issuer: String,
    /// Client id with which this server is registered at the provider.
    pub client_id: String,
    /// Client secret. Empty for a public client.
    pub client_secret: Secret,
    /// URL to which the provider sends the user back.
    pub redirect_url: String,
    /// Scopes that are requested besides `openid`.
    pub scopes: Vec<String>,
    /// Maximum time since the user's login, in seconds. 0 means any time.
    pub max_age_seconds: u32,
    /// Whether the provider is on this machine, so may be plain http.
    pub is_loopback: bool,
}

/// The provider, with its metadata once they have been fetched.
pub struct Provider {
    settings: ProviderSettings,
    http: HttpClient,
    clock: Clock,
    /// The lock is held while the metadata are fetched, so that concurrent logins fetch them once.
    latest: Mutex<Latest>,
}

/// The latest metadata, and the latest failure to fetch them, each with its time.
#[derive(Default)]
struct Latest {
    discovered: Option<(Arc<Discovered>, Duration)>,
    failure: Option<(ProviderError, Duration)>,
}

struct Discovered {
    client: OidcClient,
    end_session: Option<Url>,
    /// Whether each authorization response has the parameter `iss` (RFC 9207 §3).
    sends_issuer: bool,
}

/// What this server must remember of a login until the provider sends the user back.
#[derive(Clone, Serialize, Deserialize)]
pub struct LoginFlow {
    /// `state` of the authorization request.
    pub state: String,
    /// `nonce` of the authorization request.
    pub nonce: String,
    /// Verifier of the PKCE challenge (RFC 7636).
    pub verifier: String,
}

/// A login that has begun.
pub struct Begun {
    /// URL of the provider to which the user is sent.
    pub url: Url,
    /// What is needed to finish the login.
    pub flow: LoginFlow,
}

/// A login that the provider has confirmed.
pub struct Finished {
    /// Claims of the ID token, and of the UserInfo response where the ID token lacks them.
    pub claims: Map<String, Value>,
    /// ID token, which names the session at the provider in a logout.
    pub id_token: String,
}

/// The reason for which a login at the provider failed. The text is for the operator.
#[derive(Debug, Clone, Error)]
pub enum ProviderError {
    /// The provider does not answer, or its answer cannot be used.
    #[error("the provider does not answer: {0}")]
    Unavailable(String),
    /// The provider refused this server's request, which a wrong client id or secret causes.
    #[error("the provider refused the client: {0}")]
    Client(String),
    /// The authorization code or the ID token is not valid.
    #[error("the login is not valid: {0}")]
    Refused(String),
}

impl Provider {
    /// Returns a provider. Nothing is fetched yet.
    ///
    /// # Errors
    /// Returns an error if the HTTP client cannot be created, for example because the system's trusted certificates
    /// cannot be used.
    pub fn new(settings: ProviderSettings, clock: Clock) -> Result<Self, reqwest::Error> {
        let http = HttpClient::new(settings.is_loopback)?;
        Ok(Self { settings, http, clock, latest: Mutex::default() })
    }

    /// Begins a login. With `asks_again`, the provider asks the user to log in even if it knows the user.
    /// `language` is the tag of the language in which the provider should speak.
    ///
    /// # Errors
    /// Returns an error if the provider's metadata cannot be fetched.
    pub async fn begin(&self, asks_again: bool, language: &str) -> Result<Begun, ProviderError> {
        let discovered = self.discovered(METADATA_SECONDS).await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        let mut request = discovered
            .client
            .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
            .set_pkce_challenge(challenge)
            .add_ui_locale(LanguageTag::new(language.to_owned()));
        for scope in &self.settings.scopes {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        if self.settings.max_age_seconds > 0 {
            request = request.set_max_age(Duration::from_secs(self.settings.max_age_seconds.into()));
        }
        if asks_again {
            request = request.add_prompt(CoreAuthPrompt::Login);
        }
        let (url, state, nonce) = request.url();
        let flow =
            LoginFlow { state: state.into_secret(), nonce: nonce.secret().clone(), verifier: verifier.into_secret() };
        Ok(Begun { url, flow })
    }

    /// Checks the parameter `iss` of an authorization response, which prevents a mix-up of two providers (RFC 9207
    /// §2.4).
    ///
    /// # Errors
    /// Returns an error if the parameter names another issuer, or if it is missing and the provider always sends it.
    pub async fn check_issuer(&self, issuer: Option<&str>) -> Result<(), ProviderError> {
        let is_own = match issuer {
            Some(issuer) => issuer == self.settings.issuer,
            None => !self.discovered(METADATA_SECONDS).await?.sends_issuer,
        };
        if is_own { Ok(()) } else { Err(ProviderError::Refused("the response does not name the issuer".to_owned())) }
    }

    /// Exchanges the code of an authorization response for an ID token, verifies the token, and returns its claims. Check
    /// the issuer of the response first.
    ///
    /// # Errors
    /// Returns an error if the provider refuses the code, if the ID token is not valid, or if the provider does not
    /// answer.
    pub async fn finish(&self, code: String, flow: LoginFlow) -> Result<Finished, ProviderError> {
        let discovered = self.discovered(METADATA_SECONDS).await?;
        let response = discovered
            .client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|_| ProviderError::Unavailable("its metadata have no token_endpoint".to_owned()))?
            .set_pkce_verifier(PkceCodeVerifier::new(flow.verifier))
            .request_async(&self.http)
            .await
            .map_err(of_token_request)?;
        let token = response.id_token().ok_or_else(|| ProviderError::Refused("there is no ID token".to_owned()))?;
        let nonce = Nonce::new(flow.nonce);
        // The server's clock follows the database's, and the machine's own may be wrong.
        let now = || DateTime::from_timestamp_millis(self.clock.wall().as_millis()).unwrap_or_default();
        let verify = |client: &OidcClient| token.claims(&client.id_token_verifier().set_time_fn(now), &nonce).cloned();
        let claims = match verify(&discovered.client) {
            // The provider may have changed its keys since they were fetched.
            Err(ClaimsVerificationError::SignatureVerification(_)) => {
                let newer = self.discovered(REFETCH_SECONDS).await?;
                verify(&newer.client)
            }
            claims => claims,
        };
        let claims = claims.map_err(|error| ProviderError::Refused(explain(&error)))?;
        let mut all = members(&claims)?;
        if !all.contains_key("name") || !all.contains_key("picture") {
            let subject = claims.subject().clone();
            if let Ok(request) = discovered.client.user_info(response.access_token().clone(), Some(subject)) {
                let info: Result<UserInfoClaims<OtherClaims, CoreGenderClaim>, _> =
                    request.request_async(&self.http).await;
                match info {
                    // The ID token is signed, so its claims come first.
                    Ok(info) => members(&info)?.into_iter().for_each(|(name, value)| {
                        all.entry(name).or_insert(value);
                    }),
                    Err(error) => warn!(event = "user info not fetched", error = explain(&error)),
                }
            }
        }
        Ok(Finished { claims: all, id_token: token.to_string() })
    }

    /// Returns the URL at which the user's session at the provider is ended (OpenID Connect RP-Initiated Logout 1.0), or
    /// `None` if the provider does not support it or its metadata are not known.
    pub async fn logout_url(&self, id_token: Option<&str>, back_to: &str) -> Option<Url> {
        let mut url = self.discovered(METADATA_SECONDS).await.ok()?.end_session.clone()?;
        let mut query = url.query_pairs_mut();
        if let Some(token) = id_token {
            query.append_pair("id_token_hint", token);
        }
        query.append_pair("client_id", &self.settings.client_id).append_pair("post_logout_redirect_uri", back_to);
        drop(query);
        Some(url)
    }

    /// Returns the provider's metadata and keys, which it fetches if they are older than this. If that fails, older ones
    /// are used until the provider answers again.
    async fn discovered(&self, oldest_seconds: u32) -> Result<Arc<Discovered>, ProviderError> {
        let mut latest = self.latest.lock().await;
        let now = self.clock.steady();
        let is_within = |at: &Duration, seconds: u32| now < *at + Duration::from_secs(seconds.into());
        let known = latest.discovered.clone();
        let failure = match (&known, &latest.failure) {
            (Some((discovered, at)), _) if is_within(at, oldest_seconds) => return Ok(discovered.clone()),
            (_, Some((failure, at))) if is_within(at, FAILURE_SECONDS) => failure.clone(),
            _ => match self.discover().await {
                Ok(fresh) => {
                    let fresh = Arc::new(fresh);
                    *latest = Latest { discovered: Some((fresh.clone(), now)), failure: None };
                    return Ok(fresh);
                }
                Err(failure) => {
                    latest.failure = Some((failure.clone(), self.clock.steady()));
                    failure
                }
            },
        };
        drop(latest);
        known.map_or(Err(failure), |(discovered, _)| Ok(discovered))
    }

    async fn discover(&self) -> Result<Discovered, ProviderError> {
        let settings = &self.settings;
        let issuer =
            IssuerUrl::new(settings.issuer.clone()).map_err(|error| ProviderError::Unavailable(error.to_string()))?;
        let metadata = Metadata::discover_async(issuer, &self.http)
            .await
            .map_err(|error| ProviderError::Unavailable(explain(&error)))?;
        let secret =
            (!settings.client_secret.is_empty()).then(|| ClientSecret::new(settings.client_secret.expose().to_owned()));
        let redirect = RedirectUrl::new(settings.redirect_url.clone())
            .map_err(|error| ProviderError::Unavailable(error.to_string()))?;
        let methods = metadata.token_endpoint_auth_methods_supported();
        let is_post_only = methods.is_some_and(|methods| {
            methods.contains(&CoreClientAuthMethod::ClientSecretPost)
                && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
        });
        let OtherMetadata { end_session_endpoint: end_session, authorization_response_iss_parameter_supported } =
            metadata.additional_metadata().clone();
        let sends_issuer = authorization_response_iss_parameter_supported.unwrap_or_default();
        let mut client =
            OidcClient::from_provider_metadata(metadata, ClientId::new(settings.client_id.clone()), secret)
                .set_redirect_uri(redirect);
        if is_post_only {
            client = client.set_auth_type(AuthType::RequestBody);
        }
        info!(event = "provider found", issuer = settings.issuer);
        Ok(Discovered { client, end_session, sends_issuer })
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({})", self.settings.issuer)
    }
}

/// Claims that OpenID Connect does not define.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OtherClaims {
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl AdditionalClaims for OtherClaims {}

/// Metadata of the provider that are not of OpenID Connect Discovery 1.0.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OtherMetadata {
    /// OpenID Connect RP-Initiated Logout 1.0 §2.1.
    end_session_endpoint: Option<Url>,
    /// RFC 9207 §3.
    authorization_response_iss_parameter_supported: Option<bool>,
}

impl AdditionalProviderMetadata for OtherMetadata {}

type Metadata = ProviderMetadata<
    OtherMetadata,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

type TokenFields = IdTokenFields<
    OtherClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

type OidcClient = Client<
    OtherClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<TokenFields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Returns the claims as the members of a JSON object.
fn members(claims: &impl Serialize) -> Result<Map<String, Value>, ProviderError> {
    match serde_json::to_value(claims) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(ProviderError::Refused("its claims are not an object".to_owned())),
    }
}

/// Returns the error of a request to the token endpoint (RFC 6749 §5.2).
fn of_token_request(
    error: RequestTokenError<HttpError, StandardErrorResponse<CoreErrorResponseType>>,
) -> ProviderError {
    match error {
        RequestTokenError::ServerResponse(response) => match response.error() {
            CoreErrorResponseType::InvalidGrant => ProviderError::Refused(response.to_string()),
            _ => ProviderError::Client(response.to_string()),
        },
        RequestTokenError::Request(error) => ProviderError::Unavailable(error.to_string()),
        // The body of a response can hold tokens, so it is not a part of the text.
        RequestTokenError::Parse(..) => ProviderError::Unavailable("its answer is not a token response".to_owned()),
        RequestTokenError::Other(reason) => ProviderError::Unavailable(reason),
    }
}
