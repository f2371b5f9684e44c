//! Authentication of clients at the endpoints (RFC 6749 §2.3, RFC 7523 §2.2).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::clients::sha256;
use super::{OAuth, OAuthClient, OAuthError, Parameters};
use crate::config::AuthMethod;
use crate::store::{Record, RecordId};
use crate::system::random;

/// Value of `client_assertion_type` (RFC 7523 §2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Time by which the clocks of client and server may differ, in seconds.
const LEEWAY_SECONDS: i64 = 60;
/// Maximum time from now to the end of an assertion, in seconds. Its id is stored for as long.
const MAX_ASSERTION_SECONDS: i64 = 3600;

/// The claims of an assertion (RFC 7523 §3).
#[derive(Deserialize)]
struct Assertion {
    sub: String,
    /// A NumericDate can have a fraction (RFC 7519 §2).
    exp: f64,
    nbf: Option<f64>,
    jti: String,
}

impl OAuth {
    /// Returns the client that sent a request. A public client names itself by `client_id`. `authorization` is the header
    /// field.
    ///
    /// # Errors
    /// [`OAuthError::InvalidClient`] if the client is unknown or did not authenticate in its way, and
    /// [`OAuthError::InvalidRequest`] if it authenticated in more than one.
    pub async fn authenticate(
        &self,
        authorization: Option<&str>,
        parameters: &Parameters,
    ) -> Result<&OAuthClient, OAuthError> {
        let basic = authorization.map(basic_credentials).transpose()?;
        let client = self.authenticated(basic.as_ref(), parameters).await;
        if let Err(OAuthError::InvalidClient(reason)) = &client {
            self.warn_of_client(basic.as_ref().map(|(id, _)| id.as_str()).or(parameters.get("client_id")), reason);
        }
        client
    }

    async fn authenticated(
        &self,
        basic: Option<&(String, Zeroizing<String>)>,
        parameters: &Parameters,
    ) -> Result<&OAuthClient, OAuthError> {
        let secret = parameters.get("client_secret");
        let assertion = parameters.get("client_assertion");
        if [basic.is_some(), secret.is_some(), assertion.is_some()].into_iter().filter(|is_used| *is_used).count() > 1 {
            return Err(OAuthError::InvalidRequest("the client authenticates in more than one way".to_owned()));
        }
        let named = parameters.get("client_id");
        let client = match (basic, assertion) {
            (Some(raw), _) => self.with_basic(raw)?,
            (_, Some(assertion)) => self.with_assertion(assertion, parameters).await?,
            _ => {
                let id = named.ok_or(OAuthError::InvalidClient("the client does not authenticate"))?;
                match secret {
                    Some(secret) => self.with_secret(id, secret)?,
                    None => self.public_client(id)?,
                }
            }
        };
        if named.is_some_and(|id| id != client.settings.id) {
            return Err(OAuthError::InvalidRequest("client_id is not the client that authenticates".to_owned()));
        }
        Ok(client)
    }

    /// Both parts of HTTP Basic authentication are form-encoded (RFC 6749 §2.3.1), but many clients send them as they are.
    fn with_basic(&self, (id, secret): &(String, Zeroizing<String>)) -> Result<&OAuthClient, OAuthError> {
        self.with_secret(id, secret).or_else(|error| {
            let decoded = (form_decoded(id), Zeroizing::new(form_decoded(secret)));
            if (&decoded.0, &decoded.1) == (id, secret) { Err(error) } else { self.with_secret(&decoded.0, &decoded.1) }
        })
    }

    fn public_client(&self, id: &str) -> Result<&OAuthClient, OAuthError> {
        let client = self.clients.find(id).ok_or(UNKNOWN)?;
        if client.is_public() { Ok(client) } else { Err(OAuthError::InvalidClient("the client must authenticate")) }
    }

    /// A secret is accepted in the header field and in the body, whichever of the two the client has registered, because
    /// libraries disagree in their default and both are equally safe.
    fn with_secret(&self, id: &str, secret: &str) -> Result<&OAuthClient, OAuthError> {
        let client = self.clients.find(id).ok_or(UNKNOWN)?;
        match client.settings.auth_method {
            // Some libraries send an empty secret for a public client.
            AuthMethod::None if secret.is_empty() => Ok(client),
            AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost if client.has_secret(secret) => Ok(client),
            _ => Err(UNKNOWN),
        }
    }

    async fn with_assertion(&self, assertion: &str, parameters: &Parameters) -> Result<&OAuthClient, OAuthError> {
        if parameters.get("client_assertion_type") != Some(JWT_BEARER) {
            return Err(OAuthError::InvalidRequest(format!("client_assertion_type must be {JWT_BEARER}")));
        }
        let invalid = OAuthError::InvalidClient("the assertion of the client is not valid");
        let Some((client, claims)) = self.verify_assertion(assertion) else { return Err(invalid) };
        let now = self.clock.wall().as_seconds();
        if claims.nbf.is_some_and(|nbf| whole_seconds(nbf) > now.saturating_add(LEEWAY_SECONDS)) {
            return Err(OAuthError::InvalidClient("the assertion is not valid yet"));
        }
        let left_seconds = whole_seconds(claims.exp).saturating_sub(now);
        if !(-LEEWAY_SECONDS..=MAX_ASSERTION_SECONDS).contains(&left_seconds) {
            return Err(OAuthError::InvalidClient("the assertion has expired, or is valid for more than an hour"));
        }
        let id = RecordId(sha256(format!("assertion {} {}", client.settings.id, claims.jti).as_bytes()));
        let seconds = u32::try_from(left_seconds + LEEWAY_SECONDS).unwrap_or_default();
        let expires_at = self.clock.now().plus_seconds(seconds + 1);
        // The random value tells this use from another one, if the store has stored it and its answer was lost.
        let used = Record { id, version: 1, expires_at, data: URL_SAFE_NO_PAD.encode(random::bytes::<16>()) };
        if self.repeated(|| self.is_first_use(&used)).await? {
            Ok(client)
        } else {
            Err(OAuthError::InvalidClient("the assertion was used before"))
        }
    }

    /// Stores the use of an assertion. Returns whether it is the first one.
    async fn is_first_use(&self, used: &Record) -> Result<bool, OAuthError> {
        if self.store.insert_record(used).await? {
            return Ok(true);
        }
        let stored = self.store.read_record(&used.id).await?;
        Ok(stored.is_some_and(|stored| stored.data == used.data))
    }

    /// Returns the client whose key has signed an assertion for this server, and the claims.
    fn verify_assertion(&self, assertion: &str) -> Option<(&OAuthClient, Assertion)> {
        let header = decode_header(assertion).ok()?;
        if matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return None;
        }
        // The claims name the client whose keys verify the signature.
        let unverified: Assertion = jsonwebtoken::dangerous::insecure_decode(assertion).ok()?.claims;
        let client = self.clients.find(&unverified.sub)?;
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
        validation.set_issuer(&[&client.settings.id]);
        let endpoints = ["", "/oauth/token", "/oauth/introspect", "/oauth/revoke", "/oauth/device_authorization"];
        validation.set_audience(&endpoints.map(|endpoint| format!("{}{endpoint}", self.issuer)));
        // The caller checks it against the server's clock.
        validation.validate_exp = false;
        let keys = client.keys.as_ref()?.keys.iter();
        let named = keys.filter(|key| header.kid.is_none() || key.common.key_id == header.kid);
        let verified = named.filter_map(|key| {
            let key = DecodingKey::from_jwk(key).ok()?;
            decode::<Assertion>(assertion, &key, &validation).ok()
        });
        verified.map(|verified| (client, verified.claims)).next()
    }
}

/// Returns the whole seconds of a NumericDate, or the nearest time that an `i64` can hold.
#[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
const fn whole_seconds(date: f64) -> i64 {
    date.floor() as i64
}

const UNKNOWN: OAuthError = OAuthError::InvalidClient("the client is unknown, or its credentials are wrong");

/// Returns the id and the secret of HTTP Basic authentication, as they were sent.
fn basic_credentials(field: &str) -> Result<(String, Zeroizing<String>), OAuthError> {
    let malformed = || OAuthError::InvalidClient("the field Authorization is not HTTP Basic authentication");
    let (scheme, encoded) = field.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return Err(malformed());
    }
    let bytes = Zeroizing::new(STANDARD.decode(encoded.trim()).map_err(|_| malformed())?);
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
    let (id, secret) = text.split_once(':').ok_or_else(malformed)?;
    Ok((id.to_owned(), Zeroizing::new(secret.to_owned())))
}

/// Decodes a text of `application/x-www-form-urlencoded`.
fn form_decoded(text: &str) -> String {
    let name = url::form_urlencoded::parse(text.as_bytes()).next();
    name.map_or_else(String::new, |(name, _)| name.into_owned())
}
