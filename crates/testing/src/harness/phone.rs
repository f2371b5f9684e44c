//! A phone with a logged-in user.

use reqwest::Method;
use serde_json::json;

use super::{Answer, Server, Session};

/// A phone with a logged-in user.
pub struct Phone<'a> {
    pub(super) server: &'a Server,
    /// The app token that the phone sends.
    pub token: String,
}

impl Phone<'_> {
    /// Calls `scan`, `confirm` or `reject` for the session.
    pub async fn call(&self, verb: &str, session: &Session) -> Answer {
        let body = json!({ "code": session.code });
        self.server.request(Method::POST, &format!("/v1/qr-login/{verb}"), Some(&self.token), Some(body)).await
    }

    /// Scans the session's code.
    pub async fn scan(&self, session: &Session) -> Answer {
        self.call("scan", session).await
    }

    /// Confirms with this number, for sessions with number matching.
    pub async fn pick(&self, session: &Session, number: &str) -> Answer {
        let body = json!({ "code": session.code, "number": number });
        self.server.request(Method::POST, "/v1/qr-login/confirm", Some(&self.token), Some(body)).await
    }

    /// Confirms the login.
    pub async fn confirm(&self, session: &Session) -> Answer {
        self.call("confirm", session).await
    }

    /// Rejects the login.
    pub async fn reject(&self, session: &Session) -> Answer {
        self.call("reject", session).await
    }
}
