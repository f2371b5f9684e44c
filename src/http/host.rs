//! The hosts under which the demo answers: a page of another name that leads to this machine (DNS rebinding) must not get
//! itself a user. `serve` has nothing to protect in this way: what it does for a page, it does by the page's origin.

use axum::http::header::HOST;
use axum::http::uri::Authority;
use url::Host;

use super::problem::ApiError;
use super::upgrade::Fields;
use crate::config::{AllowedOrigin, Settings};

/// The hosts that are answered; any, if there is none.
#[derive(Default)]
pub(super) struct Hosts(Vec<AllowedOrigin>);

impl Hosts {
    /// Those of `public_url` and `allowed_origins`.
    pub(super) fn of(settings: &Settings) -> Self {
        Self(settings.origins())
    }

    /// Whether a request with these fields is for one of them, whatever its port.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check(&self, fields: &(impl Fields + ?Sized)) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let named = fields.line(&HOST).unwrap_or_default();
        let authority = Authority::try_from(named).ok();
        // (Parsed as URLs are: without regard to case.)
        let host = authority.and_then(|authority| Host::parse(authority.host()).ok());
        if host.is_some_and(|host| self.0.iter().any(|origin| origin.has_host(&host))) {
            return Ok(());
        }
        Err(ApiError::ForbiddenHost(format!("'{}'", String::from_utf8_lossy(named))))
    }
}
