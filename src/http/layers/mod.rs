//! The layers that requests pass through, and the checks that they make: origins, host names, addresses, limits.

pub(super) mod base;
pub(super) mod body;
pub(super) mod client;
pub(super) mod forwarded;
pub(super) mod host;
pub(super) mod limit;
pub(super) mod observe;
pub(super) mod origin;
pub(super) mod risk;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::problem::{ApiError, Refused};

/// The checks of every request.
pub(crate) struct RequestChecks {
    pub(super) origins: origin::OriginPolicy,
    pub(super) hosts: host::Hosts,
    pub(super) proxies: client::TrustedProxies,
    pub(super) limits: Arc<limit::ClientLimits>,
    pub(super) base: Arc<base::BasePath>,
    pub(super) bodies: body::BodyLimits,
}

/// Refuses a request that no route needs to see: one with a bad body, one that the acceptor has refused, and one for a
/// foreign host. The body is read first, because a connection that is closed with unread data is reset, and the client
/// would not read the response.
pub(super) async fn accept(
    State(checks): State<Arc<RequestChecks>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let mut request = checks.bodies.read(request).await?;
    if let Some(Refused(error)) = request.extensions_mut().remove::<Refused>() {
        return Err(error);
    }
    checks.hosts.check(request.headers())?;
    Ok(next.run(request).await)
}
