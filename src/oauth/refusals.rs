use tracing::warn;

use super::OAuth;
use crate::session::{SessionKey, printable};
use crate::telemetry::warnings::Warnings;

/// Maximum length of a redirect URI in the log, in characters.
const MAX_SHOWN_CHARS: usize = 200;

/// Rate limits for warnings of requests that are refused.
#[derive(Default)]
pub(super) struct Refusals {
    codes: Warnings,
    refresh_tokens: Warnings,
    clients: Warnings,
}

impl OAuth {
    /// Logs that an authorization code was used again, at most once a minute.
    pub(super) fn warn_of_replayed_code(&self, session: SessionKey, client: &str) {
        if let Some(count) = self.refusals.codes.count(self.clock.steady()) {
            warn!(event = "code used twice", %session, client, count, "its tokens are revoked");
        }
    }

    /// Logs that a refresh token was used again, at most once a minute.
    pub(super) fn warn_of_replayed_refresh_token(&self, client: &str) {
        if let Some(count) = self.refusals.refresh_tokens.count(self.clock.steady()) {
            warn!(event = "refresh token used twice", client, count, "all tokens of the login are revoked");
        }
    }

    /// Logs that a client did not authenticate, at most once a minute for all clients together. `id` is what it calls
    /// itself, and is logged only if it is the id of a client.
    pub fn warn_of_client(&self, id: Option<&str>, reason: &str) {
        if let Some(count) = self.refusals.clients.count(self.clock.steady()) {
            let client = id.filter(|id| self.clients.find(id).is_some()).unwrap_or("(unknown)");
            warn!(event = "client refused", client, reason, count, "its users cannot log in");
        }
    }

    /// Logs that a client has sent a redirect URI that is not registered, as [`OAuth::warn_of_client`] does. The query of
    /// the URI is left out.
    pub(super) fn warn_of_redirect_uri(&self, id: &str, uri: Option<&str>) {
        let shown = uri.unwrap_or_default().split(['?', '#']).next().unwrap_or_default();
        let shown = printable(shown, MAX_SHOWN_CHARS);
        self.warn_of_client(Some(id), &format!("its redirect_uri '{shown}' is not registered"));
    }
}
