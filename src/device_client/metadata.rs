//! The metadata of an authorization server (OpenID Connect Discovery 1.0, RFC 8414).

use http::header::ACCEPT;
use http::{Request, StatusCode};
use openidconnect::core::{CoreClientAuthMethod, CoreJsonWebKeySet, CoreJwsSigningAlgorithm};
use openidconnect::{
    AsyncHttpClient as _, AuthType, DeviceAuthorizationUrl, IssuerUrl, JsonWebKeySet, JsonWebKeySetUrl, TokenUrl,
};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::DeviceError;
use super::http_client::HttpClient;
use crate::config::is_loopback;
use crate::telemetry::cause::{cleaned, explain};

/// The metadata that the device grant needs. `openidconnect` has a type for those of OpenID Connect, which requires
/// members that RFC 8414 does not, such as `authorization_endpoint`.
#[derive(Deserialize)]
pub(super) struct Metadata {
    /// The issuer, as in the ID token.
    pub(super) issuer: IssuerUrl,
    token_endpoint: Option<TokenUrl>,
    device_authorization_endpoint: Option<DeviceAuthorizationUrl>,
    jwks_uri: Option<JsonWebKeySetUrl>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<CoreClientAuthMethod>,
    /// Values, because a name that `openidconnect` does not know is not an error.
    #[serde(default)]
    id_token_signing_alg_values_supported: Vec<Value>,
}

impl Metadata {
    /// Fetches the metadata of an issuer: those of OpenID Connect, else those of RFC 8414.
    pub(super) async fn fetch(issuer: &Url, http: &HttpClient) -> Result<Self, DeviceError> {
        let mut refusal = DeviceError::Issuer("has no metadata".to_owned());
        for url in [openid_url(issuer), oauth_url(issuer)] {
            let request = Request::get(url.as_str()).header(ACCEPT, "application/json").body(Vec::new());
            let request = request.map_err(|error| DeviceError::Issuer(format!("is not a URL: {error}")))?;
            let response = http.call(request).await.map_err(|error| DeviceError::Unavailable(explain(&error)))?;
            if response.status() != StatusCode::OK {
                refusal = DeviceError::Issuer(format!("has no metadata: {url} has the status {}", response.status()));
                continue;
            }
            let metadata: Self = serde_json::from_slice(response.body())
                .map_err(|error| DeviceError::Issuer(format!("has no valid metadata at {url}: {error}")))?;
            // A server must not speak for another issuer (RFC 8414 §3.3). Users add and omit the slash at the end.
            if without_slash(metadata.issuer.as_str()) != without_slash(issuer.as_str()) {
                let other = cleaned(metadata.issuer.as_str());
                return Err(DeviceError::Issuer(format!("has the metadata of another issuer, {other}")));
            }
            return Ok(metadata);
        }
        Err(refusal)
    }

    /// Returns the URLs of the device authorization endpoint and the token endpoint.
    pub(super) fn endpoints(&self) -> Result<(DeviceAuthorizationUrl, TokenUrl), DeviceError> {
        let missing = |name| move || DeviceError::Issuer(format!("has no {name} in its metadata"));
        let device = self.device_authorization_endpoint.clone().ok_or_else(missing("device_authorization_endpoint"))?;
        let token = self.token_endpoint.clone().ok_or_else(missing("token_endpoint"))?;
        for url in [device.url(), token.url()] {
            check_secure(url).map_err(DeviceError::Issuer)?;
        }
        Ok((device, token))
    }

    /// Returns how the client authenticates (RFC 8414 §2: `client_secret_basic` unless the metadata say otherwise).
    pub(super) fn auth_type(&self) -> AuthType {
        let methods = &self.token_endpoint_auth_methods_supported;
        let supports = |method| methods.contains(&method);
        let is_post_only =
            supports(CoreClientAuthMethod::ClientSecretPost) && !supports(CoreClientAuthMethod::ClientSecretBasic);
        if is_post_only { AuthType::RequestBody } else { AuthType::BasicAuth }
    }

    /// Returns the algorithms with which ID tokens may be signed.
    pub(super) fn signing_algorithms(&self) -> Vec<CoreJwsSigningAlgorithm> {
        let named = self.id_token_signing_alg_values_supported.iter().cloned();
        let known: Vec<_> = named.filter_map(|name| serde_json::from_value(name).ok()).collect();
        // Each provider must support RS256 (OpenID Connect Core 1.0 §15.1).
        if known.is_empty() { vec![CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256] } else { known }
    }

    /// Fetches the keys with which ID tokens are verified.
    pub(super) async fn keys(&self, http: &HttpClient) -> Result<CoreJsonWebKeySet, DeviceError> {
        let url =
            self.jwks_uri.as_ref().ok_or_else(|| DeviceError::IdToken("the issuer has no jwks_uri".to_owned()))?;
        check_secure(url.url()).map_err(DeviceError::Issuer)?;
        JsonWebKeySet::fetch_async(url, http).await.map_err(|error| DeviceError::Unavailable(explain(&error)))
    }
}

/// Parses the URL of an issuer.
pub(super) fn issuer_url(text: &str) -> Result<Url, DeviceError> {
    // The parser's errors are fixed texts, which do not quote the URL.
    let url = Url::parse(text).map_err(|error| DeviceError::Issuer(format!("is not a URL: {error}")))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(DeviceError::Issuer("has a query or a fragment (RFC 8414 §2)".to_owned()));
    }
    check_secure(&url).map_err(DeviceError::Issuer)?;
    Ok(url)
}

/// Checks that a URL is https, or http on this machine. Others could otherwise read the tokens.
fn check_secure(url: &Url) -> Result<(), String> {
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(url) => Ok(()),
        "http" => Err("has a plain http URL, which is only for this machine (127.0.0.1, localhost)".to_owned()),
        _ => Err("has a URL that is not https; write https://…".to_owned()),
    }
}

/// Returns the URL of the metadata of an OpenID provider (OpenID Connect Discovery 1.0 §4.1).
fn openid_url(issuer: &Url) -> Url {
    with_path(issuer, &format!("{}/.well-known/openid-configuration", without_slash(issuer.path())))
}

/// Returns the URL of the metadata of an authorization server (RFC 8414 §3.1).
fn oauth_url(issuer: &Url) -> Url {
    with_path(issuer, &format!("/.well-known/oauth-authorization-server{}", without_slash(issuer.path())))
}

fn with_path(issuer: &Url, path: &str) -> Url {
    let mut url = issuer.clone();
    url.set_path(path);
    url
}

fn without_slash(text: &str) -> &str {
    text.strip_suffix('/').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_at_the_urls_of_both_standards() {
        for (issuer, openid, oauth) in [
            (
                "https://id.example",
                "https://id.example/.well-known/openid-configuration",
                "https://id.example/.well-known/oauth-authorization-server",
            ),
            (
                "https://id.example/realms/a/",
                "https://id.example/realms/a/.well-known/openid-configuration",
                "https://id.example/.well-known/oauth-authorization-server/realms/a",
            ),
        ] {
            let issuer = issuer_url(issuer).unwrap();
            assert_eq!((openid_url(&issuer).as_str(), oauth_url(&issuer).as_str()), (openid, oauth));
        }
    }

    #[test]
    fn issuer_is_https_or_on_this_machine() {
        for (issuer, is_accepted) in [
            ("https://id.example", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost/a", true),
            ("http://id.example", false),
            ("http://localhost.evil.example", false),
            ("ftp://127.0.0.1", false),
            ("id.example", false),
            ("https://id.example?a", false),
            ("https://id.example#a", false),
        ] {
            assert_eq!(issuer_url(issuer).is_ok(), is_accepted, "{issuer}");
        }
    }

    #[test]
    fn unknown_signing_algorithms_are_left_out() {
        let metadata = |algorithms: Value| -> Metadata {
            let members = serde_json::json!({
                "issuer": "https://id.example", "id_token_signing_alg_values_supported": algorithms,
            });
            serde_json::from_value(members).unwrap()
        };
        let rs256 = CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256;
        assert_eq!(metadata(serde_json::json!([])).signing_algorithms(), std::slice::from_ref(&rs256));
        let known = metadata(serde_json::json!(["ML-DSA-44", "EdDSA", "RS256"])).signing_algorithms();
        assert_eq!(known, [CoreJwsSigningAlgorithm::EdDsa, rs256]);
    }
}
