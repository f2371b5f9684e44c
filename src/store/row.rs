//! Conversion between sessions and rows. The rows of all stores have the same columns; the drivers read them.

use super::StoreError;
use crate::session::{Cancellation, Client, CodeKey, Confirmation, PhoneUser, Session, SessionKey, State, Timestamp};

/// Columns of a [`Row`], in the order of its fields.
pub(super) const COLUMNS: &str = "id, code, version, state, created_at, expires_at, \
    client_ip, client_browser, client_os, client_origin, client_info, \
    user_id, user_name, user_picture, decided_at, claimable_until, token_grant, scanned_at, reason";

/// Returns the statement that selects the number of sessions in `table` that are pending at `$1`, and up to `$2` of the
/// oldest ones of the networks that have most. It considers at most [`TIED`] networks that have equally many. If so
/// many networks have less than `$2` sessions together, it selects the oldest of all pending sessions.
///
/// It scans the table once, and a second time by expiry as far as needed. It neither joins nor sorts the whole table.
pub(super) fn heaviest(table: &str) -> String {
    let pending = "state = 'pending' AND expires_at > $1";
    format!(
        "WITH networks AS MATERIALIZED (
             SELECT coalesce(client_network, '') AS network, count(*) AS weight FROM {table} WHERE {pending} GROUP BY 1
         ), most AS MATERIALIZED (
             SELECT max(weight) AS weight, CAST(sum(weight) AS bigint) AS pending FROM networks
         )
         SELECT {COLUMNS}, (SELECT pending FROM most) FROM {table} WHERE {pending} AND (
             (SELECT weight FROM most) * {TIED} < $2 OR coalesce(client_network, '') IN (
                 SELECT network FROM networks WHERE weight = (SELECT weight FROM most) LIMIT {TIED}
             )
         ) ORDER BY expires_at LIMIT $2"
    )
}

/// A row of the table of sessions.
pub(super) struct Row<'a> {
    pub(super) id: [u8; 32],
    pub(super) code: [u8; 32],
    pub(super) version: u32,
    pub(super) state: &'a str,
    pub(super) created_at: i64,
    pub(super) expires_at: i64,
    pub(super) client: Client,
    pub(super) changed: StateColumns,
}

/// The columns that a transition changes, except `version` and `state`.
#[derive(Default)]
pub(super) struct StateColumns {
    pub(super) user_id: Option<String>,
    pub(super) user_name: Option<String>,
    pub(super) user_picture: Option<String>,
    pub(super) decided_at: Option<i64>,
    pub(super) claimable_until: Option<i64>,
    pub(super) token_grant: Option<String>,
    pub(super) scanned_at: Option<i64>,
    pub(super) reason: Option<String>,
}

/// Maximum number of networks with equally many sessions that are considered together.
const TIED: u32 = 16;
/// Value of `reason` in a session that the server cancelled because too many were pending.
const OVERLOAD: &str = "overload";

impl StateColumns {
    /// Returns the name of the session's state and the other columns that depend on it.
    pub(super) fn of(session: &Session) -> Result<(&'static str, Self), StoreError> {
        let (name, changed) = Self::of_state(&session.state)?;
        Ok((name, Self { scanned_at: session.scanned_at.map(Timestamp::as_millis), ..changed }))
    }

    fn of_state(state: &State) -> Result<(&'static str, Self), StoreError> {
        let by = |user: &PhoneUser| Self {
            user_id: Some(user.id.clone()),
            user_name: user.name.clone(),
            user_picture: user.picture.clone(),
            ..Self::default()
        };
        Ok(match state {
            State::Pending => ("pending", Self::default()),
            State::Cancelled(Cancellation::Browser) => ("cancelled", Self::default()),
            State::Cancelled(Cancellation::Overload) => {
                ("cancelled", Self { reason: Some(OVERLOAD.to_owned()), ..Self::default() })
            }
            State::Scanned(user) => ("scanned", by(user)),
            State::Rejected(user) => ("rejected", by(user)),
            State::Confirmed(confirmation) => {
                let columns = Self {
                    decided_at: Some(confirmation.decided_at.as_millis()),
                    claimable_until: Some(confirmation.claimable_until.as_millis()),
                    token_grant: Some(serde_json::to_string(&confirmation.grant).map_err(corrupt)?),
                    ..by(&confirmation.by)
                };
                (if confirmation.claimed { "claimed" } else { "confirmed" }, columns)
            }
        })
    }

    fn user(self, state: &str) -> Result<PhoneUser, StoreError> {
        let id = self.user_id.ok_or_else(|| missing(state, "user_id"))?;
        Ok(PhoneUser { id, name: self.user_name, picture: self.user_picture })
    }
}

impl Row<'_> {
    /// Converts the row to a session.
    pub(super) fn session(self) -> Result<Session, StoreError> {
        let Self { state: name, changed: mut by, .. } = self;
        let scanned_at = by.scanned_at.map(Timestamp::from_millis);
        let state = match name {
            "pending" => State::Pending,
            "cancelled" if by.reason.as_deref() == Some(OVERLOAD) => State::Cancelled(Cancellation::Overload),
            "cancelled" => State::Cancelled(Cancellation::Browser),
            "scanned" => State::Scanned(by.user(name)?),
            "rejected" => State::Rejected(by.user(name)?),
            "confirmed" | "claimed" => {
                let instant = |millis: Option<i64>, column| {
                    millis.map(Timestamp::from_millis).ok_or_else(|| missing(name, column))
                };
                let grant = by.token_grant.take().ok_or_else(|| missing(name, "token_grant"))?;
                State::Confirmed(Confirmation {
                    decided_at: instant(by.decided_at, "decided_at")?,
                    claimable_until: instant(by.claimable_until, "claimable_until")?,
                    grant: serde_json::from_str(&grant).map_err(corrupt)?,
                    claimed: name == "claimed",
                    by: by.user(name)?,
                })
            }
            unknown => return Err(corrupt(format!("unknown state '{unknown}'"))),
        };
        Ok(Session {
            key: SessionKey(self.id),
            code: CodeKey(self.code),
            version: self.version,
            created_at: Timestamp::from_millis(self.created_at),
            expires_at: Timestamp::from_millis(self.expires_at),
            client: self.client,
            scanned_at,
            state,
        })
    }
}

/// Converts a hash column to an array, for a driver that does not check its length.
pub(super) fn hash(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| corrupt(format!("a hash of {} bytes", bytes.len())))
}

fn missing(state: &str, column: &str) -> StoreError {
    corrupt(format!("a {state} session without {column}"))
}

pub(super) fn corrupt(error: impl ToString) -> StoreError {
    StoreError::Corrupt(error.to_string())
}
