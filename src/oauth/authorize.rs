//! Authorization requests (RFC 6749 §4.1.1, OpenID Connect Core §3.1.2.1), checked without input or output.

use super::{OAuth, OAuthClient, OAuthError, Parameters, ParametersFault};
use crate::config::{GrantType, OFFLINE_ACCESS};
use crate::session::{OAuthRequest, Redirect, ResponseMode};

/// Maximum length of `state` and of `nonce`, in bytes. Both are stored with the session.
const MAX_VALUE_BYTES: usize = 2048;

/// A valid authorization request.
pub struct Authorize<'a> {
    /// Client that sent it.
    pub client: &'a OAuthClient,
    /// Request, as the session keeps it.
    pub request: OAuthRequest,
    /// Value of `prompt`.
    pub prompt: Prompt,
    /// Maximum time since the user's login, in seconds.
    pub max_age_seconds: Option<i64>,
}

/// Whether the user may, must or must not be asked (OpenID Connect Core §3.1.2.1, `prompt`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt {
    /// The user is asked if there is no single sign-on session.
    IfNeeded,
    /// `none`: the user must not be asked.
    Never,
    /// `login`, `consent` or `select_account`: the user must be asked.
    Always,
}

/// The reason why an authorization request is refused.
#[derive(Debug)]
pub enum AuthorizeError {
    /// The error is shown to the user, because it is not known where to send it (RFC 6749 §4.1.2.1).
    Page(PageError),
    /// The error is sent to the client.
    Redirect(ErrorRedirect),
}

/// An error that is shown to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageError {
    /// `client_id` is missing or unknown.
    Client,
    /// `redirect_uri` is missing, or is not one of the client's.
    RedirectUri,
    /// The parameters cannot be read.
    Parameters,
}

/// An error that is sent to the client.
#[derive(Debug)]
pub struct ErrorRedirect {
    /// Redirect URI, which is one of the client's.
    pub uri: String,
    /// Way in which the error is sent.
    pub mode: ResponseMode,
    /// Value of `state` in the request.
    pub state: Option<String>,
    /// Value of `error`.
    pub error: &'static str,
    /// Value of `error_description`.
    pub description: &'static str,
}

impl OAuth {
    /// Checks an authorization request. `browser` is the hash of the secret in the browser's cookie.
    ///
    /// # Errors
    /// See [`AuthorizeError`].
    pub fn authorize(&self, parameters: &Parameters, browser: &str) -> Result<Authorize<'_>, AuthorizeError> {
        let page = AuthorizeError::Page;
        let Some(client) = parameters.get("client_id").and_then(|id| self.clients.find(id)) else {
            self.warn_of_client(None, "its client_id is not registered");
            return Err(page(PageError::Client));
        };
        let Some(uri) = parameters.get("redirect_uri").filter(|uri| client.has_redirect_uri(uri)) else {
            self.warn_of_redirect_uri(&client.settings.id, parameters.get("redirect_uri"));
            return Err(page(PageError::RedirectUri));
        };
        let uri = uri.to_owned();
        let state = parameters.get("state").map(str::to_owned);
        let mode = response_mode(parameters.get("response_mode"));
        let refused = |(error, description)| {
            let mode = mode.unwrap_or(ResponseMode::Query);
            AuthorizeError::Redirect(ErrorRedirect { uri: uri.clone(), mode, state: state.clone(), error, description })
        };
        self.check(client, parameters, browser, mode)
            .map(|(request, prompt, max_age_seconds)| {
                let redirect =
                    request.redirect.map(|redirect| Redirect { uri: uri.clone(), state: state.clone(), ..redirect });
                Authorize { client, request: OAuthRequest { redirect, ..request }, prompt, max_age_seconds }
            })
            .map_err(refused)
    }

    /// Checks what is reported to the client. Returns the request without its redirect URI and state.
    fn check(
        &self,
        client: &OAuthClient,
        parameters: &Parameters,
        browser: &str,
        mode: Option<ResponseMode>,
    ) -> Result<(OAuthRequest, Prompt, Option<i64>), (&'static str, &'static str)> {
        match parameters.fault() {
            None => {}
            Some(ParametersFault::Repeated(_)) => return Err(("invalid_request", "a parameter is repeated")),
            Some(ParametersFault::TooLong) => return Err(("invalid_request", "the parameters are too long")),
        }
        let mode = mode.ok_or(("invalid_request", "response_mode must be query or form_post"))?;
        if parameters.get("request").is_some() {
            return Err(("request_not_supported", "request objects are not supported"));
        }
        if parameters.get("request_uri").is_some() {
            return Err(("request_uri_not_supported", "request_uri is not supported"));
        }
        if parameters.get("registration").is_some() {
            return Err(("registration_not_supported", "registration is not supported"));
        }
        match parameters.get("response_type") {
            Some("code") => {}
            Some(_) => return Err(("unsupported_response_type", "response_type must be code")),
            None => return Err(("invalid_request", "the parameter response_type is missing")),
        }
        if !client.settings.may_use(GrantType::AuthorizationCode) {
            return Err(("unauthorized_client", "the client may not use the grant authorization_code"));
        }
        let is_long = |name| parameters.get(name).is_some_and(|value| value.len() > MAX_VALUE_BYTES);
        if is_long("state") || is_long("nonce") {
            return Err(("invalid_request", "state or nonce is longer than 2048 bytes"));
        }
        let code_challenge = code_challenge(client, parameters)?;
        let (prompt, max_age_seconds) = prompt(parameters)?;
        let scopes = self.scopes(client, parameters.get("scope"));
        let scopes = scopes.map_err(|_| ("invalid_scope", "the client may have none of these scopes"))?;
        let expected_user = match parameters.get("id_token_hint") {
            None => None,
            Some(hint) => {
                let (user, _) =
                    self.hinted(hint).ok_or(("invalid_request", "id_token_hint is not an ID token of this server"))?;
                Some(user)
            }
        };
        let (prompt, scopes) = with_consent(prompt, scopes)?;
        let redirect = Redirect {
            uri: String::new(),
            mode,
            state: None,
            nonce: parameters.get("nonce").map(str::to_owned),
            code_challenge,
            browser: browser.to_owned(),
            expected_user,
        };
        let request = OAuthRequest { client_id: client.settings.id.clone(), scopes, redirect: Some(redirect) };
        Ok((request, prompt, max_age_seconds))
    }
}

/// Offline access needs the user's consent, and is ignored in a request that must not ask for it (OpenID Connect Core
/// §11).
fn with_consent(
    prompt: Prompt,
    mut scopes: Vec<String>,
) -> Result<(Prompt, Vec<String>), (&'static str, &'static str)> {
    if !scopes.iter().any(|scope| scope == OFFLINE_ACCESS) {
        return Ok((prompt, scopes));
    }
    match prompt {
        Prompt::IfNeeded | Prompt::Always => Ok((Prompt::Always, scopes)),
        Prompt::Never => {
            scopes.retain(|scope| scope != OFFLINE_ACCESS);
            if scopes.is_empty() {
                Err(("consent_required", "offline_access needs the user's consent"))
            } else {
                Ok((prompt, scopes))
            }
        }
    }
}

fn response_mode(name: Option<&str>) -> Option<ResponseMode> {
    match name {
        None | Some("query") => Some(ResponseMode::Query),
        Some("form_post") => Some(ResponseMode::FormPost),
        Some(_) => None,
    }
}

/// Returns the S256 challenge (RFC 7636 §4.3). A challenge by another method is refused, because `plain` protects
/// nothing.
fn code_challenge(
    client: &OAuthClient,
    parameters: &Parameters,
) -> Result<Option<String>, (&'static str, &'static str)> {
    match (parameters.get("code_challenge"), parameters.get("code_challenge_method")) {
        (Some(challenge), Some("S256")) => {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            if challenge.len() == 43 && challenge.bytes().all(is_letter) {
                Ok(Some(challenge.to_owned()))
            } else {
                Err(("invalid_request", "code_challenge is not a SHA-256 in base64url"))
            }
        }
        (Some(_), _) => Err(("invalid_request", "code_challenge_method must be S256")),
        (None, Some(_)) => Err(("invalid_request", "the parameter code_challenge is missing")),
        (None, None) if client.is_public() || client.settings.require_pkce => {
            Err(("invalid_request", "PKCE is required: the parameter code_challenge is missing"))
        }
        (None, None) => Ok(None),
    }
}

fn prompt(parameters: &Parameters) -> Result<(Prompt, Option<i64>), (&'static str, &'static str)> {
    let values: Vec<_> = parameters.get("prompt").unwrap_or_default().split(' ').filter(|it| !it.is_empty()).collect();
    let prompt = match values.as_slice() {
        [] => Prompt::IfNeeded,
        ["none"] => Prompt::Never,
        values if values.contains(&"none") => {
            return Err(("invalid_request", "prompt none cannot be combined with another value"));
        }
        values if values.iter().all(|value| ["login", "consent", "select_account"].contains(value)) => Prompt::Always,
        _ => return Err(("invalid_request", "prompt has an unknown value")),
    };
    let max_age = parameters.get("max_age").map(str::parse::<u32>).transpose();
    let max_age = max_age.map_err(|_| ("invalid_request", "max_age must be a number of seconds"))?;
    Ok((prompt, max_age.map(i64::from)))
}

impl From<OAuthError> for PageError {
    fn from(_: OAuthError) -> Self {
        Self::Parameters
    }
}
