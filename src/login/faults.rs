use tracing::{error, warn};

use super::{LoginError, Logins};
use crate::store::StoreError;
use crate::telemetry::warnings::Warnings;

/// Rate limits for warnings of faults that any number of requests and connections can meet.
#[derive(Debug, Default)]
pub struct Faults {
    store: Warnings,
    contended: Warnings,
    mint: Warnings,
    ack: Warnings,
}

impl Logins {
    /// Logs an error that is a fault of the server or of what it depends on, each kind at most once a minute. Other
    /// errors are not logged.
    pub fn warn_of(&self, error: &LoginError) {
        let now = self.clock.steady();
        match error {
            LoginError::Store(error) => self.warn_of_store(error),
            LoginError::Read(error) => self.warn_of_store(error),
            LoginError::Contended => {
                if let Some(count) = self.faults.contended.count(now) {
                    warn!(event = "session contended", %error, count, "the request is answered with 503");
                }
            }
            LoginError::Mint(error) => {
                if let Some(count) = self.faults.mint.count(now) {
                    let cost = "the browser gets an internal error in place of its token";
                    error!(event = "token not minted", %error, count, "{cost}");
                }
            }
            LoginError::NotFound | LoginError::Refused(_) => {}
        }
    }

    /// Logs that the store has failed, at most once a minute for all parts of the server together.
    pub fn warn_of_store(&self, error: &StoreError) {
        if let Some(count) = self.faults.store.count(self.clock.steady()) {
            let cost = "requests are answered with 503; changes and deadlines wait for the store";
            warn!(event = "store unavailable", %error, count, "{cost}");
        }
    }

    /// Logs that the acknowledgement of a token was not stored, at most once a minute.
    pub fn warn_of_lost_ack(&self, error: &LoginError) {
        if let Some(count) = self.faults.ack.count(self.clock.steady()) {
            let cost = "a browser with the session id can receive the token again";
            warn!(event = "receipt lost", %error, count, "{cost}");
        }
    }
}
