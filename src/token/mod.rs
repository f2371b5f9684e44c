//! The two kinds of token: the server mints `web_token`s, and verifies the app tokens of the integrator.

mod app_auth;
mod key_file;
mod keys;
mod mint;

pub use app_auth::{AppAuth, AppAuthError, AppUser, AuthError, InvalidToken, MIN_HMAC_SECRET_BYTES, sign_app_token};
pub use keys::{KeyError, KeyRing, PUBLISH_TIME, open_code_secret, read_code_secret};
pub use mint::{MintError, Minter, RESERVED_CLAIMS};

/// The `typ` of a `web_token` (explicit typing, RFC 8725 §3.11). A token of this type is never accepted as an app
/// token.
pub const WEB_TOKEN_TYPE: &str = "qrlogin+jwt";
