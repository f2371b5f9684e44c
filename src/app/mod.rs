//! Assembly of the server: chooses the implementations from the settings, starts them, and stops them in order.

mod listeners;
mod parts;
mod run;

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::cluster::bus::BusUrlError;
use crate::geo::GeoError;
use crate::oauth::ClientsError;
use crate::store::OpenError;
use crate::token::{AppAuthError, KeyError};

pub use crate::system::reload::Reload;
pub use listeners::Listeners;
pub use parts::{Parts, check};
#[cfg(feature = "internals")]
pub use parts::{app_auth, approval, clients, sealer};
pub use run::{MAX_STOP_SECONDS, run};

/// An error that keeps the server from starting, or that has stopped it. Texts name the setting that is the cause, if
/// any.
#[derive(Debug, Error)]
pub enum ServeError {
    /// No way to verify app tokens is configured.
    #[error(
        "app_auth: nothing is set to verify app tokens with; set app_auth.hmac_secret (QRLOGIN_APP_AUTH__HMAC_SECRET), \
         app_auth.public_key_file, app_auth.jwks_url or app_auth.introspection_url; or set approve.issuer, so that users \
         approve on the approve page"
    )]
    NoAppAuth,
    /// The configured way to verify app tokens cannot be used.
    #[error(transparent)]
    AppAuth(#[from] AppAuthError),
    /// A client of OAuth cannot be used.
    #[error(transparent)]
    Clients(#[from] ClientsError),
    /// The HTTP client for the provider cannot be created.
    #[error("approve.issuer: {0}")]
    Provider(String),
    /// A MaxMind database cannot be used.
    #[error(transparent)]
    Geo(#[from] GeoError),
    /// The signing keys or the secret of the codes cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The database cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A setting holds the text that `print-config` shows in place of a secret.
    #[error("{0}: holds '(hidden)', which print-config shows in place of a secret; set the secret itself")]
    HiddenSecret(&'static str),
    /// `bus_url` cannot be used.
    #[error(transparent)]
    Bus(#[from] BusUrlError),
    /// `bus_url` is set with an SQLite database, which serves only one node.
    #[error(
        "bus_url: is for nodes that share a Postgres; SQLite serves one node (set database_url, or leave bus_url out)"
    )]
    BusOfOne,
    /// A thread or the means to poll sockets (epoll) cannot be created.
    #[error("cannot create a thread or an epoll instance: {0}")]
    Threads(io::Error),
    /// The server cannot listen on an address.
    #[error("{key}: cannot listen on {address}: {source}")]
    Listen {
        /// Key of the setting.
        key: &'static str,
        /// Value of the setting.
        address: SocketAddr,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A vital part has panicked, see [`Vital`](crate::system::shutdown::Vital).
    #[error("a part of the server has failed: {0}")]
    Failed(&'static str),
}
