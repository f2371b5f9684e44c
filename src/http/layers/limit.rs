//! The limits of [`crate::limits`] as layers of routes, and the permits of connections. A request beyond a limit is
//! answered 429, with the name of the setting and `Retry-After`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts as _, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;

use crate::http::layers::RequestChecks;
use crate::http::layers::client::ClientAddress;
use crate::http::problem::ApiError;
use crate::limits::{Call, ConnectionPermit, ConnectionQuota, Exceeded, Limits, QuotaExceeded};

/// The permit of a TCP connection, shared by its requests. A request that waits in the hub takes the permit with it. Empty
/// for a connection of a trusted proxy.
#[derive(Clone, Default)]
pub(crate) struct SharedPermit(Arc<Mutex<Option<ConnectionPermit>>>);

impl SharedPermit {
    pub(crate) fn new(permit: Option<ConnectionPermit>) -> Self {
        Self(Arc::new(Mutex::new(permit)))
    }

    fn take(&self) -> Option<ConnectionPermit> {
        self.0.lock().take()
    }

    fn put_back(&self, permit: ConnectionPermit) {
        *self.0.lock() = Some(permit);
    }
}

/// The permit of a connection that is about to be opened in the hub. Dropping the value returns the permit to the TCP
/// connection that it was taken from.
pub(crate) struct BorrowedPermit {
    permit: Option<ConnectionPermit>,
    taken_from: Option<SharedPermit>,
}

impl BorrowedPermit {
    /// Returns the permit for good, because the connection is opened.
    pub(crate) fn keep(mut self) -> Option<ConnectionPermit> {
        self.permit.take()
    }
}

impl Drop for BorrowedPermit {
    fn drop(&mut self) {
        if let (Some(permit), Some(connection)) = (self.permit.take(), &self.taken_from) {
            connection.put_back(permit);
        }
    }
}

/// All limits on clients. Both fields are `None` if `limits.enabled` is false.
#[derive(Default)]
pub struct ClientLimits {
    /// Limits on calls per minute.
    pub rates: Option<Limits>,
    /// Limits on open connections.
    pub sockets: Option<Arc<ConnectionQuota>>,
}

impl ClientLimits {
    pub(crate) fn admit(&self, call: Call, address: IpAddr) -> Result<(), Exceeded> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.admit(call, address))
    }

    /// Counts a connection from `address`, and returns its permit, or `None` without limits.
    pub(crate) fn permit(&self, address: IpAddr) -> Result<Option<ConnectionPermit>, QuotaExceeded> {
        self.sockets.as_ref().map(|sockets| sockets.permit(address)).transpose()
    }

    /// Returns the permit of a request that is about to wait: that of its TCP connection, if it has one. The connections
    /// of a trusted proxy are not counted, so a request through one gets a permit of its client at `address`.
    pub(crate) fn borrow_permit(&self, taken: &SharedPermit, address: IpAddr) -> Result<BorrowedPermit, QuotaExceeded> {
        Ok(match taken.take() {
            Some(permit) => BorrowedPermit { permit: Some(permit), taken_from: Some(taken.clone()) },
            None => BorrowedPermit { permit: self.permit(address)?, taken_from: None },
        })
    }
}

/// Counts a call before its handler runs, and refuses it if it exceeds the rate.
async fn admit(call: Call, checks: Arc<RequestChecks>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let admitted = match ClientAddress::from_request_parts(&mut parts, &checks).await {
        Ok(ClientAddress(address)) => checks.limits.admit(call, address),
        Err(status) => return status.into_response(),
    };
    match admitted {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(exceeded) => ApiError::from(exceeded).into_response(),
    }
}

pub(crate) async fn generate(State(checks): State<Arc<RequestChecks>>, request: Request, next: Next) -> Response {
    admit(Call::Generate, checks, request, next).await
}

pub(crate) async fn status(State(checks): State<Arc<RequestChecks>>, request: Request, next: Next) -> Response {
    admit(Call::Status, checks, request, next).await
}
