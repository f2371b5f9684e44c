//! Sessions in Postgres, shared by many nodes.
//!
//! Each write is one statement, and so one transaction that begins and ends within Postgres. A node that is killed or
//! suspended holds no lock.
//!
//! Expiry is checked against the clock of Postgres, read while the row is locked. So `expired` and a decision exclude
//! each other, whatever the clocks of the nodes show (see [`Store::read_settled`]). The [`Clock`] of each node follows
//! that of Postgres.
//!
//! To avoid deadlocks, a statement that locks several sessions does so in the order of their ids, or skips locked rows.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Object, Pool, PoolError};
use tokio::time::Instant;
use tokio_postgres::Row as PostgresRow;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};

use super::committed::{Announcer, Changed, Committed, Stored, Transition, Which};
use super::row::{self, COLUMNS, Row, StateColumns, corrupt, hash};
use super::{Attached, Ended, Heaviest, OpenError, Store, StoreError, Undelivered};
use crate::cluster::node::{NodeName, Notification, Waits};
use crate::metrics::Stopwatch;
use crate::postgres::{Postgres, explain_failure};
use crate::session::{Client, CodeKey, Refusal, Session, SessionKey, Step, Timestamp};
use crate::system::clock::Clock;
use crate::telemetry::cause::explain;

/// Migrations of the schema, in order. A released migration never changes.
const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/postgres/0001_sessions.sql"),
    include_str!("../../migrations/postgres/0002_hostile_web.sql"),
];
/// Key of the advisory lock that a node holds while it migrates.
const MIGRATION_LOCK: i64 = 0x7172_6c6f_6769_6e00;
/// Time after which a statement fails with [`StoreError::Unavailable`].
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which Postgres does not attach a connection any more, in seconds. It is shorter than [`PATIENCE`], so
/// that no caller has given up before.
const ATTACH_SECONDS: u32 = 4;
/// Time after which a ping fails.
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// Maximum number of attempts to write a change while other nodes change the same row. A session changes three times at
/// most.
const MAX_ATTEMPTS: usize = 8;
/// Maximum number of undelivered changes per read.
const MAX_UNTOLD: i64 = 1000;
/// Time after which an entry of the table `untold` is deleted, in milliseconds. Its session has been swept by then.
const UNTOLD_MILLIS: i64 = 2 * 3_600_000;

/// A store in Postgres, for many nodes.
pub struct PostgresStore {
    pool: Pool,
    node: NodeName,
    clock: Clock,
    sends_notifications: bool,
}

/// The settings of a node for a [`PostgresStore`].
pub struct PostgresSetup {
    /// Name of the node.
    pub node: NodeName,
    /// Clock of the node, which is made to follow that of Postgres.
    pub clock: Clock,
    /// Maximum number of connections that this node opens.
    pub max_connections: usize,
    /// Whether statements send notifications (`NOTIFY`) with their transaction. If not, another bus sends them.
    pub sends_notifications: bool,
}

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl PostgresStore {
    /// Connects, and migrates the schema where needed.
    ///
    /// # Errors
    /// Postgres does not answer or refuses the connection, its encoding is not UTF8, or the schema cannot be migrated.
    pub async fn open(postgres: &Postgres, setup: PostgresSetup) -> Result<Self, OpenError> {
        let failed = |reason: String| OpenError::Postgres {
            server: postgres.to_string(),
            reason: postgres.without_credentials(&reason),
        };
        let pool = postgres.pool(setup.max_connections).map_err(failed)?;
        let prepare = async {
            let mut connection = pool.get().await.map_err(|error| match error {
                PoolError::Timeout(_) => "it does not answer".to_owned(),
                error => explain_failure(&error),
            })?;
            check_encoding(&connection).await?;
            migrate(&mut connection).await.map_err(|error| explain_failure(&error))
        };
        in_time(deadline(PATIENCE * 2), prepare)
            .await
            .ok_or_else(|| failed("it does not answer".to_owned()))?
            .map_err(failed)?;
        let PostgresSetup { node, clock, sends_notifications, .. } = setup;
        let store = Self { pool, node, clock, sends_notifications };
        store.ping().await.map_err(|error| failed(error.to_string()))?;
        Ok(store)
    }

    /// Runs a statement within [`PATIENCE`].
    async fn query(&self, statement: &str, params: Params<'_>) -> Result<Vec<PostgresRow>, StoreError> {
        self.query_within(PATIENCE, statement, params, |_| Ok(())).await
    }

    /// Runs a statement within `patience`. Rows that `check` does not accept are an error.
    async fn query_within(
        &self,
        patience: Duration,
        statement: &str,
        params: Params<'_>,
        check: impl FnOnce(&[PostgresRow]) -> Result<(), StoreError>,
    ) -> Result<Vec<PostgresRow>, StoreError> {
        let too_long = || StoreError::Unavailable("it takes too long".into());
        let until = deadline(patience);
        let connection = in_time(until, self.pool.get()).await.ok_or_else(too_long)?;
        let connection = connection.map_err(|error| StoreError::Unavailable(explain(&error).into()))?;
        let answer = async {
            let statement = connection.prepare_cached(statement).await?;
            connection.query(&statement, params).await
        };
        let answer = match in_time(until, answer).await {
            Some(Err(error)) if is_of_statement(&error) => return Err(error.into()),
            Some(answer) => answer.map_err(StoreError::from),
            None => Err(too_long()),
        };
        let answer = answer.and_then(|rows| check(&rows).map(|()| rows));
        if answer.is_err() {
            // Close the connection: it may still wait for an answer that never arrives, or its server may have become
            // read-only. A new connection may reach the server that accepts writes.
            drop(Object::take(connection));
        }
        answer
    }

    /// Writes `next` over the version before it and returns where the browser waits. Returns `None` if nothing was
    /// written, because the session was changed, deleted or has expired meanwhile.
    async fn replace(&self, next: &Session) -> Result<Option<Option<Waits>>, StoreError> {
        let (state, changed) = StateColumns::of(next)?;
        let rows = self
            .query(
                REPLACE,
                &[
                    &&next.key.0[..],
                    &(i64::from(next.version) - 1),
                    &state,
                    &changed.user_id,
                    &changed.user_name,
                    &changed.user_picture,
                    &changed.decided_at,
                    &changed.claimable_until,
                    &changed.token_grant,
                    &changed.scanned_at,
                    &changed.reason,
                    &self.sends_notifications,
                    &self.node.as_str(),
                    &next.writable_until().as_millis(),
                ],
            )
            .await?;
        rows.first().map(|row| waits(row, 0)).transpose()
    }

    /// Returns a session, and where its browser waits.
    async fn find_to_change(&self, which: &Which) -> Result<Option<(Session, Option<Waits>)>, StoreError> {
        let (statement, id): (&str, _) = match which {
            Which::Key(key) => (&FIND_BY_KEY, &key.0[..]),
            Which::Code(code) => (&FIND_BY_CODE, &code.0[..]),
        };
        let rows = self.query(statement, &[&id]).await?;
        rows.first().map(|row| Ok((session(row)?, waits(row, AFTER)?))).transpose()
    }

    /// Adjusts the clock of the node to the time of Postgres in this column, which was read at some point since
    /// `asked`. Returns that time.
    fn follow(&self, asked: Stopwatch, row: &PostgresRow, column: usize) -> Result<Timestamp, StoreError> {
        let now = Timestamp::from_millis(column_of(row, column)?);
        self.clock.follow(now, asked.elapsed());
        Ok(now)
    }
}

/// Checks that the encoding of the database is UTF8, because names and addresses are text in any script.
async fn check_encoding(connection: &Object) -> Result<(), String> {
    let row = connection.query_one("SELECT current_setting('server_encoding')", &[]).await;
    let encoding: String = row.and_then(|row| row.try_get(0)).map_err(|error| explain_failure(&error))?;
    match encoding.as_str() {
        "UTF8" => Ok(()),
        other => Err(format!(
            "the database's encoding is {other}, and must be UTF8; make one with CREATE DATABASE … ENCODING 'UTF8' \
             TEMPLATE template0"
        )),
    }
}

/// Applies the missing migrations. A database that a newer release has migrated is accepted, because migrations only
/// add to the schema.
async fn migrate(connection: &mut Object) -> Result<(), tokio_postgres::Error> {
    // `to_regclass` is not used, because it may return a result that was cached before the wait for the lock.
    let is_begun = "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables
                    WHERE schemaname = 'qrlogin' AND tablename = 'migrations')";
    let done = async |client: &tokio_postgres::Transaction<'_>| -> Result<i32, tokio_postgres::Error> {
        if !client.query_one(is_begun, &[]).await?.get::<_, bool>(0) {
            return Ok(0);
        }
        Ok(client.query_one("SELECT coalesce(max(number), 0) FROM qrlogin.migrations", &[]).await?.get(0))
    };
    let transaction = connection.transaction().await?;
    if usize::try_from(done(&transaction).await?).is_ok_and(|done| done >= MIGRATIONS.len()) {
        return transaction.commit().await;
    }
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
    // Another node may have migrated while this one waited for the lock.
    let done = done(&transaction).await?;
    if done == 0 {
        // Create the schema only if it is missing: a role that may not create schemas uses one that was created for it.
        let has_schema = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'qrlogin')";
        if !transaction.query_one(has_schema, &[]).await?.get::<_, bool>(0) {
            transaction.batch_execute("CREATE SCHEMA qrlogin").await?;
        }
        transaction
            .batch_execute(
                "CREATE TABLE qrlogin.migrations
                     (number integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await?;
    }
    for (number, migration) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > done) {
        transaction.batch_execute(migration).await?;
        transaction.execute("INSERT INTO qrlogin.migrations (number) VALUES ($1)", &[&number]).await?;
    }
    transaction.commit().await
}

const INSERT: &str = "INSERT INTO qrlogin.sessions (id, code, version, state, created_at, expires_at,
         client_ip, client_browser, client_os, client_origin, client_info, client_network)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

static READ: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {COLUMNS} FROM qrlogin.sessions WHERE id = ANY($1::bytea[])"));

/// Statement that selects a session and where its browser waits.
static FIND_BY_KEY: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {COLUMNS}, node, attachment FROM qrlogin.sessions WHERE id = $1"));

static FIND_BY_CODE: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {COLUMNS}, node, attachment FROM qrlogin.sessions WHERE code = $1"));

/// Statement that attaches connections. It locks the rows, so a concurrent decision either finds this node in the row
/// or is contained in the result.
///
/// It attaches no session after the deadline `$4`. The caller has given up by then, so no connection would hold the new
/// attachment number, and a connection that the browser has opened since would be superseded by it.
static ATTACH: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH found AS MATERIALIZED (
             SELECT id AS found_id, node AS before FROM qrlogin.sessions
             WHERE id = ANY($1::bytea[]) ORDER BY id FOR NO KEY UPDATE
         ), timed AS MATERIALIZED (
             SELECT found_id, before, qrlogin.now_millis() < $4 AS is_in_time FROM found
         ), attached AS (
             UPDATE qrlogin.sessions SET node = $2, attachment = attachment + 1
             FROM timed WHERE id = found_id AND is_in_time
             RETURNING {COLUMNS}, attachment, nullif(before, $2) AS left_behind
         ), untold AS (
             INSERT INTO qrlogin.untold (node, id, version, attachment, since)
             SELECT left_behind, id, version, attachment, qrlogin.now_millis() FROM attached
             WHERE left_behind IS NOT NULL
             ON CONFLICT (node, id) DO UPDATE SET
                 version = greatest(untold.version, excluded.version),
                 attachment = greatest(untold.attachment, excluded.attachment)
         )
         SELECT {COLUMNS}, attachment, left_behind, CASE WHEN $3 AND left_behind IS NOT NULL THEN
             pg_notify('qrlogin_' || left_behind, encode(id, 'base64') || ':' || version || ':' || attachment) IS NULL
         END, qrlogin.now_millis(), (SELECT count(*) FROM timed WHERE NOT is_in_time)
         FROM (VALUES (1)) AS always LEFT JOIN attached ON true"
    )
});

/// Statement that reads sessions and then the time. The time is read while all rows are locked, so it is later than
/// every decision in them.
static READ_SETTLED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH locked AS MATERIALIZED (
             SELECT {COLUMNS} FROM qrlogin.sessions WHERE id = ANY($1::bytea[]) ORDER BY id FOR SHARE
         ), instant AS MATERIALIZED (
             SELECT count(*) AS locked, qrlogin.now_millis() AS now FROM locked
         )
         SELECT {COLUMNS}, now FROM instant LEFT JOIN locked ON true"
    )
});

/// Statement that writes a change. The time is read while the row is locked, so the wait for the lock does not prolong
/// the session.
const REPLACE: &str = "WITH locked AS MATERIALIZED (
         SELECT id AS locked_id FROM qrlogin.sessions WHERE id = $1 AND version = $2 FOR NO KEY UPDATE
     ), timed AS MATERIALIZED (
         SELECT locked_id, qrlogin.now_millis() AS now FROM locked
     ), written AS (
         UPDATE qrlogin.sessions SET version = version + 1, state = $3, user_id = $4, user_name = $5,
             user_picture = $6, decided_at = $7, claimable_until = $8, token_grant = $9, scanned_at = $10, reason = $11
         FROM timed WHERE id = locked_id AND now < $14
         RETURNING id, version, state, node, attachment
     ), untold AS (
         INSERT INTO qrlogin.untold (node, id, version, attachment, since)
         SELECT node, id, version, attachment, qrlogin.now_millis() FROM written
         WHERE node IS NOT NULL AND state <> 'claimed'
         ON CONFLICT (node, id) DO UPDATE SET
             version = greatest(untold.version, excluded.version),
             attachment = greatest(untold.attachment, excluded.attachment)
     )
     SELECT node, attachment, CASE WHEN $12 AND node <> $13 AND state <> 'claimed' THEN
         pg_notify('qrlogin_' || node, encode(id, 'base64') || ':' || version || ':' || attachment) IS NULL
     END FROM written";

static SWEEP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "DELETE FROM qrlogin.sessions WHERE id = ANY(ARRAY(
             SELECT id FROM qrlogin.sessions WHERE expires_at < $1
             ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )) RETURNING {COLUMNS}"
    )
});

static HEAVIEST: LazyLock<String> = LazyLock::new(|| row::heaviest("qrlogin.sessions"));

/// Statement that selects the time, and whether the server is read-only. A standby is, and a managed server may be when
/// its disk is nearly full.
const PING: &str = "SELECT qrlogin.now_millis(), current_setting('transaction_read_only') = 'on'";

const SWEEP_UNTOLD: &str = "DELETE FROM qrlogin.untold WHERE since < $1";

static UNTOLD: LazyLock<String> = LazyLock::new(|| {
    let columns = COLUMNS.replace("id, code, version,", "session.id, code, session.version,");
    format!(
        "SELECT {columns}, untold.id, untold.version, untold.attachment, qrlogin.now_millis()
         FROM (VALUES (1)) AS always LEFT JOIN (
             SELECT id, version, attachment FROM qrlogin.untold WHERE node = $1 LIMIT $2
         ) AS untold ON true LEFT JOIN qrlogin.sessions AS session ON session.id = untold.id"
    )
});

/// Statement that deletes delivered changes. It skips entries that another transaction has locked; the next read finds
/// them again.
const TOLD: &str = "DELETE FROM qrlogin.untold WHERE (node, id) IN (
         SELECT node, id FROM qrlogin.untold JOIN
             unnest($2::bytea[], $3::bigint[], $4::bigint[]) AS told (told_id, delivered_version, told_attachment)
             ON id = told_id AND version <= delivered_version AND attachment <= told_attachment
         WHERE node = $1 ORDER BY id FOR UPDATE SKIP LOCKED
     )";

#[async_trait]
impl Store for PostgresStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn insert(&self, session: &Session) -> Result<(), StoreError> {
        let (state, _) = StateColumns::of(session)?;
        let client = &session.client;
        self.query(
            INSERT,
            &[
                &&session.key.0[..],
                &&session.code.0[..],
                &i64::from(session.version),
                &state,
                &session.created_at.as_millis(),
                &session.expires_at.as_millis(),
                &client.ip,
                &client.browser,
                &client.os,
                &client.origin,
                &client.client_info,
                &client.network(),
            ],
        )
        .await?;
        Ok(())
    }

    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError> {
        self.query(&READ, &[&ids(keys)]).await?.iter().map(session).collect()
    }

    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError> {
        let asked = Stopwatch::start();
        let deadline = self.clock.now().plus_seconds(ATTACH_SECONDS).as_millis();
        let rows =
            self.query(&ATTACH, &[&ids(keys), &self.node.as_str(), &self.sends_notifications, &deadline]).await?;
        let first = rows.first().ok_or_else(|| corrupt("no time"))?;
        self.follow(asked, first, AFTER + 3)?;
        if column_of::<i64>(first, AFTER + 4)? > 0 {
            return Err(StoreError::Unavailable("it executed the statement too late".into()));
        }
        let attached = |row: &PostgresRow| {
            Ok(Attached {
                session: session(row)?,
                attachment: number(row, AFTER)?,
                superseded_node: column_of::<Option<String>>(row, AFTER + 1)?.map(NodeName::from_stored),
            })
        };
        rows.iter().filter(|row| is_there(row)).map(attached).collect()
    }

    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<Session>, StoreError> {
        self.query(&FIND_BY_CODE, &[&&code.0[..]]).await?.first().map(session).transpose()
    }

    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError> {
        let asked = Stopwatch::start();
        let rows = self.query(&READ_SETTLED, &[&ids(keys)]).await?;
        let first = rows.first().ok_or_else(|| corrupt("no time"))?;
        let now = self.follow(asked, first, AFTER)?;
        let found = rows.iter().filter(|row| is_there(row));
        Ok((now, found.map(session).collect::<Result<_, _>>()?))
    }

    async fn change(
        &self,
        which: Which,
        transition: Transition,
        announcer: Arc<dyn Announcer>,
    ) -> Result<Changed, StoreError> {
        let committed = |session: Session, waits, is_new| {
            let stored = Stored { session: Arc::new(session), waits, is_new, since: Stopwatch::start() };
            Committed::new(stored, announcer.clone())
        };
        for _ in 0..MAX_ATTEMPTS {
            let Some((mut found, waits)) = self.find_to_change(&which).await? else { return Ok(Changed::Missing) };
            let mut step = transition(&found, self.clock.now());
            if step == Err(Refusal::Expired) && found.is_undecided() {
                // A change that was accepted in time may not be committed yet. Read again behind it.
                let (now, mut settled) = self.read_settled(&[found.key]).await?;
                let Some(settled) = settled.pop() else { return Ok(Changed::Missing) };
                found = settled;
                step = transition(&found, now);
            }
            match step {
                Ok(Step::To(next)) => {
                    if let Some(waits) = self.replace(&next).await? {
                        return Ok(Changed::Done(committed(next, waits, true)));
                    }
                    // Another change was written first, or the session has expired by the clock of Postgres.
                    let (now, mut settled) = self.read_settled(&[found.key]).await?;
                    let Some(settled) = settled.pop() else { return Ok(Changed::Missing) };
                    if settled.version == found.version && now >= next.writable_until() {
                        return Ok(Changed::Refused(Refusal::Expired, committed(settled, waits, false)));
                    }
                }
                Ok(Step::Repeated) => return Ok(Changed::Done(committed(found, waits, false))),
                Err(refusal) => return Ok(Changed::Refused(refusal, committed(found, waits, false))),
            }
        }
        Ok(Changed::Contended)
    }

    async fn heaviest(&self, now: Timestamp, limit: u32) -> Result<Heaviest, StoreError> {
        let rows = self.query(&HEAVIEST, &[&now.as_millis(), &i64::from(limit)]).await?;
        let pending = rows.first().map(|row| column_of::<i64>(row, AFTER)).transpose()?.unwrap_or_default();
        Ok(Heaviest {
            pending: u64::try_from(pending).map_err(corrupt)?,
            oldest: rows.iter().map(session).collect::<Result<_, _>>()?,
        })
    }

    async fn undelivered(&self) -> Result<Vec<Undelivered>, StoreError> {
        let asked = Stopwatch::start();
        let rows = self.query(&UNTOLD, &[&self.node.as_str(), &MAX_UNTOLD]).await?;
        let mut untold = Vec::new();
        for row in &rows {
            self.follow(asked, row, AFTER + 3)?;
            if let Some(id) = column_of::<Option<&[u8]>>(row, AFTER)? {
                let key = SessionKey(hash(id)?);
                let notification =
                    Notification { key, version: number(row, AFTER + 1)?, attachment: number(row, AFTER + 2)? };
                // A row that cannot be read is read again by itself, and does not hide the others.
                let session = is_there(row).then(|| session(row).ok()).flatten();
                untold.push(Undelivered { notification, session });
            }
        }
        Ok(untold)
    }

    async fn mark_delivered(&self, notifications: &[Notification]) -> Result<(), StoreError> {
        let ids: Vec<_> = notifications.iter().map(|notification| &notification.key.0[..]).collect();
        let versions: Vec<_> = notifications.iter().map(|notification| i64::from(notification.version)).collect();
        let attachments: Vec<_> = notifications.iter().map(|notification| i64::from(notification.attachment)).collect();
        self.query(TOLD, &[&self.node.as_str(), &ids, &versions, &attachments]).await?;
        Ok(())
    }

    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError> {
        let rows = self.query(&SWEEP, &[&expired_before.as_millis(), &i64::from(limit)]).await?;
        let forgotten = expired_before.plus_millis(-UNTOLD_MILLIS);
        self.query(SWEEP_UNTOLD, &[&forgotten.as_millis()]).await?;
        // A row that cannot be read is deleted like the others, and not counted.
        Ok(rows.iter().filter_map(|row| session(row).ok()).map(|session| Ended::of(&session)).collect())
    }

    /// Does nothing, because Postgres does its own housekeeping.
    async fn tidy(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let asked = Stopwatch::start();
        let rows = self.query_within(PING_PATIENCE, PING, &[], can_be_written).await?;
        rows.first().map_or(Ok(()), |row| self.follow(asked, row, 0).map(drop))
    }

    async fn close(&self) {
        self.pool.close();
    }
}

/// Index of the first column after those of [`COLUMNS`].
const AFTER: usize = 19;

/// Converts a row that begins with [`COLUMNS`].
fn session(row: &PostgresRow) -> Result<Session, StoreError> {
    let row = Row {
        id: hash(column_of(row, 0)?)?,
        code: hash(column_of(row, 1)?)?,
        version: number(row, 2)?,
        state: column_of(row, 3)?,
        created_at: column_of(row, 4)?,
        expires_at: column_of(row, 5)?,
        client: Client {
            ip: column_of(row, 6)?,
            browser: column_of(row, 7)?,
            os: column_of(row, 8)?,
            origin: column_of(row, 9)?,
            client_info: column_of(row, 10)?,
        },
        changed: StateColumns {
            user_id: column_of(row, 11)?,
            user_name: column_of(row, 12)?,
            user_picture: column_of(row, 13)?,
            decided_at: column_of(row, 14)?,
            claimable_until: column_of(row, 15)?,
            token_grant: column_of(row, 16)?,
            scanned_at: column_of(row, 17)?,
            reason: column_of(row, 18)?,
        },
    };
    row.session()
}

/// Returns whether an error is one of the statement and leaves the connection usable: data that cannot be stored (class
/// 22), a violated constraint (23), a transaction rollback such as a deadlock (40), or a timeout of the statement or of
/// a lock.
fn is_of_statement(error: &tokio_postgres::Error) -> bool {
    let of_statement = |code: &SqlState| {
        code.code().get(..2).is_some_and(|class| ["22", "23", "40"].contains(&class))
            || *code == SqlState::QUERY_CANCELED
            || *code == SqlState::LOCK_NOT_AVAILABLE
    };
    error.code().is_some_and(of_statement)
}

/// Reads where the browser of a session waits: the node in this column, and the attachment number in the next.
fn waits(row: &PostgresRow, column: usize) -> Result<Option<Waits>, StoreError> {
    let Some(node) = column_of::<Option<String>>(row, column)? else { return Ok(None) };
    Ok(Some(Waits { node: NodeName::from_stored(node), attachment: number(row, column + 1)? }))
}

/// Checks the answer to [`PING`].
fn can_be_written(rows: &[PostgresRow]) -> Result<(), StoreError> {
    match rows.first() {
        Some(row) if column_of(row, 1)? => Err(StoreError::Unavailable("it is read-only".into())),
        _ => Ok(()),
    }
}

/// Returns whether an outer join has found a session for this row.
fn is_there(row: &PostgresRow) -> bool {
    row.try_get::<_, Option<&[u8]>>(0).is_ok_and(|id| id.is_some())
}

/// Reads a column as a version or an attachment number.
fn number(row: &PostgresRow, column: usize) -> Result<u32, StoreError> {
    u32::try_from(column_of::<i64>(row, column)?).map_err(corrupt)
}

/// Reads a column.
fn column_of<'a, T: FromSql<'a>>(row: &'a PostgresRow, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| corrupt(explain(&error)))
}

/// Returns the keys as parameters of a statement.
fn ids(keys: &[SessionKey]) -> Vec<&[u8]> {
    keys.iter().map(|key| &key.0[..]).collect()
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Unavailable(explain_failure(&error).into())
    }
}

/// Returns the output of a future, or `None` at this time. It uses the clock of the machine, which tests do not move.
async fn in_time<F: Future>(until: Instant, future: F) -> Option<F::Output> {
    tokio::time::timeout_at(until, future).await.ok()
}

fn deadline(patience: Duration) -> Instant {
    Instant::now() + patience
}
