//! Entry points of the fuzz targets into the parsers of requests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::acceptor::request_head::{self, FirstRequest};
use super::layers::RequestChecks;
use super::layers::base::BasePath;
use super::layers::body::BodyLimits;
use super::layers::client::TrustedProxies;
use super::layers::forwarded;
use super::layers::host::Hosts;
use super::layers::limit::ClientLimits;
use super::layers::origin::OriginPolicy;
use crate::config::Settings;
use crate::session::SessionKey;
use crate::system::clock::Clock;
use crate::system::shutdown::Shutdown;

/// The parsers of requests under certain settings.
pub struct Requests(RequestChecks);

/// The kind of request with which the bytes of a connection begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// A part of a head, which may be that of a request for a WebSocket.
    Incomplete,
    /// A valid request for a WebSocket, which the acceptor answers.
    Upgrade {
        /// Length of the head, in bytes.
        head_bytes: usize,
        /// Key of the session for which the browser waits.
        key: SessionKey,
        /// Address of the client.
        address: IpAddr,
        /// Value of `Sec-WebSocket-Accept` in the response.
        accept: String,
    },
    /// Any other request, which hyper handles.
    Other,
}

impl Requests {
    /// Returns the parsers under these settings. The host names of the demo are checked if `is_demo`.
    #[must_use]
    pub fn of(settings: &Settings, is_demo: bool) -> Self {
        Self(RequestChecks {
            origins: OriginPolicy::of(settings),
            hosts: if is_demo { Hosts::of(settings) } else { Hosts::default() },
            proxies: TrustedProxies::of(settings),
            limits: Arc::new(ClientLimits::default()),
            base: Arc::new(BasePath::of(settings)),
            bodies: BodyLimits::of(settings, Clock::system(), Shutdown::new()),
        })
    }

    /// Returns the kind of request that the acceptor finds in bytes that arrive in these pieces.
    pub fn first<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>, peer: SocketAddr) -> First {
        let mut bytes = Vec::new();
        for piece in pieces {
            match request_head::add(&mut bytes, piece, peer, &self.0) {
                FirstRequest::Incomplete => {}
                FirstRequest::Upgrade(upgrade) => {
                    let accept = upgrade.handshake.response_fields().find(|(name, _)| *name == "Sec-WebSocket-Accept");
                    return First::Upgrade {
                        head_bytes: upgrade.head_bytes,
                        key: upgrade.id.key(),
                        address: upgrade.address,
                        accept: accept.map(|(_, value)| value.to_owned()).unwrap_or_default(),
                    };
                }
                FirstRequest::Other | FirstRequest::Closed => return First::Other,
            }
        }
        First::Incomplete
    }

    /// Returns the address of the client of a request that `peer` has sent with these header fields.
    #[must_use]
    pub fn client_address(&self, peer: IpAddr, fields: &[(&str, &[u8])]) -> IpAddr {
        let fields: Vec<_> = fields.iter().map(|(name, value)| httparse::Header { name, value }).collect();
        self.0.proxies.client_address(peer, &fields[..])
    }
}

/// Returns the addresses in a line of `Forwarded`, the last element first, see `layers/forwarded.rs`.
#[must_use]
pub fn forwarded_addresses(line: &[u8]) -> Vec<Option<IpAddr>> {
    forwarded::addresses_from_right(line).collect()
}

/// Returns the address of a node, see `layers/forwarded.rs`.
#[must_use]
pub fn node_address(node: &[u8]) -> Option<IpAddr> {
    forwarded::node_address(node)
}
