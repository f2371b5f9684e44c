//! The connections to the database, and the time limit of each statement.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::time::Instant;
use tokio_postgres::Row as PostgresRow;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::postgres::explain_failure;
use crate::store::StoreError;
use crate::telemetry::cause::explain;

/// Time after which a statement fails with [`StoreError::Unavailable`].
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A pool of connections to the database.
pub(super) struct Database(Pool);

impl Database {
    pub(super) fn new(pool: Pool) -> Self {
        Self(pool)
    }

    /// Runs a statement within [`STATEMENT_TIMEOUT`].
    pub(super) async fn query(&self, statement: &str, params: Params<'_>) -> Result<Vec<PostgresRow>, StoreError> {
        self.query_within(STATEMENT_TIMEOUT, statement, params, |_| Ok(())).await
    }

    /// Runs a statement within `timeout`. Rows that `check` does not accept are an error.
    pub(super) async fn query_within(
        &self,
        timeout: Duration,
        statement: &str,
        params: Params<'_>,
        check: impl FnOnce(&[PostgresRow]) -> Result<(), StoreError>,
    ) -> Result<Vec<PostgresRow>, StoreError> {
        let too_long = || StoreError::Unavailable("it takes too long".into());
        let until = deadline(timeout);
        let connection = in_time(until, self.0.get()).await.ok_or_else(too_long)?;
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

    /// Closes the connections.
    pub(super) fn close(&self) {
        self.0.close();
    }
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

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Unavailable(explain_failure(&error).into())
    }
}

/// Returns the output of a future, or `None` at this time. It uses the clock of the machine, which tests do not move.
pub(super) async fn in_time<F: Future>(until: Instant, future: F) -> Option<F::Output> {
    tokio::time::timeout_at(until, future).await.ok()
}

pub(super) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout
}
