use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::clients::sha256;
use crate::system::random;
use crate::token::Kept;

/// Length of the part of the name that distinguishes cookies, in characters.
const PART_CHARS: usize = 8;

/// The cookie that ties an authorization request to the browser that made it. Its page then is of no use in another
/// browser. A browser that makes its first two requests at the same time gets two cookies, so each has a name of its own.
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

    /// Returns the part of the cookie's name that distinguishes it from the browser's others.
    #[must_use]
    pub fn part(&self) -> String {
        format!("-{}", &self.hash()[..PART_CHARS])
    }

    /// Returns the hash that the request keeps.
    #[must_use]
    pub fn hash(&self) -> String {
        URL_SAFE_NO_PAD.encode(sha256(self.secret.as_bytes()))
    }
}
