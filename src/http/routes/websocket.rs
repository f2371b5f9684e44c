//! WebSocket upgrades that hyper has read. The acceptor ([`crate::http::acceptor`]) answers an upgrade that is the
//! first request of its connection. An upgrade that comes later, as from a proxy that keeps connections alive, is
//! answered by [`open`]. It takes the TCP connection from hyper once the response is written, and opens it in the hub.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::http::arrive::{Arrivals, Arrived, Arriving};
use crate::http::layers::client::ClientAddress;
use crate::http::layers::limit::SharedPermit;
use crate::http::outgoing;
use crate::http::prefixed_stream::PrefixedStream;
use crate::http::problem::ApiError;
use crate::hub::{NewConnection, Transport};
use crate::limits::Call;
use crate::login::LoginError;
use crate::session::SessionId;
use crate::wire::websocket::{Handshake, offered_id};

/// Answers the opening handshake, and opens the connection in the hub.
pub(crate) async fn open(
    State(arrivals): State<Arc<Arrivals>>,
    ClientAddress(address): ClientAddress,
    Extension(permit): Extension<SharedPermit>,
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
    let id = id.ok_or(LoginError::NotFound)?;
    let arriving = Arriving { key: id.key(), address, call: Some(Call::WebSocket), permit: &permit };
    let arrived = arrivals.arrive(arriving).await?;

    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    for (name, value) in handshake.response_fields() {
        let name = HeaderName::try_from(name).map_err(|_| ApiError::UpgradeRequired)?;
        let value = HeaderValue::from_str(value).map_err(|_| ApiError::UpgradeRequired)?;
        response.headers_mut().insert(name, value);
    }
    let (arrived, transport) = (Box::new(arrived), Transport::WebSocket { acknowledges: handshake.acknowledges });
    arrivals.upgrades.spawn(async move {
        // The browser may have closed the connection before the response was written.
        let Ok(upgraded) = upgrade.await else { return };
        // Does not fail: hyper is given no other transport.
        let Ok(parts) = upgraded.downcast::<TokioIo<PrefixedStream>>() else { return };
        let (Some(stream), unread) = parts.io.into_inner().into_parts() else { return };
        let Ok(stream) = stream.into_std() else { return };
        outgoing::lift(&stream);
        let early = [&parts.read_buf[..], &unread].concat();
        let socket = mio::net::TcpStream::from_std(stream);
        let Arrived { registration, found, permit } = *arrived;
        let connection = NewConnection { socket, response: Vec::new(), early, transport, permit: permit.keep() };
        registration.open(connection, &found);
    });
    Ok(response)
}
