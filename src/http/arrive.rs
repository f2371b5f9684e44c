//! The way in for a browser that waits, whatever it waits on: limit, seat, register, read. In this order: what is refused
//! costs nothing and writes nothing, and a change that comes between registering and reading is not missed.

use std::net::IpAddr;

use super::App;
use super::limit::{Held, SeatOfConnection};
use super::problem::ApiError;
use crate::hub::Registration;
use crate::limits::Call;
use crate::login::{Arrival, LoginError};
use crate::session::{Session, SessionKey, Timestamp};

/// A browser that is to wait: its place in the registry, its session as it was read then, and its seat.
pub(super) struct Arrived {
    pub(super) registration: Registration,
    pub(super) found: Arrival,
    pub(super) seat: Held,
}

/// The outcome of [`arrive_if`].
pub(super) enum Admitted {
    /// The browser is to wait.
    Waits(Box<Arrived>),
    /// The browser is to be answered now, with its session as of this instant.
    Answered(Box<(Session, Timestamp)>),
}

/// Registers a browser under its session's key, and reads the session. Counts it as `call`, unless it has been counted.
/// The browser's connection keeps its seat if it is refused.
///
/// # Errors
/// The client asks too often or has too many connections, the server is stopping, there is no such session, or the
/// store fails.
pub(super) async fn arrive(
    app: &App,
    key: SessionKey,
    address: IpAddr,
    call: Option<Call>,
    taken: &SeatOfConnection,
) -> Result<Arrived, ApiError> {
    if let Some(call) = call {
        app.limits.admit(call, address)?;
    }
    let seat = app.limits.seat_of(taken, address)?;
    let registration = app.hub.register(key)?;
    let mut found = app.logins.attach(&[key]).await;
    let found = found.remove(&key).ok_or(LoginError::NotFound)?.map_err(LoginError::from)?;
    Ok(Arrived { registration, found, seat })
}

/// As [`arrive`], of a browser that waits only if its session `is_awaited`: else it takes the session from no other
/// connection.
///
/// # Errors
/// As [`arrive`].
pub(super) async fn arrive_if(
    app: &App,
    key: SessionKey,
    address: IpAddr,
    call: Option<Call>,
    taken: &SeatOfConnection,
    is_awaited: impl Fn(&Session, Timestamp) -> bool,
) -> Result<Admitted, ApiError> {
    app.hub.receipt_settled(key).await;
    // With several nodes, attaching writes.
    if app.logins.store.is_shared() {
        if let Some(call) = call {
            app.limits.admit(call, address)?;
        }
        let (session, now) = app.logins.current(key).await?;
        if !is_awaited(&session, now) {
            return Ok(Admitted::Answered(Box::new((session, now))));
        }
    }
    let call = call.filter(|_| !app.logins.store.is_shared());
    let arrived = arrive(app, key, address, call, taken).await?;
    let (session, read_at) = (&arrived.found.session, arrived.found.read_at);
    if is_awaited(session, read_at) {
        return Ok(Admitted::Waits(Box::new(arrived)));
    }
    Ok(Admitted::Answered(Box::new((session.clone(), read_at))))
}
