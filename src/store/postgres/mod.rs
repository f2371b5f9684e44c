//! Sessions and records in Postgres, shared by many nodes.
//!
//! Each write is one statement, and so one transaction that begins and ends within Postgres. A node that is killed or
//! suspended holds no lock.
//!
//! Expiry is checked against the clock of Postgres, read while the row is locked. So `expired` and a decision exclude
//! each other even if the clocks of the nodes differ (see [`Store::read_settled`]). The [`Clock`] of each node follows
//! that of Postgres.
//!
//! To avoid deadlocks, a statement that locks several sessions does so in the order of their ids, or skips locked rows.

mod database;
mod records;
mod rows;
mod schema;
mod statements;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::PoolError;
use tokio_postgres::Row as PostgresRow;

use self::database::{Database, STATEMENT_TIMEOUT, deadline, in_time};
use self::rows::{has_session, waits};
use self::schema::{check_encoding, migrate};
use self::statements::{
    ATTACH, DELETE_DELIVERED, FIND_BY_CODE, FIND_BY_KEY, INSERT, LARGEST_NETWORK, PING, READ, READ_SETTLED, REPLACE,
    SWEEP, SWEEP_UNDELIVERED, UNDELIVERED,
};
use super::committed::{Announcer, Changed, Committed, SessionSelector, Stored, Transition};
use super::row::{Columns as _, StateColumns, corrupt, oauth_request, session};
use super::{Attached, Ended, LargestNetwork, OpenError, Record, RecordId, Store, StoreError, Undelivered};
use crate::cluster::node::{NodeName, Notification, Waits};
use crate::metrics::Stopwatch;
use crate::postgres::{Postgres, explain_failure};
use crate::session::{CodeKey, Refusal, Session, SessionKey, Step, Timestamp};
use crate::system::clock::Clock;

/// Time after which Postgres does not attach a connection any more, in seconds. It is shorter than
/// [`STATEMENT_TIMEOUT`], so that no caller has given up before.
const ATTACH_SECONDS: u32 = 4;
/// Time after which a ping fails.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of attempts to write a change while other nodes change the same row. A session changes three times at
/// most.
const MAX_ATTEMPTS: usize = 8;
/// Maximum number of undelivered changes per read.
const MAX_UNDELIVERED: i64 = 1000;
/// Maximum number of entries of the table `untold` that one sweep deletes.
const MAX_SWEPT_UNDELIVERED: i64 = 10_000;
/// Time after which an entry of the table `untold` is deleted, in milliseconds. Its session has been swept by then.
const KEEP_UNDELIVERED_MILLIS: i64 = 2 * 3_600_000;

/// A store in Postgres, for many nodes.
pub struct PostgresStore {
    database: Database,
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
        in_time(deadline(STATEMENT_TIMEOUT * 2), prepare)
            .await
            .ok_or_else(|| failed("it does not answer".to_owned()))?
            .map_err(failed)?;
        let PostgresSetup { node, clock, sends_notifications, .. } = setup;
        let store = Self { database: Database::new(pool), node, clock, sends_notifications };
        store.ping().await.map_err(|error| failed(error.to_string()))?;
        Ok(store)
    }

    /// Writes `next` over the version before it and returns where the browser waits. Returns `None` if nothing was
    /// written, because the session was changed, deleted or has expired meanwhile.
    async fn replace(&self, next: &Session) -> Result<Option<Option<Waits>>, StoreError> {
        let columns = StateColumns::of(next)?;
        let rows = self
            .database
            .query(
                REPLACE,
                &[
                    &&next.key.0[..],
                    &(i64::from(next.version) - 1),
                    &columns.state,
                    &columns.user_id,
                    &columns.user_name,
                    &columns.user_picture,
                    &columns.decided_at,
                    &columns.claimable_until,
                    &columns.token_grant,
                    &columns.scanned_at,
                    &columns.reason,
                    &self.sends_notifications,
                    &self.node.as_str(),
                    &next.writable_until().as_millis(),
                ],
            )
            .await?;
        rows.first().map(waits).transpose()
    }

    /// Returns a session, and where its browser waits.
    async fn find_to_change(&self, selector: &SessionSelector) -> Result<Option<(Session, Option<Waits>)>, StoreError> {
        let (statement, id): (&str, _) = match selector {
            SessionSelector::Key(key) => (&FIND_BY_KEY, &key.0[..]),
            SessionSelector::Code(code) => (&FIND_BY_CODE, &code.0[..]),
        };
        let rows = self.database.query(statement, &[&id]).await?;
        rows.first().map(|row| Ok((session(row)?, waits(row)?))).transpose()
    }

    /// Adjusts the clock of the node to the time of Postgres in the column `now`, which was read at some point since
    /// `asked`. Returns that time.
    fn follow(&self, asked: Stopwatch, row: &PostgresRow) -> Result<Timestamp, StoreError> {
        let now = row.time("now")?;
        self.clock.follow(now, asked.elapsed());
        Ok(now)
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn insert(&self, session: &Session) -> Result<(), StoreError> {
        let state = StateColumns::of(session)?.state;
        let client = &session.client;
        self.database
            .query(
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
                    &oauth_request(session)?,
                ],
            )
            .await?;
        Ok(())
    }

    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError> {
        self.database.query(&READ, &[&ids(keys)]).await?.iter().map(session).collect()
    }

    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError> {
        let asked = Stopwatch::start();
        let deadline = self.clock.now().plus_seconds(ATTACH_SECONDS).as_millis();
        let rows = self
            .database
            .query(&ATTACH, &[&ids(keys), &self.node.as_str(), &self.sends_notifications, &deadline])
            .await?;
        let first = rows.first().ok_or_else(|| corrupt("no time"))?;
        self.follow(asked, first)?;
        if first.integer("overdue")? > 0 {
            return Err(StoreError::Unavailable("it executed the statement too late".into()));
        }
        let attached = |row: &PostgresRow| {
            Ok(Attached {
                session: session(row)?,
                attachment: row.number("attachment")?,
                superseded_node: row.optional_string("left_behind")?.map(NodeName::from_stored),
            })
        };
        rows.iter().filter(|row| has_session(row)).map(attached).collect()
    }

    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<Session>, StoreError> {
        self.database.query(&FIND_BY_CODE, &[&&code.0[..]]).await?.first().map(session).transpose()
    }

    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError> {
        let asked = Stopwatch::start();
        let rows = self.database.query(&READ_SETTLED, &[&ids(keys)]).await?;
        let first = rows.first().ok_or_else(|| corrupt("no time"))?;
        let now = self.follow(asked, first)?;
        let found = rows.iter().filter(|row| has_session(row));
        Ok((now, found.map(session).collect::<Result<_, _>>()?))
    }

    async fn change(
        &self,
        selector: SessionSelector,
        transition: Transition,
        announcer: Arc<dyn Announcer>,
    ) -> Result<Changed, StoreError> {
        let committed = |session: Session, waits, is_new| {
            let stored = Stored { session: Arc::new(session), waits, is_new, since: Stopwatch::start() };
            Committed::new(stored, announcer.clone())
        };
        for _ in 0..MAX_ATTEMPTS {
            let Some((mut found, waits)) = self.find_to_change(&selector).await? else { return Ok(Changed::Missing) };
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

    async fn largest_network(&self, now: Timestamp, limit: u32) -> Result<LargestNetwork, StoreError> {
        let rows = self.database.query(&LARGEST_NETWORK, &[&now.as_millis(), &i64::from(limit)]).await?;
        let total = rows.first().map(|row| row.integer("total_pending")).transpose()?.unwrap_or_default();
        Ok(LargestNetwork {
            total_pending: u64::try_from(total).map_err(corrupt)?,
            oldest: rows.iter().map(session).collect::<Result<_, _>>()?,
        })
    }

    async fn undelivered(&self) -> Result<Vec<Undelivered>, StoreError> {
        let asked = Stopwatch::start();
        let rows = self.database.query(&UNDELIVERED, &[&self.node.as_str(), &MAX_UNDELIVERED]).await?;
        let mut undelivered = Vec::new();
        for row in &rows {
            self.follow(asked, row)?;
            if row.optional_bytes("changed_id")?.is_some() {
                let key = SessionKey(row.hash("changed_id")?);
                let (version, attachment) = (row.number("changed_version")?, row.number("changed_attachment")?);
                // A row that cannot be read is read again by itself, and does not hide the others.
                let session = has_session(row).then(|| session(row).ok()).flatten();
                undelivered.push(Undelivered { notification: Notification { key, version, attachment }, session });
            }
        }
        Ok(undelivered)
    }

    async fn mark_delivered(&self, notifications: &[Notification]) -> Result<(), StoreError> {
        let ids: Vec<_> = notifications.iter().map(|notification| &notification.key.0[..]).collect();
        let versions: Vec<_> = notifications.iter().map(|notification| i64::from(notification.version)).collect();
        let attachments: Vec<_> = notifications.iter().map(|notification| i64::from(notification.attachment)).collect();
        self.database.query(DELETE_DELIVERED, &[&self.node.as_str(), &ids, &versions, &attachments]).await?;
        Ok(())
    }

    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError> {
        let rows = self.database.query(&SWEEP, &[&expired_before.as_millis(), &i64::from(limit)]).await?;
        // Once per sweep, after its last batch.
        if rows.len() < limit as usize {
            let noted_before = expired_before.plus_millis(-KEEP_UNDELIVERED_MILLIS);
            self.database.query(SWEEP_UNDELIVERED, &[&noted_before.as_millis(), &MAX_SWEPT_UNDELIVERED]).await?;
        }
        // A row that cannot be read is deleted like the others, and not counted.
        Ok(rows.iter().filter_map(|row| session(row).ok()).map(|session| Ended::of(&session)).collect())
    }

    async fn insert_record(&self, record: &Record) -> Result<bool, StoreError> {
        self.database.insert_record(record).await
    }

    async fn read_record(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.database.read_record(id).await
    }

    async fn replace_record(&self, record: &Record) -> Result<bool, StoreError> {
        self.database.replace_record(record).await
    }

    async fn delete_record(&self, id: &RecordId) -> Result<bool, StoreError> {
        self.database.delete_record(id).await
    }

    async fn sweep_records(&self, expired_before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        self.database.sweep_records(expired_before, limit).await
    }

    /// Does nothing, because Postgres does its own housekeeping.
    async fn maintain(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let asked = Stopwatch::start();
        let rows = self.database.query_within(PING_TIMEOUT, PING, &[], can_be_written).await?;
        rows.first().map_or(Ok(()), |row| self.follow(asked, row).map(drop))
    }

    async fn close(&self) {
        self.database.close();
    }
}

/// Checks the answer to [`PING`].
fn can_be_written(rows: &[PostgresRow]) -> Result<(), StoreError> {
    match rows.first() {
        Some(row) if row.integer("is_read_only")? != 0 => Err(StoreError::Unavailable("it is read-only".into())),
        _ => Ok(()),
    }
}

/// Returns the keys as parameters of a statement.
fn ids(keys: &[SessionKey]) -> Vec<&[u8]> {
    keys.iter().map(|key| &key.0[..]).collect()
}
