//! A session as a row, and back.

use rusqlite::Row;

use super::StoreError;
use crate::session::{Client, CodeKey, Confirmation, PhoneUser, Session, SessionKey, State, Timestamp};

/// The columns of a state, as they are written.
#[derive(Default)]
pub(super) struct StateColumns {
    pub(super) state: &'static str,
    pub(super) user: Option<PhoneUser>,
    pub(super) decided_at: Option<i64>,
    pub(super) claimable_until: Option<i64>,
    pub(super) token_grant: Option<String>,
}

impl StateColumns {
    pub(super) fn of(state: &State) -> Result<Self, StoreError> {
        Ok(match state {
            State::Pending => Self { state: "pending", ..Self::default() },
            State::Cancelled => Self { state: "cancelled", ..Self::default() },
            State::Scanned(user) => Self { state: "scanned", user: Some(user.clone()), ..Self::default() },
            State::Rejected(user) => Self { state: "rejected", user: Some(user.clone()), ..Self::default() },
            State::Confirmed(confirmation) => Self {
                state: if confirmation.claimed { "claimed" } else { "confirmed" },
                user: Some(confirmation.by.clone()),
                decided_at: Some(confirmation.decided_at.as_millis()),
                claimable_until: Some(confirmation.claimable_until.as_millis()),
                token_grant: Some(serde_json::to_string(&confirmation.grant).map_err(corrupt)?),
            },
        })
    }
}

/// What [`session`] reads, in its order.
pub(super) const COLUMNS: &str = "id, code, version, state, created_at, expires_at, \
    client_ip, client_browser, client_os, client_origin, client_info, \
    user_id, user_name, user_picture, decided_at, claimable_until, token_grant";

/// Reads a row of [`COLUMNS`].
pub(super) fn session(row: &Row<'_>) -> Result<Session, StoreError> {
    let name: String = row.get(3)?;
    let name = name.as_str();
    let user = |row: &Row<'_>| {
        let id: Option<String> = row.get(11)?;
        let id = id.ok_or_else(|| corrupt(format!("a {name} session without user_id")))?;
        Ok::<_, StoreError>(PhoneUser { id, name: row.get(12)?, picture: row.get(13)? })
    };
    let state = match name {
        "pending" => State::Pending,
        "cancelled" => State::Cancelled,
        "scanned" => State::Scanned(user(row)?),
        "rejected" => State::Rejected(user(row)?),
        "confirmed" | "claimed" => {
            let at = |index, column| {
                let millis: Option<i64> = row.get(index)?;
                let millis = millis.ok_or_else(|| corrupt(format!("a {name} session without {column}")))?;
                Ok::<_, StoreError>(Timestamp::from_millis(millis))
            };
            let grant: Option<String> = row.get(16)?;
            let grant = grant.ok_or_else(|| corrupt(format!("a {name} session without token_grant")))?;
            State::Confirmed(Confirmation {
                by: user(row)?,
                decided_at: at(14, "decided_at")?,
                claimable_until: at(15, "claimable_until")?,
                grant: serde_json::from_str(&grant).map_err(corrupt)?,
                claimed: name == "claimed",
            })
        }
        unknown => return Err(corrupt(format!("unknown state '{unknown}'"))),
    };
    Ok(Session {
        key: SessionKey(row.get(0)?),
        code: CodeKey(row.get(1)?),
        version: row.get(2)?,
        created_at: Timestamp::from_millis(row.get(4)?),
        expires_at: Timestamp::from_millis(row.get(5)?),
        client: Client {
            ip: row.get(6)?,
            browser: row.get(7)?,
            os: row.get(8)?,
            origin: row.get(9)?,
            client_info: row.get(10)?,
        },
        state,
    })
}

fn corrupt(error: impl ToString) -> StoreError {
    StoreError::Corrupt(error.to_string())
}
