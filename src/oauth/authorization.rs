use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::clients::sha256;
use crate::config::OFFLINE_ACCESS;
use crate::session::{Session, SessionKey, State};
use crate::store::RecordId;
use crate::token::{identity_claims, scope_claims};

/// What a user has granted a client. The tokens of the client are valid as long as its record exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Authorization {
    /// Id of the client.
    pub client_id: String,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// Id of the user.
    pub sub: String,
    /// Claims about the user, for all scopes.
    pub claims: Map<String, Value>,
    /// Time of the login, in seconds since the Unix epoch.
    pub auth_time: i64,
}

impl Authorization {
    /// Returns what the user of a confirmed session has granted its client.
    pub(super) fn of(session: &Session) -> Option<Self> {
        let (Some(request), State::Confirmed(confirmation)) = (&session.request, &session.state) else { return None };
        let mut claims = confirmation.grant.claims.clone();
        // The name and the picture have been made displayable.
        for (name, value) in [("name", &confirmation.by.name), ("picture", &confirmation.by.picture)] {
            match value {
                Some(value) => claims.insert(name.to_owned(), value.clone().into()),
                None => claims.remove(name),
            };
        }
        Some(Self {
            client_id: request.client_id.clone(),
            scopes: request.scopes.clone(),
            sub: confirmation.grant.sub.clone(),
            claims,
            auth_time: confirmation.grant.iat,
        })
    }

    /// Returns the id of the record for a session.
    pub(super) fn id(session: SessionKey) -> RecordId {
        RecordId(sha256(&[b"authorization ".as_slice(), &session.0].concat()))
    }

    /// Returns whether the client may have refresh tokens.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.scopes.iter().any(|scope| scope == OFFLINE_ACCESS)
    }

    /// Returns the claims about the user that these scopes ask for (OpenID Connect Core §5.4), and those that the
    /// operator passes on.
    #[must_use]
    pub fn claims_for(&self, scopes: &[String]) -> Map<String, Value> {
        let is_asked = |name: &str| scopes.iter().any(|scope| scope_claims(scope).contains(&name));
        let is_standard = |name: &str| identity_claims().any(|known| known == name);
        let claims = self.claims.iter().filter(|(name, _)| is_asked(name) || !is_standard(name));
        claims.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Returns a record's id as tokens name it (`sid`). The id is a hash, so it reveals nothing.
pub(super) fn sid(id: &RecordId) -> String {
    URL_SAFE_NO_PAD.encode(id.0)
}

pub(super) fn parse_sid(text: &str) -> Option<RecordId> {
    Some(RecordId(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?))
}
