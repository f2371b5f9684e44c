//! App tokens, and directories of signing keys.

use std::path::{Path, PathBuf};

use qrlogin::internals::system::clock::Clock;
use qrlogin::internals::token::{KeyRing, sign_app_token};
use serde_json::Value;

use crate::harness::SECRET;
use crate::real_time::wall_seconds;

/// Signs an app token with these claims and the secret of the tests. It expires in ten minutes by the machine's clock
/// unless the claims have an `exp`.
pub fn app_token(claims: Value) -> String {
    let mut claims = claims;
    let object = claims.as_object_mut().expect("claims are an object");
    object.entry("exp").or_insert((wall_seconds() + 600).into());
    app_token_signed(SECRET.as_bytes(), &claims)
}

/// Signs an app token with HS256 and this secret. The claims, which must be an object, are not changed.
pub fn app_token_signed(secret: &[u8], claims: &Value) -> String {
    sign_app_token(secret, claims.as_object().expect("claims are an object")).unwrap()
}

/// The signing key of a key directory.
pub struct SigningKey {
    /// Id of the key, as in the header of the tokens that it signs.
    pub kid: String,
    /// The public key, as a member of the published JWK Set.
    pub public_jwk: Value,
    /// File of the private key, in PEM form.
    pub file: PathBuf,
}

/// Creates a key directory with a new signing key, as the server does when it first starts.
pub fn new_signing_key(dir: &Path) -> SigningKey {
    let ring = KeyRing::open(dir, Clock::system()).unwrap();
    SigningKey { kid: ring.signing(), public_jwk: ring.jwks()["keys"][0].clone(), file: dir.join("web-token.pem") }
}
