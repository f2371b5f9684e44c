//! `GET /v1/ws/qr/{session_id}`: the browser waits.
//!
//! Two ways lead here, and both end in the hub, where the connection costs the same. Most upgrades are the first
//! request of their connection; [`super::gate`] answers those itself. One that comes later on a kept-alive connection
//! (a proxy's, say) comes through hyper and the route table, and ends in [`open`]: the TCP connection is taken back
//! from hyper once the answer is written.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::App;
use super::client::ClientAddress;
use super::limit::SeatOfConnection;
use super::problem::ApiError;
use super::rewound::Rewound;
use super::upgrade::{Handshake, offered_id};
use crate::hub::{Channel, Connection};
use crate::limits::{Call, Exceeded};
use crate::login::LoginError;
use crate::session::SessionId;
use crate::store::StoreError;

/// Answers the handshake, and lets the browser wait.
pub(super) async fn open(
    State(app): State<Arc<App>>,
    address: ClientAddress,
    Extension(taken): Extension<SeatOfConnection>,
    path: Result<Option<Path<String>>, PathRejection>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let handshake = Handshake::of(request.version(), request.headers())?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or(ApiError::UpgradeRequired)?;
    let id = match path {
        Ok(Some(Path(id))) => SessionId::parse(&id),
        Ok(None) => offered_id(request.headers()),
        Err(_) => None,
    };
    let id = id.ok_or(ApiError::Login(LoginError::NotFound))?;
    if let Some(refused) = request.extensions_mut().remove::<Refused>() {
        return Err(refused.into());
    }
    app.limits.admit(Call::WebSocket, address.0)?;
    app.hub.receipt_settled(id.key()).await;
    // Register first, read second: a change in between is not missed.
    let registration = app.hub.register(id.key()).map_err(|_| ApiError::Stopping)?;
    let found = app.logins.attach(&[id.key()]).await.map_err(LoginError::from)?;
    let found = found.into_values().next().ok_or(LoginError::NotFound)?;

    // Last: what is refused on a connection leaves it as it was.
    let seat = app.limits.seat_of(&taken, address.0)?;

    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    for (name, value) in handshake.answer() {
        let name = HeaderName::try_from(name).map_err(|_| ApiError::UpgradeRequired)?;
        let value = HeaderValue::from_str(value).map_err(|_| ApiError::UpgradeRequired)?;
        response.headers_mut().insert(name, value);
    }
    let (found, channel) = (Box::new(found), Channel::WebSocket { acknowledges: handshake.acknowledges });
    app.upgrades.spawn(async move {
        // A browser that hung up before the answer reached it never waited.
        let Ok(upgraded) = upgrade.await else { return };
        // Our own accept loop serves nothing else than TCP.
        let Ok(parts) = upgraded.downcast::<TokioIo<Rewound>>() else { return };
        let (Some(stream), unread) = parts.io.into_inner().into_parts() else { return };
        let Ok(stream) = stream.into_std() else { return };
        let early = [&parts.read_buf[..], &unread].concat();
        let socket = mio::net::TcpStream::from_std(stream);
        let connection = Connection { socket, answer: Vec::new(), early, channel, seat };
        registration.open(connection, &found);
    });
    Ok(response)
}

/// What the gate has found out already of the first request of a connection that it hands over.
#[derive(Debug, Clone)]
pub(super) enum Refused {
    /// There is no such session.
    NotFound,
    /// The store failed.
    Unread(Arc<StoreError>),
    /// Too many of one address.
    Limited(Exceeded),
    /// Too many of all.
    Full,
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotFound => LoginError::NotFound.into(),
            Refused::Unread(error) => LoginError::Read(error).into(),
            Refused::Limited(exceeded) => exceeded.into(),
            Refused::Full => Self::Full,
        }
    }
}
