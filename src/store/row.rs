//! Conversion between rows and sessions or records. Rows of all stores have the same columns, and are read by the names of these.

use super::{Record, RecordId, StoreError};
use crate::session::{Cancellation, Client, CodeKey, Confirmation, PhoneUser, Session, SessionKey, State, Timestamp};

/// Columns of a session, for `SELECT` and `RETURNING`, in the order in which [`session`] reads them. The order matters
/// for speed only.
pub(super) const SESSION_COLUMNS: &str = "id, code, version, created_at, expires_at, \
    client_ip, client_browser, client_os, client_origin, client_info, \
    scanned_at, state, user_id, user_name, user_picture, decided_at, claimable_until, token_grant, reason, \
    oauth_request";
/// Columns of a record, in the order in which [`record`] reads them.
pub(super) const RECORD_COLUMNS: &str = "id, version, expires_at, data";
/// Value of `reason` in a session that the server cancelled because too many were pending.
const OVERLOAD: &str = "overload";
/// Maximum number of networks with equally many sessions that [`select_largest_network`] considers together.
const MAX_EQUAL_NETWORKS: u32 = 16;

/// A row of a query result, whose columns are read by name.
pub(super) trait Columns {
    /// Returns a number, or `None` for `NULL`.
    fn optional_integer(&self, name: &str) -> Result<Option<i64>, StoreError>;
    /// Returns a text, or `None` for `NULL`.
    fn optional_text(&self, name: &str) -> Result<Option<&str>, StoreError>;
    /// Returns the bytes of a blob, or `None` for `NULL`.
    fn optional_bytes(&self, name: &str) -> Result<Option<&[u8]>, StoreError>;

    /// Returns a number that is not `NULL`.
    fn integer(&self, name: &str) -> Result<i64, StoreError> {
        self.optional_integer(name)?.ok_or_else(|| missing(name))
    }

    /// Returns a version, an attachment number or a count.
    fn number(&self, name: &str) -> Result<u32, StoreError> {
        u32::try_from(self.integer(name)?).map_err(corrupt)
    }

    /// Returns a time.
    fn time(&self, name: &str) -> Result<Timestamp, StoreError> {
        self.integer(name).map(Timestamp::from_millis)
    }

    /// Returns a time, or `None` for `NULL`.
    fn optional_time(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.optional_integer(name)?.map(Timestamp::from_millis))
    }

    /// Returns a text that is not `NULL`.
    fn text(&self, name: &str) -> Result<&str, StoreError> {
        self.optional_text(name)?.ok_or_else(|| missing(name))
    }

    /// Returns a copy of a text, or `None` for `NULL`.
    fn optional_string(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.optional_text(name)?.map(ToOwned::to_owned))
    }

    /// Returns a hash.
    fn hash(&self, name: &str) -> Result<[u8; 32], StoreError> {
        let bytes = self.optional_bytes(name)?.ok_or_else(|| missing(name))?;
        bytes.try_into().map_err(|_| corrupt(format!("{name} has {} bytes", bytes.len())))
    }
}

/// Reads a session from a row that has the columns [`SESSION_COLUMNS`].
pub(super) fn session(row: &impl Columns) -> Result<Session, StoreError> {
    Ok(Session {
        key: SessionKey(row.hash("id")?),
        code: CodeKey(row.hash("code")?),
        version: row.number("version")?,
        created_at: row.time("created_at")?,
        expires_at: row.time("expires_at")?,
        client: Client {
            ip: row.text("client_ip")?.to_owned(),
            browser: row.optional_string("client_browser")?,
            os: row.optional_string("client_os")?,
            origin: row.optional_string("client_origin")?,
            client_info: row.optional_string("client_info")?,
        },
        request: row.optional_text("oauth_request")?.map(serde_json::from_str).transpose().map_err(corrupt)?,
        scanned_at: row.optional_time("scanned_at")?,
        state: state(row)?,
    })
}

fn state(row: &impl Columns) -> Result<State, StoreError> {
    Ok(match row.text("state")? {
        "pending" => State::Pending,
        "cancelled" if row.optional_text("reason")? == Some(OVERLOAD) => State::Cancelled(Cancellation::Overload),
        "cancelled" => State::Cancelled(Cancellation::Browser),
        "scanned" => State::Scanned(user(row)?),
        "rejected" => State::Rejected(user(row)?),
        name @ ("confirmed" | "claimed") => State::Confirmed(Confirmation {
            by: user(row)?,
            decided_at: row.time("decided_at")?,
            claimable_until: row.time("claimable_until")?,
            grant: serde_json::from_str(row.text("token_grant")?).map_err(corrupt)?,
            claimed: name == "claimed",
        }),
        unknown => return Err(corrupt(format!("unknown state '{unknown}'"))),
    })
}

fn user(row: &impl Columns) -> Result<PhoneUser, StoreError> {
    Ok(PhoneUser {
        id: row.text("user_id")?.to_owned(),
        name: row.optional_string("user_name")?,
        picture: row.optional_string("user_picture")?,
    })
}

/// Reads a record from a row that has the columns [`RECORD_COLUMNS`].
pub(super) fn record(row: &impl Columns) -> Result<Record, StoreError> {
    Ok(Record {
        id: RecordId(row.hash("id")?),
        version: row.number("version")?,
        expires_at: row.time("expires_at")?,
        data: row.text("data")?.to_owned(),
    })
}

/// Returns the value of the column `oauth_request`.
pub(super) fn oauth_request(session: &Session) -> Result<Option<String>, StoreError> {
    session.request.as_ref().map(serde_json::to_string).transpose().map_err(corrupt)
}

/// Values of the columns that a transition changes, except `version`.
#[derive(Default)]
pub(super) struct StateColumns {
    pub(super) state: &'static str,
    pub(super) user_id: Option<String>,
    pub(super) user_name: Option<String>,
    pub(super) user_picture: Option<String>,
    pub(super) decided_at: Option<i64>,
    pub(super) claimable_until: Option<i64>,
    pub(super) token_grant: Option<String>,
    pub(super) scanned_at: Option<i64>,
    pub(super) reason: Option<String>,
}

impl StateColumns {
    /// Returns the columns of this session.
    pub(super) fn of(session: &Session) -> Result<Self, StoreError> {
        let columns = match &session.state {
            State::Pending => Self::named("pending"),
            State::Cancelled(Cancellation::Browser) => Self::named("cancelled"),
            State::Cancelled(Cancellation::Overload) => {
                Self { reason: Some(OVERLOAD.to_owned()), ..Self::named("cancelled") }
            }
            State::Scanned(user) => Self::named("scanned").by(user),
            State::Rejected(user) => Self::named("rejected").by(user),
            State::Confirmed(confirmation) => Self {
                decided_at: Some(confirmation.decided_at.as_millis()),
                claimable_until: Some(confirmation.claimable_until.as_millis()),
                token_grant: Some(serde_json::to_string(&confirmation.grant).map_err(corrupt)?),
                ..Self::named(if confirmation.claimed { "claimed" } else { "confirmed" }).by(&confirmation.by)
            },
        };
        Ok(Self { scanned_at: session.scanned_at.map(Timestamp::as_millis), ..columns })
    }

    fn named(state: &'static str) -> Self {
        Self { state, ..Self::default() }
    }

    fn by(self, user: &PhoneUser) -> Self {
        Self {
            user_id: Some(user.id.clone()),
            user_name: user.name.clone(),
            user_picture: user.picture.clone(),
            ..self
        }
    }
}

/// Returns the statement that selects the number of sessions in `table` that are pending at `$1`, as `total_pending`,
/// and up to `$2` of the oldest ones of the networks that have most. It considers at most [`MAX_EQUAL_NETWORKS`]
/// networks that have equally many. If so many networks have less than `$2` sessions together, it selects the oldest of
/// all pending sessions.
///
/// It scans the table once, and a second time by expiry as far as needed. It neither joins nor sorts the whole table.
pub(super) fn select_largest_network(table: &str) -> String {
    let pending = "state = 'pending' AND expires_at > $1";
    format!(
        "WITH networks AS MATERIALIZED (
             SELECT coalesce(client_network, '') AS network, count(*) AS weight FROM {table} WHERE {pending} GROUP BY 1
         ), most AS MATERIALIZED (
             SELECT max(weight) AS weight, CAST(sum(weight) AS bigint) AS pending FROM networks
         )
         SELECT {SESSION_COLUMNS}, (SELECT pending FROM most) AS total_pending FROM {table} WHERE {pending} AND (
             (SELECT weight FROM most) * {MAX_EQUAL_NETWORKS} < $2 OR coalesce(client_network, '') IN (
                 SELECT network FROM networks WHERE weight = (SELECT weight FROM most) LIMIT {MAX_EQUAL_NETWORKS}
             )
         ) ORDER BY expires_at LIMIT $2"
    )
}

fn missing(column: &str) -> StoreError {
    corrupt(format!("a row without {column}"))
}

pub(super) fn corrupt(error: impl ToString) -> StoreError {
    StoreError::Corrupt(error.to_string())
}
