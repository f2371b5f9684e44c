//! The two kinds of token: the server mints `web_token`s, and verifies the app tokens of the integrator.

mod app_auth;
mod key_dir;
mod key_file;
mod key_ring;
#[cfg(test)]
mod key_ring_test;
mod mint;
mod scopes;
mod seal;
mod secret_files;
mod signing_key;

pub use app_auth::{
    AppAuth, AppAuthError, AppUser, AuthError, ClaimRules, InvalidToken, MIN_HMAC_SECRET_BYTES, check_jwk,
    sign_app_token,
};
pub use key_dir::KeyError;
pub use key_ring::{KeyRing, PUBLISH_TIME};
pub use mint::{AMR, MintError, Minter, RESERVED_CLAIMS};
pub use scopes::{SCOPES, identity_claims, scope_claims};
pub use seal::{Kept, Sealer};
pub use secret_files::{SecretBytes, check_cookie_secrets, open_code_secret, open_cookie_secrets, read_code_secret};
pub use signing_key::KeyKind;

/// The `typ` of a `web_token` (explicit typing, RFC 8725 §3.11). A token of this type is never accepted as an app
/// token.
pub const WEB_TOKEN_TYPE: &str = "qrlogin+jwt";
