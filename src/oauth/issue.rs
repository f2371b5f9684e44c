//! Issues of tokens, each of which reaches the client once.
//!
//! An issue is begun in the store before the response is sent, and marked as delivered afterwards. While a node answers,
//! a second request for the same tokens is a replay. If the answer was lost, because the store failed, the client hung up
//! or the node died, the issue is not marked, and the client's next request gets another issue, which supersedes it.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::{Authorization, OAuth, OAuthError};
use crate::login::LoginError;
use crate::session::{Refusal, Session, Status, Timestamp};
use crate::store::{Record, RecordId, Store};
use crate::system::clock::Clock;
use crate::telemetry::warnings::Warnings;

/// Time after which an issue that another node has begun, and not marked as delivered, is taken over, in seconds. That
/// node has died, or its client has hung up.
const TAKE_OVER_SECONDS: u32 = 5;

/// Pauses before the attempts to mark an issue as delivered, in seconds. In the first one, the HTTP server writes the
/// response to the socket. The others outlast an outage of the store of two minutes.
const MARK_PAUSES_SECONDS: [u32; 8] = [1, 1, 2, 4, 8, 16, 32, 64];
/// Content of the record of an authorization that was revoked.
const REVOKED: &str = "revoked";
/// Time for which the record of a revoked authorization is kept, in seconds: longer than requests and codes last.
const REVOKED_SECONDS: u32 = 2 * 3600;
/// Maximum number of attempts to change a record while other requests change it.
const MAX_ATTEMPTS: usize = 4;

/// The content of an authorization's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) authorization: Authorization,
    /// Number of the last issue, and of its tokens, from 1.
    pub(super) number: u32,
    /// Number of the refresh token that the last issue was requested with. 0 for the first issue.
    requested_with: u32,
    /// Numbers of the issues that another one has superseded, because their answer may have been lost. Their tokens are
    /// refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    superseded: Vec<u32>,
    delivery: Delivery,
}

impl Stored {
    /// Returns whether the access token of this issue is refused.
    pub(super) fn is_superseded(&self, number: u32) -> bool {
        self.superseded.contains(&number)
    }
}

/// The state of the last issue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Delivery {
    /// A node answers the client.
    Begun {
        /// Name of the node, which is another one after a restart.
        node: String,
        /// Time at which it began, in milliseconds of [`Timestamp`].
        at_millis: i64,
    },
    /// The client has been answered.
    Done,
}

/// The issues that this node is answering.
#[derive(Default)]
pub struct Deliveries {
    /// Authorization and number of each.
    in_flight: Mutex<HashSet<(RecordId, u32)>>,
    /// Tasks that mark issues as delivered.
    tasks: TaskTracker,
    /// Cancelled when the server has sent its last response.
    are_ended: CancellationToken,
    /// Rate limit for warnings of deliveries that were not stored.
    not_stored: Warnings,
}

impl Deliveries {
    /// Waits until all issues that were sent are marked as delivered. Call this when the server has sent its last
    /// response.
    pub async fn ended(&self) {
        self.are_ended.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// An issue that this node answers. It must be kept until the response has been sent. If it is dropped before that, the
/// client can get another one in its place.
pub struct Issue {
    pub(super) id: RecordId,
    pub(super) stored: Stored,
    version: u32,
    expires_at: Timestamp,
    store: Arc<dyn Store>,
    clock: Clock,
    deliveries: Arc<Deliveries>,
}

impl Issue {
    /// Marks the issue as delivered. Call this when the HTTP server has taken the response.
    ///
    /// The mark is written later, because the server may not have written the response to the socket yet. Until then, this
    /// node knows the issue as one that it is answering. If it dies, the client can get another issue in its place. A
    /// mark without a response would lose the login.
    pub fn delivered(self, runtime: &Handle) {
        let deliveries = self.deliveries.clone();
        deliveries.tasks.spawn_on(self.mark(), runtime);
    }

    async fn mark(self) {
        let stored = Stored { delivery: Delivery::Done, ..self.stored.clone() };
        let record = record(self.id, self.version + 1, self.expires_at, &stored);
        let mut result = Ok(false);
        for pause_seconds in MARK_PAUSES_SECONDS {
            let is_last = tokio::select! {
                () = self.clock.sleep_seconds(pause_seconds) => false,
                () = self.deliveries.are_ended.cancelled() => true,
            };
            // Nothing is replaced if the authorization was revoked, or the client has used its next refresh token already.
            result = self.store.replace_record(&record).await;
            if result.is_ok() {
                return;
            }
            if is_last {
                break;
            }
        }
        if let (Err(error), Some(count)) = (result, self.deliveries.not_stored.count(self.clock.steady())) {
            warn!(event = "delivery not stored", %error, count, "a request with the same code or refresh token gets tokens again");
        }
    }
}

impl Drop for Issue {
    fn drop(&mut self) {
        self.deliveries.in_flight.lock().remove(&(self.id, self.stored.number));
    }
}

fn record(id: RecordId, version: u32, expires_at: Timestamp, stored: &Stored) -> Record {
    Record { id, version, expires_at, data: serde_json::to_string(stored).unwrap_or_default() }
}

impl OAuth {
    /// Begins the issue of a confirmed session's tokens. Returns `None` for a replay.
    pub(super) async fn collect(&self, session: &Session, now: Timestamp) -> Result<Option<Issue>, OAuthError> {
        let Some(authorization) = Authorization::of(session) else {
            return Err(OAuthError::InvalidGrant("the login is not confirmed"));
        };
        let id = Authorization::id(session.key);
        let delivery = self.begun();
        let stored = Stored { authorization, number: 1, requested_with: 0, superseded: Vec::new(), delivery };
        if session.status(now) != Status::Claimed
            && let Some(issue) = self.first(id, stored).await?
        {
            return match self.logins.collect(session.key).await {
                Ok(_) => Ok(Some(issue)),
                // It was collected before, and its record has ended since.
                Err(LoginError::Refused(Refusal::AlreadyDecided)) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        let Some((stored, version)) = self.stored(&id).await? else { return Ok(None) };
        if stored.requested_with > 0 {
            return Ok(None);
        }
        let Some(issue) = self.taken_over(id, stored, version).await? else { return Ok(None) };
        match self.logins.collect(session.key).await {
            Ok(_) | Err(LoginError::Refused(Refusal::AlreadyDecided)) => Ok(Some(issue)),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins the issue that a refresh token asks for. `number` is that of the token, and `stored` is the record of its
    /// authorization, as it was read with its version. Returns `None` for a replay.
    pub(super) async fn next(
        &self,
        id: RecordId,
        (mut stored, mut version): (Stored, u32),
        number: u32,
    ) -> Result<Option<Issue>, OAuthError> {
        for _ in 0..MAX_ATTEMPTS {
            if stored.requested_with == number {
                return self.taken_over(id, stored, version).await;
            }
            if stored.number != number {
                return Ok(None);
            }
            let next = Stored { number: number + 1, requested_with: number, delivery: self.begun(), ..stored };
            if let Some(issue) = self.begin(id, next, version).await? {
                return Ok(Some(issue));
            }
            // The token was used by another request, or the note that it was delivered came first.
            let Some(found) = self.stored(&id).await? else { return Ok(None) };
            (stored, version) = found;
        }
        Err(OAuthError::Unavailable)
    }

    /// Inserts the record of a first issue. Returns `None` if there is one.
    async fn first(&self, id: RecordId, stored: Stored) -> Result<Option<Issue>, OAuthError> {
        let issue = self.issue_of(id, stored, 1);
        let Some(issue) = issue else { return Ok(None) };
        let record = record(id, 1, issue.expires_at, &issue.stored);
        Ok(if self.store.insert_record(&record).await? { Some(issue) } else { None })
    }

    /// Writes an issue over the version before it. Returns `None` if another request was faster.
    async fn begin(&self, id: RecordId, stored: Stored, version: u32) -> Result<Option<Issue>, OAuthError> {
        let Some(issue) = self.issue_of(id, stored, version + 1) else { return Ok(None) };
        let record = record(id, version + 1, issue.expires_at, &issue.stored);
        Ok(if self.store.replace_record(&record).await? { Some(issue) } else { None })
    }

    /// Returns an issue that this node begins, or `None` if it has begun the same already.
    fn issue_of(&self, id: RecordId, stored: Stored, version: u32) -> Option<Issue> {
        if !self.deliveries.in_flight.lock().insert((id, stored.number)) {
            return None;
        }
        let access_seconds = self.lifetimes.access_seconds;
        let seconds = match stored.authorization.is_offline() {
            true => self.lifetimes.refresh_seconds.max(access_seconds),
            false => access_seconds,
        };
        let expires_at = self.clock.now().plus_seconds(seconds);
        let (store, clock, deliveries) = (self.store.clone(), self.clock.clone(), self.deliveries.clone());
        Some(Issue { id, stored, version, expires_at, store, clock, deliveries })
    }

    /// Begins an issue in place of the last one, whose answer was lost. Returns `None` if that has been delivered, or this
    /// node is answering it: the request is a replay.
    ///
    /// # Errors
    /// [`OAuthError::Unavailable`] if another node may be answering it.
    async fn taken_over(&self, id: RecordId, stored: Stored, version: u32) -> Result<Option<Issue>, OAuthError> {
        let Delivery::Begun { node, at_millis } = &stored.delivery else { return Ok(None) };
        if self.deliveries.in_flight.lock().contains(&(id, stored.number)) {
            return Ok(None);
        }
        if *node != self.node {
            let taken_over_at = Timestamp::from_millis(*at_millis).plus_seconds(TAKE_OVER_SECONDS);
            if self.clock.now() < taken_over_at {
                return Err(OAuthError::Unavailable);
            }
        }
        let number = stored.number + 1;
        let superseded = stored.superseded.iter().copied().chain([stored.number]).collect();
        self.begin(id, Stored { number, superseded, delivery: self.begun(), ..stored }, version).await
    }

    fn begun(&self) -> Delivery {
        Delivery::Begun { node: self.node.clone(), at_millis: self.clock.now().as_millis() }
    }

    /// Revokes all tokens of an authorization. Its record stays, so that a request that is in progress cannot issue tokens
    /// afterwards.
    pub(super) async fn end(&self, id: RecordId) -> Result<(), OAuthError> {
        for _ in 0..MAX_ATTEMPTS {
            let found = self.store.read_record(&id).await?;
            if found.as_ref().is_some_and(|record| record.data == REVOKED) {
                return Ok(());
            }
            let ended = Record {
                id,
                version: found.as_ref().map_or(1, |record| record.version + 1),
                expires_at: self.clock.now().plus_seconds(REVOKED_SECONDS),
                data: REVOKED.to_owned(),
            };
            let is_ended = match found {
                Some(_) => self.store.replace_record(&ended).await?,
                None => self.store.insert_record(&ended).await?,
            };
            if is_ended {
                return Ok(());
            }
        }
        Err(OAuthError::Unavailable)
    }

    /// Returns the record of an authorization that has not ended or been revoked, and its version.
    pub(super) async fn stored(&self, id: &RecordId) -> Result<Option<(Stored, u32)>, OAuthError> {
        let now = self.clock.now();
        let record = self.store.read_record(id).await?.filter(|record| now < record.expires_at);
        Ok(record.and_then(|record| Some((serde_json::from_str(&record.data).ok()?, record.version))))
    }
}
