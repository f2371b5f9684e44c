//! The host names under which the demo answers. A foreign page whose host name resolves to this machine (DNS rebinding)
//! must not log in as a user of the demo. `serve` does not check host names, because its browser routes check the page's
//! origin.

use axum::http::header::HOST;
use axum::http::uri::Authority;
use url::Host;

use crate::config::{AllowedOrigin, Settings};
use crate::http::problem::ApiError;
use crate::wire::fields::Fields;

/// Origins whose hosts may be requested. An empty list allows every host.
#[derive(Default)]
pub(crate) struct Hosts(Vec<AllowedOrigin>);

impl Hosts {
    /// Allows the hosts of `public_url` and `allowed_origins`.
    pub(crate) fn of(settings: &Settings) -> Self {
        Self(settings.origins())
    }

    /// Checks the host in the header field `Host`. The port is ignored.
    ///
    /// # Errors
    /// Returns an error if the host is not allowed.
    pub(crate) fn check(&self, fields: &(impl Fields + ?Sized)) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let named = fields.line(&HOST).unwrap_or_default();
        let authority = Authority::try_from(named).ok();
        // Parsing a host as in a URL makes the comparison independent of case.
        let host = authority.and_then(|authority| Host::parse(authority.host()).ok());
        if host.is_some_and(|host| self.0.iter().any(|origin| origin.has_host(&host))) {
            return Ok(());
        }
        Err(ApiError::ForbiddenHost(format!("'{}'", String::from_utf8_lossy(named))))
    }
}
