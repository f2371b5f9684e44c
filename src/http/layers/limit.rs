//! The limits of [`crate::limits`] as layers of routes, and the seats of connections. A request beyond a limit is
//! answered 429, with the name of the setting and `Retry-After`.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{FromRequestParts as _, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::http::App;
use crate::http::layers::client::ClientAddress;
use crate::http::problem::ApiError;
use crate::limits::{Call, Exceeded, Full, Limits, Seat, Sockets};

/// The seat of a TCP connection, shared by its requests. A request that waits in the hub takes the seat with it. Empty
/// for a connection of a trusted proxy.
#[derive(Clone, Default)]
pub(crate) struct SeatOfConnection(Arc<Mutex<Option<Seat>>>);

impl SeatOfConnection {
    pub(crate) fn new(seat: Option<Seat>) -> Self {
        Self(Arc::new(Mutex::new(seat)))
    }

    fn take(&self) -> Option<Seat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put_back(&self, seat: Seat) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seat);
    }
}

/// The seat of a connection that is about to be opened in the hub. Dropping the value returns the seat to the TCP
/// connection that it was taken from.
pub(crate) struct Held {
    seat: Option<Seat>,
    taken_from: Option<SeatOfConnection>,
}

impl Held {
    /// Returns the seat for good, because the connection is opened.
    pub(crate) fn keep(mut self) -> Option<Seat> {
        self.seat.take()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(seat), Some(connection)) = (self.seat.take(), &self.taken_from) {
            connection.put_back(seat);
        }
    }
}

/// All limits on clients. Both fields are `None` if `limits.enabled` is false.
#[derive(Default)]
pub struct ClientLimits {
    /// Limits on calls per minute.
    pub rates: Option<Limits>,
    /// Limits on open connections.
    pub sockets: Option<Arc<Sockets>>,
}

impl ClientLimits {
    pub(crate) fn admit(&self, call: Call, address: IpAddr) -> Result<(), Exceeded> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.admit(call, address))
    }

    /// Counts a connection from `address`, and returns its seat, or `None` without limits.
    pub(crate) fn seat(&self, address: IpAddr) -> Result<Option<Seat>, Full> {
        self.sockets.as_ref().map(|sockets| sockets.seat(address)).transpose()
    }

    /// Returns the seat of a request that is about to wait: that of its TCP connection, if it has one. The connections
    /// of a trusted proxy are not counted, so a request through one gets a seat of its client at `address`.
    pub(crate) fn seat_of(&self, taken: &SeatOfConnection, address: IpAddr) -> Result<Held, Full> {
        Ok(match taken.take() {
            Some(seat) => Held { seat: Some(seat), taken_from: Some(taken.clone()) },
            None => Held { seat: self.seat(address)?, taken_from: None },
        })
    }
}

/// Counts a call before its handler runs, and refuses it if it exceeds the rate.
async fn admit(call: Call, app: Arc<App>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let admitted = match ClientAddress::from_request_parts(&mut parts, &app).await {
        Ok(ClientAddress(address)) => app.limits.admit(call, address),
        Err(status) => return status.into_response(),
    };
    match admitted {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(exceeded) => ApiError::from(exceeded).into_response(),
    }
}

pub(crate) async fn generate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    admit(Call::Generate, app, request, next).await
}

pub(crate) async fn status(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    admit(Call::Status, app, request, next).await
}
