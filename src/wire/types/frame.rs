//! Frames from the server to a browser.

use serde::Serialize;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::session::{Cancellation, PhoneUser};

/// A frame from the server to the browser.
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Frame {
    /// The session waits to be scanned.
    Pending {
        /// Version of the session.
        version: u32,
        /// Time until the session expires, in seconds.
        expires_in: u64,
    },
    /// A phone has scanned the code.
    Scanned {
        /// Version of the session.
        version: u32,
        /// The user who scanned.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<UserView>,
        /// With number matching, the number that the browser shows.
        #[serde(skip_serializing_if = "Option::is_none")]
        number: Option<String>,
    },
    /// The code has rotated. The browser shows the new one from now on.
    Rotated(CodeView),
    /// The login is confirmed.
    Confirmed(Confirmed),
    /// The user rejected the login.
    Rejected {
        /// Explanation of the state, for people.
        message: &'static str,
    },
    /// The session has expired.
    Expired {
        /// Explanation of the state, for people.
        message: &'static str,
    },
    /// The session was cancelled.
    Cancelled {
        /// `overload` if the server cancelled the session. Left out if the browser did.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
}

impl Frame {
    /// Returns the frame of a session that a phone user has rejected.
    #[must_use]
    pub const fn rejected() -> Self {
        Self::Rejected { message: "Login rejected by user" }
    }

    /// Returns the frame of a session that has expired.
    #[must_use]
    pub const fn expired() -> Self {
        Self::Expired { message: "QR code expired" }
    }

    /// Returns the frame of a session that was cancelled.
    #[must_use]
    pub const fn cancelled(by: Cancellation) -> Self {
        match by {
            Cancellation::Browser => Self::Cancelled { reason: None },
            Cancellation::Overload => Self::Cancelled { reason: Some("overload") },
        }
    }

    /// Returns the frame of a session whose token has been acknowledged.
    #[must_use]
    pub const fn claimed() -> Self {
        Self::Confirmed(Confirmed::Claimed { claimed: true })
    }

    /// Returns the value of the member `status`.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Scanned { .. } => "scanned",
            Self::Rotated(_) => "rotated",
            Self::Confirmed(_) => "confirmed",
            Self::Rejected { .. } => "rejected",
            Self::Expired { .. } => "expired",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

/// The rest of a `confirmed` frame: the token, or who has it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Confirmed {
    /// The token has not been acknowledged, and is delivered.
    Token {
        /// The JWT, which is a secret.
        #[schema(value_type = String)]
        web_token: Zeroizing<String>,
        /// Type of the token, always `Bearer` (RFC 6750).
        token_type: &'static str,
        /// Time until the token expires, in seconds.
        expires_in: u64,
        /// The user who confirmed.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<UserView>,
    },
    /// An OAuth client collects the result: its tokens are at the token endpoint, or behind the redirect.
    Collect {
        /// Always the constant `true`.
        collect: bool,
        /// The user who confirmed.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<UserView>,
    },
    /// The token has been acknowledged, and is not delivered again.
    Claimed {
        /// Always the constant `true`.
        claimed: bool,
    },
}

/// The user who scanned or confirmed, as the app token describes them.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UserView {
    /// Display name of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// URL of a picture of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
}

impl UserView {
    /// Returns the fields of `user` that the browser may see, or `None` if the app token has neither of them.
    #[must_use]
    pub fn of(user: PhoneUser) -> Option<Self> {
        (user.name.is_some() || user.picture.is_some()).then_some(Self { name: user.name, picture: user.picture })
    }
}

/// A code as text, as a URL and as a picture.
#[derive(Debug, Serialize, ToSchema)]
pub struct CodeView {
    /// The code in the QR code. It is public.
    pub code: String,
    /// The URL in the QR code.
    pub qr_url: String,
    /// The QR code as a `data:image/svg+xml` URL.
    pub qr_image: String,
}

/// The data of the server-sent event `close`.
#[derive(Debug, Serialize)]
pub struct CloseView<'a> {
    /// Close code, one of [`super::close_code`].
    pub code: u16,
    /// Close reason, which may be empty.
    pub reason: &'a str,
}
