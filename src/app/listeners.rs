//! The listening sockets of the server.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::ServeError;
use crate::config::Settings;
use crate::http::SEND_BUFFER_BYTES;

/// Maximum number of connections that the system queues until they are accepted. The system may have a lower limit.
const BACKLOG: u32 = 4096;

/// The bound listening sockets of the server.
pub struct Listeners {
    /// Listener for browsers and phones.
    pub public: std::net::TcpListener,
    /// Listener for the operator's tools: health checks and metrics.
    pub ops: TcpListener,
}

impl Listeners {
    /// Binds the addresses of the settings `listen` and `ops_listen`.
    ///
    /// # Errors
    /// Returns [`ServeError::Listen`] if an address cannot be bound, for example because its port is in use.
    pub fn bind(settings: &Settings) -> Result<Self, ServeError> {
        let public = bind("listen", settings.listen, |listener| listener.into_std())?;
        Ok(Self { public, ops: bind("ops_listen", settings.ops_listen, Ok)? })
    }
}

fn bind<T>(
    key: &'static str,
    address: SocketAddr,
    wrap: impl FnOnce(TcpListener) -> io::Result<T>,
) -> Result<T, ServeError> {
    let listen = || {
        let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit the size.
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.bind(address)?;
        wrap(socket.listen(BACKLOG)?)
    };
    listen().map_err(|source| ServeError::Listen { key, address, source })
}
