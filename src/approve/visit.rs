//! What the approve page remembers in the phone's browser, as sealed values.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LoginFlow;
use crate::token::Kept;

/// A user who has logged in at the provider.
#[derive(Clone, Serialize, Deserialize)]
pub struct Visit {
    /// Claims that describe the user, and those that are passed on into `web_token`.
    pub claims: Map<String, Value>,
    /// ID token, which names the session at the provider in a logout. Left out if it is long.
    pub id_token: Option<String>,
}

/// A login at the provider that has begun.
#[derive(Clone, Serialize, Deserialize)]
pub struct Flow {
    /// Secrets of the authorization request.
    pub login: LoginFlow,
    /// Code of the QR code that brought the user here.
    pub code: String,
}

/// A code that this browser opened by itself, as a camera makes it, and not by a link of another site.
#[derive(Clone, Serialize, Deserialize)]
pub struct Opened {
    /// Code of the QR code.
    pub code: String,
    /// Time at which it was opened, in milliseconds of `Timestamp`.
    pub at_millis: i64,
}

impl Kept for Visit {
    const PURPOSE: &'static str = "visit";
    const SECONDS: u32 = 7 * 86_400;
}

impl Kept for Flow {
    const PURPOSE: &'static str = "flow";
    const SECONDS: u32 = 600;
}

impl Kept for Opened {
    const PURPOSE: &'static str = "opened";
    const SECONDS: u32 = 3600;
}
