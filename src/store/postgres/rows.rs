//! Rows of query results.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::cluster::node::{NodeName, Waits};
use crate::store::StoreError;
use crate::store::row::{Columns, corrupt};
use crate::telemetry::cause::explain;

impl Columns for Row {
    fn optional_integer(&self, name: &str) -> Result<Option<i64>, StoreError> {
        column(self, name)
    }

    fn optional_text(&self, name: &str) -> Result<Option<&str>, StoreError> {
        column(self, name)
    }

    fn optional_bytes(&self, name: &str) -> Result<Option<&[u8]>, StoreError> {
        column(self, name)
    }
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, StoreError> {
    row.try_get(name).map_err(|error| corrupt(explain(&error)))
}

/// Returns whether an outer join has found a session for this row.
pub(super) fn has_session(row: &Row) -> bool {
    row.optional_bytes("id").is_ok_and(|id| id.is_some())
}

/// Reads where the browser of a session waits, from the columns `node` and `attachment`.
pub(super) fn waits(row: &Row) -> Result<Option<Waits>, StoreError> {
    let Some(node) = row.optional_string("node")? else { return Ok(None) };
    Ok(Some(Waits { node: NodeName::from_stored(node), attachment: row.number("attachment")? }))
}
