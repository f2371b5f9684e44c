//! The host name in a request, and the host names under which the demo answers. A foreign page whose host name resolves
//! to this machine (DNS rebinding) must not log in as a user of the demo. `serve` does not check host names, because its
//! browser routes check the page's origin.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use url::Host;

use crate::config::{AllowedOrigin, Settings};
use crate::http::layers::RequestChecks;
use crate::http::layers::client::Peer;
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
        if named_host(fields).is_some_and(|host| self.0.iter().any(|origin| origin.has_host(&host))) {
            return Ok(());
        }
        let named = fields.line(&HOST).unwrap_or_default();
        Err(ApiError::ForbiddenHost(format!("'{}'", String::from_utf8_lossy(named))))
    }
}

/// Returns the host in the header field `Host`, without the port.
fn named_host(fields: &(impl Fields + ?Sized)) -> Option<Host> {
    let authority = Authority::try_from(fields.line(&HOST)?).ok()?;
    // Parsing a host as in a URL makes comparisons independent of case.
    Host::parse(authority.host()).ok()
}

/// The host under which the visitor has opened a page. `None` behind a trusted proxy, which may have replaced it.
pub(crate) struct OpenedHost(pub(crate) Option<Host>);

impl<S: Sync> FromRequestParts<S> for OpenedHost
where
    Arc<RequestChecks>: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
        let is_direct = peer.is_some_and(|peer| !Arc::<RequestChecks>::from_ref(state).proxies.trusts(peer));
        Ok(Self(if is_direct { named_host(&parts.headers) } else { None }))
    }
}
