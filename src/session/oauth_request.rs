//! The request of an OAuth client, for which a session was generated.

use serde::{Deserialize, Serialize};

/// A request of an OAuth client: an authorization request (RFC 6749 §4.1.1) or a device authorization request (RFC 8628
/// §3.1). Its parameters have been checked against the client's registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OAuthRequest {
    /// Id of the client.
    pub client_id: String,
    /// Requested scopes that the client may have, in their order.
    pub scopes: Vec<String>,
    /// Where and how the response goes to the client. `None` for a device, which collects its tokens itself.
    pub redirect: Option<Redirect>,
}

/// The part of an authorization request that the response and the token request depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// Redirect URI, one of the client's.
    pub uri: String,
    /// Way in which the parameters are sent to it.
    pub mode: ResponseMode,
    /// Value that the response repeats (RFC 6749 §4.1.1).
    pub state: Option<String>,
    /// Value that the ID token repeats (OpenID Connect Core §3.1.2.1).
    pub nonce: Option<String>,
    /// S256 challenge of PKCE (RFC 7636 §4.3).
    pub code_challenge: Option<String>,
    /// Hash of the secret in a cookie of the browser that made the request.
    pub browser: String,
    /// User id that the client expects, from its `id_token_hint`.
    pub expected_user: Option<String>,
}

/// The way in which the parameters of an authorization response are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseMode {
    /// In the query of the redirect URI (OAuth 2.0 Multiple Response Types §2.1).
    Query,
    /// In a form that the browser posts (OAuth 2.0 Form Post Response Mode).
    FormPost,
}
