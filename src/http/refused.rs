//! Refusals that are decided before the route table is asked: the connection or its first request is refused by the gate,
//! and the answer is made here like any other, so that it has the same fields.

use std::sync::Arc;

use super::problem::ApiError;
use crate::limits::{Exceeded, Full};
use crate::login::LoginError;
use crate::store::StoreError;

/// Why the gate refuses a request. Stands among the request's extensions.
#[derive(Debug, Clone)]
pub(super) enum Refused {
    /// There is no such session.
    NotFound,
    /// The store failed.
    Unread(Arc<StoreError>),
    /// Too much of one address.
    Limited(Exceeded),
    /// Too many connections of all.
    Full,
    /// The server is stopping.
    Stopping,
    /// The head did not arrive in time.
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
            Refused::Limited(exceeded) => exceeded.into(),
            Refused::Full => Self::Full,
            Refused::Stopping => Self::Stopping,
            Refused::Late => Self::RequestTimeout,
        }
    }
}
