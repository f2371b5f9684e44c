//! The way in for a browser that waits, whatever it waits on: limit, register, read. In this order: what is refused costs
//! nothing, and a change that comes between registering and reading is not missed.

use std::net::IpAddr;

use super::App;
use super::problem::ApiError;
use crate::hub::Registration;
use crate::limits::Call;
use crate::login::{Arrival, LoginError};
use crate::session::SessionKey;

/// Registers a browser under its session's key, and reads the session. Counts it as `call`, unless it has been counted.
///
/// # Errors
/// It comes too often, the server is stopping, there is no such session, the store fails.
pub(super) async fn arrive(
    app: &App,
    key: SessionKey,
    address: IpAddr,
    call: Option<Call>,
) -> Result<(Registration, Arrival), ApiError> {
    if let Some(call) = call {
        app.limits.admit(call, address)?;
    }
    app.hub.receipt_settled(key).await;
    let registration = app.hub.register(key)?;
    let mut found = app.logins.attach(&[key]).await.map_err(LoginError::from)?;
    Ok((registration, found.remove(&key).ok_or(LoginError::NotFound)?))
}
