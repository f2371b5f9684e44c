//! A session as a row, and back.

use sqlx::FromRow;
use sqlx::sqlite::SqliteRow;

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

/// A whole row, as it is read.
#[derive(FromRow)]
struct Columns {
    id: Vec<u8>,
    code: Vec<u8>,
    version: i64,
    state: String,
    created_at: i64,
    expires_at: i64,
    client_ip: String,
    client_browser: Option<String>,
    client_os: Option<String>,
    client_origin: Option<String>,
    client_info: Option<String>,
    user_id: Option<String>,
    user_name: Option<String>,
    user_picture: Option<String>,
    decided_at: Option<i64>,
    claimable_until: Option<i64>,
    token_grant: Option<String>,
}

/// Reads what `SELECT *` gave.
pub(super) fn session(row: &SqliteRow) -> Result<Session, StoreError> {
    let columns = Columns::from_row(row)?;
    let user = columns.user_id.map(|id| PhoneUser { id, name: columns.user_name, picture: columns.user_picture });
    let missing = |column: &str| corrupt(format!("a {} session without {column}", columns.state));
    let state = match columns.state.as_str() {
        "pending" => State::Pending,
        "cancelled" => State::Cancelled,
        "scanned" => State::Scanned(user.ok_or_else(|| missing("user_id"))?),
        "rejected" => State::Rejected(user.ok_or_else(|| missing("user_id"))?),
        "confirmed" | "claimed" => {
            let at = |millis: Option<i64>, column| millis.map(Timestamp::from_millis).ok_or_else(|| missing(column));
            let grant = columns.token_grant.as_deref().ok_or_else(|| missing("token_grant"))?;
            State::Confirmed(Confirmation {
                by: user.ok_or_else(|| missing("user_id"))?,
                decided_at: at(columns.decided_at, "decided_at")?,
                claimable_until: at(columns.claimable_until, "claimable_until")?,
                grant: serde_json::from_str(grant).map_err(corrupt)?,
                claimed: columns.state == "claimed",
            })
        }
        unknown => return Err(corrupt(format!("unknown state '{unknown}'"))),
    };
    Ok(Session {
        key: SessionKey(columns.id.try_into().map_err(|_| corrupt("an id that is no SHA-256"))?),
        code: CodeKey(columns.code.try_into().map_err(|_| corrupt("a code that is no SHA-256"))?),
        version: u32::try_from(columns.version).map_err(corrupt)?,
        created_at: Timestamp::from_millis(columns.created_at),
        expires_at: Timestamp::from_millis(columns.expires_at),
        client: Client {
            ip: columns.client_ip,
            browser: columns.client_browser,
            os: columns.client_os,
            origin: columns.client_origin,
            client_info: columns.client_info,
        },
        state,
    })
}

fn corrupt(error: impl ToString) -> StoreError {
    StoreError::Corrupt(error.to_string())
}
