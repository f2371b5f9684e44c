//! Registers a connection of any kind, in four steps: count the call, count the connection, register it in the hub,
//! read the session's row. A refused request therefore writes nothing, and a change that commits between the last two
//! steps is queued for the connection instead of missed.

use std::net::IpAddr;

use super::App;
use super::layers::limit::{BorrowedPermit, SharedPermit};
use super::problem::ApiError;
use crate::hub::Registration;
use crate::limits::Call;
use crate::login::{AttachedSession, LoginError};
use crate::session::{Session, SessionKey, Timestamp};

/// A connection that is ready to be opened: its registration, its session's row, and its seat.
pub(super) struct Arrived {
    pub(super) registration: Registration,
    pub(super) found: AttachedSession,
    pub(super) permit: BorrowedPermit,
}

/// The outcome of [`arrive_if`].
pub(super) enum Admitted {
    /// The browser waits for a change of its session.
    Waits(Box<Arrived>),
    /// The request is answered at once, with the session as of the given time.
    Answered(Box<(Session, Timestamp)>),
}

/// Registers a connection for the session `key`, and reads the session. Counts the request as `call`, or not if `call`
/// is `None`. If the request is refused, the seat returns to the TCP connection.
///
/// # Errors
/// Returns an error if the client exceeds a limit, the server is stopping, there is no such session, or the store
/// fails.
pub(super) async fn arrive(
    app: &App,
    key: SessionKey,
    address: IpAddr,
    call: Option<Call>,
    taken: &SharedPermit,
) -> Result<Arrived, ApiError> {
    if let Some(call) = call {
        app.limits.admit(call, address)?;
    }
    let permit = app.limits.borrow_permit(taken, address)?;
    let registration = app.hub.register(key)?;
    let mut found = app.logins.attach(&[key]).await;
    let found = found.remove(&key).ok_or(LoginError::NotFound)?.map_err(LoginError::from)?;
    Ok(Arrived { registration, found, permit })
}

/// Registers a connection as [`arrive`] does, if its session `is_awaited`. Otherwise the request is answered at once,
/// and supersedes no connection, except one at another node if the session changes between the two readings.
///
/// # Errors
/// Returns the errors of [`arrive`].
pub(super) async fn arrive_if(
    app: &App,
    key: SessionKey,
    address: IpAddr,
    call: Option<Call>,
    taken: &SharedPermit,
    is_awaited: impl Fn(&Session, Timestamp) -> bool,
) -> Result<Admitted, ApiError> {
    app.hub.wait_for_ack(key).await;
    // The row is read first, because with several nodes `attach` writes it and supersedes a connection at another node.
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
