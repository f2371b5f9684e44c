//! Refusals by the acceptor. The acceptor attaches the reason to the connection's first request, and the route table
//! answers the request. So these answers have the same header fields as all others.

use std::sync::Arc;

use super::problem::ApiError;
use crate::limits::{Exceeded, QuotaExceeded};
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
    QuotaExceeded,
    /// The server is stopping.
    Stopping,
    /// The head of the request did not arrive within `limits.header_seconds`.
    Late,
}

impl From<QuotaExceeded> for Refused {
    fn from(full: QuotaExceeded) -> Self {
        match full {
            QuotaExceeded::Address(exceeded) => Self::Limited(exceeded),
            QuotaExceeded::All => Self::QuotaExceeded,
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
            Refused::QuotaExceeded => Self::QuotaExceeded,
            Refused::Stopping => Self::Stopping,
            Refused::Late => Self::RequestTimeout,
        }
    }
}
