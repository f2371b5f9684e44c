//! How much one client may ask for, as the routes see it. Each answers 429 with the setting's name, and when to come back.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{FromRequestParts as _, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::App;
use super::client::ClientAddress;
use super::problem::ApiError;
use crate::limits::{Call, Exceeded, Full, Limits, Seat, Sockets};

/// The place of a connection among those of its address; a request that becomes a WebSocket takes it along.
#[derive(Clone, Default)]
pub(super) struct SeatOfConnection(Arc<Mutex<Option<Seat>>>);

impl SeatOfConnection {
    pub(super) fn new(seat: Option<Seat>) -> Self {
        Self(Arc::new(Mutex::new(seat)))
    }

    fn take(&self) -> Option<Seat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put_back(&self, seat: Seat) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seat);
    }
}

/// The seat of a browser that is about to wait. Unless it is kept, it goes back to the connection that it was taken from.
pub(super) struct Held {
    seat: Option<Seat>,
    taken_from: Option<SeatOfConnection>,
}

impl Held {
    /// The browser waits.
    pub(super) fn keep(mut self) -> Option<Seat> {
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

/// All limits on clients. None are set when `limits.enabled` is false.
#[derive(Default)]
pub struct ClientLimits {
    /// How much in a minute.
    pub rates: Option<Limits>,
    /// How many connections at once.
    pub sockets: Option<Arc<Sockets>>,
}

impl ClientLimits {
    pub(super) fn admit(&self, call: Call, address: IpAddr) -> Result<(), Exceeded> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.admit(call, address))
    }

    /// A place for a connection of this address.
    pub(super) fn seat(&self, address: IpAddr) -> Result<Option<Seat>, Full> {
        self.sockets.as_ref().map(|sockets| sockets.seat(address)).transpose()
    }

    /// The place of a connection that is to become a WebSocket: its own, or if it comes from a proxy, which has any number,
    /// one of the client behind it.
    pub(super) fn seat_of(&self, taken: &SeatOfConnection, address: IpAddr) -> Result<Held, Full> {
        Ok(match taken.take() {
            Some(seat) => Held { seat: Some(seat), taken_from: Some(taken.clone()) },
            None => Held { seat: self.seat(address)?, taken_from: None },
        })
    }
}

/// Counts a call, before anything is done for it.
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

pub(super) async fn generate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    admit(Call::Generate, app, request, next).await
}

pub(super) async fn status(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    admit(Call::Status, app, request, next).await
}
