//! The metadata of the server (OpenID Connect Discovery §3, RFC 8414 §2), by the types of the crate `openidconnect`.

use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm, CoreResponseMode,
    CoreResponseType, CoreSubjectIdentifierType,
};
use openidconnect::url::ParseError;
use openidconnect::{
    AdditionalProviderMetadata, AuthUrl, AuthenticationContextClass, IssuerUrl, JsonWebKeySetUrl, LanguageTag,
    ProviderMetadata, ResponseTypes, Scope, TokenUrl, UserInfoUrl,
};
use serde::{Deserialize, Serialize};

use super::OAuth;
use super::tokens::ACR;
use crate::config::{DEVICE_CODE_GRANT, GrantType, OFFLINE_ACCESS};
use crate::token::{KeyKind, SCOPES, identity_claims};

/// Path of the metadata (OpenID Connect Discovery §4).
pub const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";
/// Path of the metadata (RFC 8414 §3).
pub const AUTHORIZATION_SERVER_METADATA: &str = "/.well-known/oauth-authorization-server";

/// Languages of the pages.
const LANGUAGES: [&str; 4] = ["en", "zh-CN", "de", "es"];
/// Ways in which clients authenticate at the token endpoint.
const AUTH_METHODS: [CoreClientAuthMethod; 4] = [
    CoreClientAuthMethod::ClientSecretBasic,
    CoreClientAuthMethod::ClientSecretPost,
    CoreClientAuthMethod::PrivateKeyJwt,
    CoreClientAuthMethod::None,
];

/// Algorithms that sign the assertions of clients.
const ASSERTION_ALGORITHMS: [CoreJwsSigningAlgorithm; 4] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// The metadata of the server.
pub type Metadata = ProviderMetadata<
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

/// The metadata that the crate has no fields for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OtherMetadata {
    device_authorization_endpoint: String,
    introspection_endpoint: String,
    revocation_endpoint: String,
    end_session_endpoint: String,
    introspection_endpoint_auth_methods_supported: Vec<CoreClientAuthMethod>,
    introspection_endpoint_auth_signing_alg_values_supported: Vec<CoreJwsSigningAlgorithm>,
    revocation_endpoint_auth_methods_supported: Vec<CoreClientAuthMethod>,
    revocation_endpoint_auth_signing_alg_values_supported: Vec<CoreJwsSigningAlgorithm>,
    code_challenge_methods_supported: Vec<String>,
    prompt_values_supported: Vec<String>,
    /// RFC 9207 §3.
    authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for OtherMetadata {}

impl OAuth {
    /// Returns the metadata of the server.
    ///
    /// # Errors
    /// Returns an error if `public_url` is not a URL, which the settings' check refuses.
    pub fn metadata(&self) -> Result<Metadata, ParseError> {
        let at = |path: &str| format!("{}{path}", self.issuer);
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let other = OtherMetadata {
            device_authorization_endpoint: at("/oauth/device_authorization"),
            introspection_endpoint: at("/oauth/introspect"),
            revocation_endpoint: at("/oauth/revoke"),
            end_session_endpoint: at("/oauth/logout"),
            introspection_endpoint_auth_methods_supported: AUTH_METHODS[..3].to_vec(),
            introspection_endpoint_auth_signing_alg_values_supported: ASSERTION_ALGORITHMS.to_vec(),
            revocation_endpoint_auth_methods_supported: AUTH_METHODS.to_vec(),
            revocation_endpoint_auth_signing_alg_values_supported: ASSERTION_ALGORITHMS.to_vec(),
            code_challenge_methods_supported: texts(&["S256"]),
            prompt_values_supported: texts(&["none", "login", "consent", "select_account"]),
            authorization_response_iss_parameter_supported: true,
        };
        let algorithms = vec![CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256, CoreJwsSigningAlgorithm::EdDsa];
        let scopes = ["openid"].into_iter().chain(SCOPES.map(|(scope, _)| scope)).chain([OFFLINE_ACCESS]);
        let claims = ["sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "at_hash", "sid"];
        let claims = claims.into_iter().chain(identity_claims());
        let metadata = Metadata::new(
            IssuerUrl::new(self.issuer.clone())?,
            AuthUrl::new(at("/oauth/authorize"))?,
            JsonWebKeySetUrl::new(at("/.well-known/jwks.json"))?,
            vec![ResponseTypes::new(vec![CoreResponseType::Code])],
            vec![CoreSubjectIdentifierType::Public],
            algorithms.clone(),
            other,
        );
        Ok(metadata
            .set_token_endpoint(Some(TokenUrl::new(at("/oauth/token"))?))
            .set_userinfo_endpoint(Some(UserInfoUrl::new(at("/oauth/userinfo"))?))
            .set_scopes_supported(Some(scopes.map(|scope| Scope::new(scope.to_owned())).collect()))
            .set_claims_supported(Some(claims.map(|claim| CoreClaimName::new(claim.to_owned())).collect()))
            .set_claim_types_supported(Some(vec![CoreClaimType::Normal]))
            .set_response_modes_supported(Some(vec![CoreResponseMode::Query, CoreResponseMode::FormPost]))
            .set_grant_types_supported(Some(vec![
                CoreGrantType::AuthorizationCode,
                CoreGrantType::RefreshToken,
                CoreGrantType::Extension(DEVICE_CODE_GRANT.to_owned()),
            ]))
            .set_acr_values_supported(Some(vec![AuthenticationContextClass::new(ACR.to_owned())]))
            .set_token_endpoint_auth_methods_supported(Some(AUTH_METHODS.to_vec()))
            .set_token_endpoint_auth_signing_alg_values_supported(Some(ASSERTION_ALGORITHMS.to_vec()))
            .set_ui_locales_supported(Some(LANGUAGES.map(|tag| LanguageTag::new(tag.to_owned())).to_vec()))
            .set_claims_parameter_supported(Some(false))
            .set_request_parameter_supported(Some(false))
            .set_request_uri_parameter_supported(Some(false))
            .set_require_request_uri_registration(Some(false)))
    }

    /// Returns whether a client needs a signing key of this kind.
    #[must_use]
    pub fn needs_key(&self, kind: KeyKind) -> bool {
        self.clients.all().any(|client| client.signing_kind() == kind)
    }

    /// Returns whether a client may use this grant.
    #[must_use]
    pub fn has_clients_with(&self, grant: GrantType) -> bool {
        self.clients.all().any(|client| client.settings.may_use(grant))
    }
}
