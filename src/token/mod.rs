//! The two kinds of token: the `web_token` that is minted here, and the integrator's app tokens that are verified here.

mod app_auth;
mod keys;
mod mint;

pub use app_auth::{AppAuth, AppAuthError, AppUser, AuthError, InvalidToken, MIN_HMAC_SECRET_BYTES, sign_app_token};
pub use keys::{KeyError, KeyRing, PUBLISH_TIME, open_code_secret, read_code_secret};
pub use mint::{MintError, Minter, RESERVED_CLAIMS};

/// The `typ` of a `web_token` (explicit typing, RFC 8725 §3.11); a token with it is never accepted as an app token.
pub const WEB_TOKEN_TYPE: &str = "qrlogin+jwt";
