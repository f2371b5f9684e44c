//! The approve page: a user logs in at the site's OpenID provider, and then approves a login in the browser of the
//! phone. Everything that the page remembers is in encrypted cookies, so any node answers any request.

mod http_client;
mod provider;
mod visit;

pub use provider::{LoginFlow, Provider, ProviderError, ProviderSettings};
pub use visit::{Flow, Opened, Visit};

use std::sync::Arc;

use crate::token::Sealer;

/// What the approve page needs from outside.
pub struct Approval {
    /// Provider at which users log in.
    pub provider: Provider,
    /// Sealer of the cookies.
    pub sealer: Arc<Sealer>,
}
