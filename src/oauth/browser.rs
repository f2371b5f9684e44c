use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::clients::sha256;
use crate::system::random;
use crate::token::Kept;

/// The cookie that ties an authorization request to the browser that made it. Its page then is of no use in another
/// browser.
#[derive(Clone, Serialize, Deserialize)]
pub struct BrowserCookie {
    secret: String,
}

impl Kept for BrowserCookie {
    const PURPOSE: &'static str = "browser";
    const SECONDS: u32 = 86_400;
}

impl BrowserCookie {
    /// Returns the cookie of a browser that has none.
    #[must_use]
    pub fn random() -> Self {
        Self { secret: URL_SAFE_NO_PAD.encode(random::bytes::<16>()) }
    }

    /// Returns the hash that the request keeps.
    #[must_use]
    pub fn hash(&self) -> String {
        URL_SAFE_NO_PAD.encode(sha256(self.secret.as_bytes()))
    }
}
