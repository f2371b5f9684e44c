//! Verification of the ID token (OpenID Connect Core 1.0 §3.1.3.7), by the crate `openidconnect`.

use chrono::DateTime;
use openidconnect::core::{
    CoreGenderClaim, CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm,
};
use openidconnect::{AccessToken, AccessTokenHash, ClientId, ClientSecret, EmptyAdditionalClaims, IdToken, Nonce};

use super::metadata::Metadata;
use super::{DeviceClientSettings, DeviceError};
use crate::system::clock::Clock;
use crate::telemetry::cause::explain;

type AnyIdToken =
    IdToken<EmptyAdditionalClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;

/// Returns a verifier of ID tokens that the issuer signed with one of these keys for this client.
pub(super) fn verifier<'c>(
    settings: &DeviceClientSettings,
    metadata: &Metadata,
    keys: CoreJsonWebKeySet,
    clock: &'c Clock,
) -> CoreIdTokenVerifier<'c> {
    let (id, issuer) = (ClientId::new(settings.client_id.clone()), metadata.issuer.clone());
    let verifier = if settings.client_secret.is_empty() {
        CoreIdTokenVerifier::new_public_client(id, issuer, keys)
    } else {
        let secret = ClientSecret::new(settings.client_secret.expose().to_owned());
        CoreIdTokenVerifier::new_confidential_client(id, secret, issuer, keys)
    };
    verifier
        .set_allowed_algs(metadata.signing_algorithms())
        .set_time_fn(|| DateTime::from_timestamp_millis(clock.wall().as_millis()).unwrap_or_default())
}

/// Verifies an ID token, and that it belongs to the access token. Returns the name of the user: the first of the claims
/// `name`, `preferred_username`, `email` and `sub`.
pub(super) fn verified_user(
    verifier: &CoreIdTokenVerifier<'_>,
    token: &AnyIdToken,
    access_token: &AccessToken,
) -> Result<String, DeviceError> {
    // A device authorization request has no nonce: the device code binds the response to the client.
    let without_nonce = |_: Option<&Nonce>| Ok(());
    let invalid = |error: &(dyn std::error::Error + 'static)| DeviceError::IdToken(explain(error));
    let claims = token.claims(verifier, without_nonce).map_err(|error| invalid(&error))?;
    if let Some(expected) = claims.access_token_hash() {
        let algorithm = token.signing_alg().map_err(|error| invalid(&error))?;
        let key = token.signing_key(verifier).map_err(|error| invalid(&error))?;
        let actual = AccessTokenHash::from_token(access_token, algorithm, key).map_err(|error| invalid(&error))?;
        if actual != *expected {
            return Err(DeviceError::IdToken("it belongs to another access token (at_hash)".to_owned()));
        }
    }
    let name = claims.name().and_then(|name| name.get(None)).map(|name| name.as_str());
    let name = name.or_else(|| claims.preferred_username().map(|name| name.as_str()));
    let name = name.or_else(|| claims.email().map(|email| email.as_str()));
    Ok(name.unwrap_or_else(|| claims.subject().as_str()).to_owned())
}
