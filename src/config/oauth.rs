//! The sections `[oauth]` and `[sso]`: the clients of OpenID Connect and OAuth.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::ConfigError;
use super::check::{in_range, invalid, web_url};

/// URN of the device grant (RFC 8628 §3.4).
pub const DEVICE_CODE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Scope that asks for a refresh token (OpenID Connect Core §11).
pub const OFFLINE_ACCESS: &str = "offline_access";

/// Key of the list of clients, for errors.
const CLIENTS: &str = "oauth.clients";
/// Maximum number of secrets of a client: the current one, and the next one during a rotation.
const MAX_SECRETS: usize = 2;
/// Maximum length of an id or a name, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// The section `[oauth]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OAuthSettings {
    /// Lifetime of an access token, in seconds.
    pub access_ttl_seconds: u32,
    /// Time from the last use of a refresh token to the end of its family, in seconds.
    pub refresh_ttl_seconds: u32,
    /// Minimum time between two polls of a device, in seconds (RFC 8628 §3.2, `interval`).
    pub poll_interval_seconds: u32,
    /// Clients that may use the endpoints below `/oauth/`.
    pub clients: Vec<OAuthClientSettings>,
}

/// The section `[sso]`: single sign-on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SsoSettings {
    /// Time for which a browser that has logged in to one client need not scan for another one, in seconds. 0 means that
    /// each login needs a scan.
    pub ttl_seconds: u32,
}

/// A table `[[oauth.clients]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuthClientSettings {
    /// Client id.
    pub id: String,
    /// Name that the approver sees.
    pub name: String,
    /// URL of a logo that the approver sees.
    #[serde(default)]
    pub logo: String,
    /// Redirect URIs, which are compared exactly, except for the port of a loopback address (RFC 8252 §7.3).
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// URIs to which a logout may lead back.
    #[serde(default)]
    pub post_logout_redirect_uris: Vec<String>,
    /// Grants that the client may use.
    #[serde(default = "default_grant_types")]
    pub grant_types: Vec<GrantType>,
    /// Scopes that the client may request. Others are ignored.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// Way in which the client authenticates at the endpoints.
    #[serde(default)]
    pub auth_method: AuthMethod,
    /// Files with the client's secret: up to two.
    #[serde(default)]
    pub secret_files: Vec<PathBuf>,
    /// Environment variables with the client's secret.
    #[serde(default)]
    pub secret_env: Vec<String>,
    /// Hashes of the client's secret, as `qrlogin hash-secret` prints them.
    #[serde(default)]
    pub secret_hashes: Vec<String>,
    /// File with the client's public keys, a JWK Set, for `private_key_jwt`.
    #[serde(default)]
    pub jwks_file: PathBuf,
    /// Algorithm of the client's tokens.
    #[serde(default)]
    pub id_token_signed_response_alg: SigningAlgorithm,
    /// Whether authorization requests need PKCE. Public clients always need it.
    #[serde(default = "yes")]
    pub require_pkce: bool,
}

/// A grant of OAuth that a client may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// Authorization code (RFC 6749 §4.1).
    AuthorizationCode,
    /// Refresh token (RFC 6749 §6).
    RefreshToken,
    /// Device code (RFC 8628).
    #[serde(alias = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
}

/// The way in which a client authenticates (OpenID Connect Core §9).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// The client is public, and does not authenticate.
    None,
    /// HTTP Basic authentication with the client secret (RFC 6749 §2.3.1).
    #[default]
    ClientSecretBasic,
    /// The client secret in the request body (RFC 6749 §2.3.1).
    ClientSecretPost,
    /// An assertion that is signed with the client's key (RFC 7523 §2.2).
    PrivateKeyJwt,
}

/// An algorithm that signs the tokens of a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SigningAlgorithm {
    /// RS256 (RFC 7518 §3.3), which all clients can verify.
    #[default]
    #[serde(rename = "RS256")]
    Rs256,
    /// EdDSA over Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Default for OAuthSettings {
    fn default() -> Self {
        Self {
            access_ttl_seconds: 3600,
            refresh_ttl_seconds: 30 * 86_400,
            poll_interval_seconds: 5,
            clients: Vec::new(),
        }
    }
}

impl OAuthSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        in_range("oauth.access_ttl_seconds", self.access_ttl_seconds, 60..=86_400)?;
        in_range("oauth.refresh_ttl_seconds", self.refresh_ttl_seconds, 60..=10 * 365 * 86_400)?;
        in_range("oauth.poll_interval_seconds", self.poll_interval_seconds, 1..=3600)?;
        let mut ids = BTreeSet::new();
        for (item, client) in (1..).zip(&self.clients) {
            let refused = |reason: String| {
                // The id is shown only if it cannot be a secret in the wrong place.
                let name = if is_plain(&client.id) { format!(" ({})", client.id) } else { String::new() };
                invalid(CLIENTS, format!("item {item}{name}: {reason}"))
            };
            client.check().map_err(refused)?;
            if !ids.insert(&client.id) {
                return Err(refused("another client has this id".to_owned()));
            }
        }
        Ok(())
    }
}

impl OAuthClientSettings {
    /// Returns whether the client may use a grant.
    #[must_use]
    pub fn may_use(&self, grant: GrantType) -> bool {
        self.grant_types.contains(&grant)
    }

    /// Checks the client. An error is the predicate of a sentence about its table.
    fn check(&self) -> Result<(), String> {
        // RFC 6749, appendix A.1: visible ASCII characters. A colon would end the id in HTTP Basic authentication only if
        // a client did not percent-encode it.
        let is_id = |byte: u8| (0x21..=0x7e).contains(&byte);
        if self.id.is_empty() || self.id.len() > MAX_TEXT_BYTES || !self.id.bytes().all(is_id) {
            return Err(format!("id must have 1 to {MAX_TEXT_BYTES} visible ASCII characters"));
        }
        if self.name.trim().is_empty() || self.name.len() > MAX_TEXT_BYTES || self.name.contains(char::is_control) {
            return Err(format!("name must have 1 to {MAX_TEXT_BYTES} bytes and no control characters"));
        }
        if !self.logo.is_empty() {
            web_url(&self.logo).map_err(|reason| format!("logo {reason}"))?;
        }
        self.check_grants()?;
        for uri in &self.redirect_uris {
            redirect_uri(uri).map_err(|reason| format!("redirect_uris: an item {reason}"))?;
        }
        for uri in &self.post_logout_redirect_uris {
            redirect_uri(uri).map_err(|reason| format!("post_logout_redirect_uris: an item {reason}"))?;
        }
        // RFC 6749 §3.3.
        let is_letter = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if self.scopes.is_empty() {
            return Err("scopes must not be empty, because each request needs one".to_owned());
        }
        if self.scopes.iter().any(|scope| scope.is_empty() || !scope.bytes().all(is_letter)) {
            return Err("scopes: an item is not a scope".to_owned());
        }
        self.check_authentication()
    }

    fn check_grants(&self) -> Result<(), String> {
        let uses_code = self.may_use(GrantType::AuthorizationCode);
        if !uses_code && !self.may_use(GrantType::DeviceCode) {
            return Err("grant_types needs authorization_code or device_code".to_owned());
        }
        if uses_code && self.redirect_uris.is_empty() {
            return Err("redirect_uris must not be empty with the grant authorization_code".to_owned());
        }
        let is_offline = self.scopes.iter().any(|scope| scope == OFFLINE_ACCESS);
        if is_offline != self.may_use(GrantType::RefreshToken) {
            return Err("the scope offline_access and the grant refresh_token go together; set both or none".to_owned());
        }
        Ok(())
    }

    fn check_authentication(&self) -> Result<(), String> {
        let secrets = self.secret_files.len() + self.secret_env.len() + self.secret_hashes.len();
        let has_keys = !self.jwks_file.as_os_str().is_empty();
        match self.auth_method {
            AuthMethod::None if secrets > 0 || has_keys => {
                Err("auth_method none goes without secrets and keys".to_owned())
            }
            AuthMethod::None if !self.require_pkce => {
                Err("require_pkce cannot be false with auth_method none, because PKCE alone protects the code"
                    .to_owned())
            }
            AuthMethod::PrivateKeyJwt if secrets > 0 || !has_keys => {
                Err("auth_method private_key_jwt needs jwks_file, and no secrets".to_owned())
            }
            AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost if has_keys => {
                Err("jwks_file goes with auth_method private_key_jwt".to_owned())
            }
            AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost if !(1..=MAX_SECRETS).contains(&secrets) => {
                Err(format!(
                    "needs 1 to {MAX_SECRETS} secrets (secret_files, secret_env, secret_hashes), has {secrets}"
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Checks a redirect URI (RFC 6749 §3.1.2, RFC 8252 §7): https, http on this machine, or a scheme of an app.
fn redirect_uri(text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|_| "is not an absolute URI".to_owned())?;
    if url.fragment().is_some() {
        return Err("has a fragment (RFC 6749 §3.1.2)".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or a password".to_owned());
    }
    if text.contains('*') {
        return Err("has a *, which is no wildcard: redirect URIs are compared exactly (RFC 9700 §2.1)".to_owned());
    }
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err("has white space or control characters".to_owned());
    }
    if !text.starts_with(&format!("{}:", url.scheme())) || (url.has_host() && !has_two_slashes(text)) {
        return Err("is not written as scheme://host/path".to_owned());
    }
    let is_loopback = match url.host() {
        Some(Host::Domain(domain)) => domain == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback => Ok(()),
        "http" => Err("is plain http, which only a loopback address may be".to_owned()),
        // RFC 8252 §7.1: a reversed domain name.
        scheme if scheme.contains('.') => Ok(()),
        _ => Err("has a scheme that is neither https nor a reversed domain name (RFC 8252 §7.1)".to_owned()),
    }
}

/// Returns whether the scheme of a URI is followed by exactly two slashes. The parser accepts any number of them.
fn has_two_slashes(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| !rest.starts_with(['/', '\\']))
}

fn is_plain(id: &str) -> bool {
    id.len() <= 48
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte))
}

fn default_grant_types() -> Vec<GrantType> {
    vec![GrantType::AuthorizationCode]
}

fn default_scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).to_vec()
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> OAuthClientSettings {
        toml::from_str(
            r#"id = "grafana"
            name = "Grafana"
            redirect_uris = ["https://grafana.example/login"]
            secret_env = ["GRAFANA_SECRET"]"#,
        )
        .unwrap()
    }

    #[test]
    fn client_needs_what_its_grants_and_its_authentication_need() {
        assert_eq!(client().check(), Ok(()));
        let refused = |change: fn(&mut OAuthClientSettings), part: &str| {
            let mut client = client();
            change(&mut client);
            let error = client.check().unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        refused(|client| client.id = "a b".to_owned(), "id must");
        refused(|client| client.name = " ".to_owned(), "name must");
        refused(|client| client.logo = "http://a.example/logo".to_owned(), "logo");
        refused(|client| client.redirect_uris.clear(), "redirect_uris must not be empty");
        refused(|client| client.grant_types.clear(), "grant_types");
        refused(|client| client.scopes.push("offline_access".to_owned()), "refresh_token go together");
        refused(|client| client.grant_types.push(GrantType::RefreshToken), "refresh_token go together");
        refused(|client| client.scopes.push("a b".to_owned()), "not a scope");
        refused(|client| client.scopes.clear(), "scopes must not be empty");
        refused(|client| client.secret_env.clear(), "1 to 2 secrets");
        refused(|client| client.secret_hashes = vec![String::new(); 2], "has 3");
        refused(|client| client.auth_method = AuthMethod::None, "without secrets");
        refused(|client| client.auth_method = AuthMethod::PrivateKeyJwt, "needs jwks_file");
        refused(
            |client| {
                client.secret_env.clear();
                (client.auth_method, client.require_pkce) = (AuthMethod::None, false);
            },
            "require_pkce cannot be false",
        );
        refused(|client| client.jwks_file = "keys.json".into(), "goes with auth_method private_key_jwt");
    }

    #[test]
    fn redirect_uri_is_https_or_loopback_or_of_an_app() {
        for good in [
            "https://a.example/cb?x=1",
            "http://127.0.0.1/cb",
            "http://localhost:8000/cb",
            "http://[::1]:3000/",
            "com.example.app:/cb",
        ] {
            assert_eq!(redirect_uri(good), Ok(()), "{good}");
        }
        for bad in [
            "/cb",
            "http://a.example/cb",
            "https://a.example/cb#x",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://*.a.example/cb",
            "https://a.example/*",
            "https://a.example/cb ",
            " https://a.example/cb",
            "https://a.example/c\u{1}b",
            "https://user@a.example/cb",
            "https://user:pass@a.example/cb",
            "https:a.example/cb",
            "https:///a.example/cb",
            "https:\\\\a.example/cb",
            "HTTPS://a.example/cb",
        ] {
            assert!(redirect_uri(bad).is_err(), "{bad}");
        }
    }
}
