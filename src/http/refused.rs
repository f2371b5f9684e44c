//! Refusals by the acceptor. The acceptor attaches the reason to the connection's first request, and the route table
//! answers the request. So these answers have the same header fields as all others.

use std::sync::Arc;

use super::problem::ApiError;
use crate::limits::{Exceeded, Full};
use crate::login::LoginError;
use crate::store::StoreError;

/// The reason for which the acceptor refuses a request. It is an extension of the request.
#[derive(Debug, Clone)]
pub(super) enum Refused {
    /// The store has no session with this session id.
    NotFound,
    /// The session's row could not be read.
    Unread(Arc<StoreError>),
    /// Too many browsers wait for the store.
    TooManyHandshakes,
    /// The client exceeds one of its limits.
    Limited(Exceeded),
    /// The server has `limits.sockets` connections.
    Full,
    /// The server is stopping.
    Stopping,
    /// The head of the request did not arrive within `limits.header_seconds`.
    Late,
}

impl From<Full> for Refused {
    fn from(full: Full) -> Self {
        match full {
            Full::Address(exceeded) => Self::Limited(exceeded),
            Full::All => Self::Full,
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotFound => LoginError::NotFound.into(),
            Refused::Unread(error) => LoginError::Read(error).into(),
            Refused::TooManyHandshakes => Self::TooManyHandshakes,
            Refused::Limited(exceeded) => exceeded.into(),
            Refused::Full => Self::Full,
            Refused::Stopping => Self::Stopping,
            Refused::Late => Self::RequestTimeout,
        }
    }
}
