//! The first request of a connection, read and parsed by the acceptor.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};

use axum::http::Version;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use mio::net::TcpStream;

use crate::http::layers::RequestChecks;
use crate::http::layers::limit::SharedPermit;
use crate::http::problem::ApiError;
use crate::http::server::{MAX_HEAD_BYTES, SurplusPermit};
use crate::session::SessionId;
use crate::wire::fields::Fields as _;
use crate::wire::types::WEBSOCKET_PATH;
use crate::wire::websocket::{Handshake, offered_id};

/// Maximum number of header fields that the acceptor parses. hyper handles a request with more.
const MAX_FIELDS: usize = 64;

/// A connection whose first request may not have arrived whole.
pub(super) struct Head {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) serial: u64,
    /// The permit of the connection. Empty without limits, for a trusted proxy, and beyond a limit.
    pub(super) permit: SharedPermit,
    /// Of a connection beyond a limit, the reason for which its request is refused, and its permit.
    pub(super) surplus: Option<(ApiError, SurplusPermit)>,
}

/// The kind of request with which the bytes of a connection begin.
pub(in crate::http) enum FirstRequest {
    /// A part of a head, which may be that of a request for a WebSocket.
    Incomplete,
    /// A request for a WebSocket that the acceptor can answer: valid, with a session id, of an allowed origin.
    Upgrade(Upgrade),
    /// Any other request, which hyper handles.
    Other,
    /// No request, because the connection has ended or failed.
    Closed,
}

/// A valid request for a WebSocket.
pub(in crate::http) struct Upgrade {
    /// Length of the request's head, in bytes.
    pub(in crate::http) head_bytes: usize,
    pub(in crate::http) handshake: Handshake,
    pub(in crate::http) id: SessionId,
    /// Address of the client.
    pub(in crate::http) address: IpAddr,
}

impl Head {
    /// Reads from the socket until the kind of the request is known or the socket has no more bytes.
    pub(super) fn read(&mut self, scratch: &mut [u8], checks: &RequestChecks) -> FirstRequest {
        loop {
            let read = match self.socket.read(scratch) {
                Ok(0) => return FirstRequest::Closed,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return FirstRequest::Incomplete,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return FirstRequest::Closed,
            };
            match add(&mut self.bytes, &scratch[..read], self.peer, checks) {
                FirstRequest::Incomplete => {}
                known => return known,
            }
        }
    }
}

/// Appends bytes that have arrived to the bytes of a connection. Returns the kind of the request, as far as it is known
/// then.
pub(in crate::http) fn add(
    bytes: &mut Vec<u8>,
    arrived: &[u8],
    peer: SocketAddr,
    checks: &RequestChecks,
) -> FirstRequest {
    let new_from = bytes.len().saturating_sub(2);
    bytes.extend_from_slice(arrived);
    // Parsing the whole head after each read would take quadratic time when it arrives byte by byte.
    let [_, longest_beginning] = checks.base.websocket_beginnings();
    let is_worth_parsing = bytes.len() <= longest_beginning.len().max(arrived.len()) || has_end(&bytes[new_from..]);
    match if is_worth_parsing { understand(bytes, peer, checks) } else { FirstRequest::Incomplete } {
        // hyper answers 431 to a head that is too long.
        FirstRequest::Incomplete if bytes.len() >= MAX_HEAD_BYTES => FirstRequest::Other,
        known => known,
    }
}

fn understand(bytes: &[u8], peer: SocketAddr, checks: &RequestChecks) -> FirstRequest {
    let beginnings = checks.base.websocket_beginnings();
    if !beginnings.iter().any(|beginning| bytes.starts_with(beginning)) {
        let is_short = beginnings.iter().any(|beginning| beginning.starts_with(bytes));
        return if is_short { FirstRequest::Incomplete } else { FirstRequest::Other };
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) => return FirstRequest::Incomplete,
        Err(_) => return FirstRequest::Other,
    };
    let fields = &*request.headers;
    let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let has_body = fields.line(&CONTENT_LENGTH).is_some() || fields.line(&TRANSFER_ENCODING).is_some();
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let id = match checks.base.within(path).strip_prefix(WEBSOCKET_PATH) {
        Some("") => offered_id(fields),
        Some(rest) => rest.strip_prefix('/').and_then(SessionId::parse),
        None => None,
    };
    match (Handshake::of(version, fields), id) {
        (Ok(handshake), Some(id))
            if !has_body && checks.hosts.check(fields).is_ok() && checks.origins.check(fields).is_ok() =>
        {
            let address = checks.proxies.client_address(peer.ip(), fields);
            FirstRequest::Upgrade(Upgrade { head_bytes, handshake, id, address })
        }
        _ => FirstRequest::Other,
    }
}

/// Returns whether `bytes` contain an empty line, which ends a head.
fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}
