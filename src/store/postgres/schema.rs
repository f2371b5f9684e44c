//! The schema of the database, and its migrations.

use deadpool_postgres::Object;

use crate::postgres::explain_failure;

/// Migrations of the schema, in order. A released migration never changes.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../../migrations/postgres/0001_sessions.sql"),
    include_str!("../../../migrations/postgres/0002_hostile_web.sql"),
    include_str!("../../../migrations/postgres/0003_oauth.sql"),
];
/// Key of the advisory lock that a node holds while it migrates.
const MIGRATION_LOCK: i64 = 0x7172_6c6f_6769_6e00;

/// Checks that the encoding of the database is UTF8, because names and addresses are text in any script.
pub(super) async fn check_encoding(connection: &Object) -> Result<(), String> {
    let row = connection.query_one("SELECT current_setting('server_encoding') AS encoding", &[]).await;
    let encoding: String = row.and_then(|row| row.try_get("encoding")).map_err(|error| explain_failure(&error))?;
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
pub(super) async fn migrate(connection: &mut Object) -> Result<(), tokio_postgres::Error> {
    // `to_regclass` is not used, because it may return a result that was cached before the wait for the lock.
    let has_migrations = "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables
                          WHERE schemaname = 'qrlogin' AND tablename = 'migrations') AS has_migrations";
    let done = async |client: &tokio_postgres::Transaction<'_>| -> Result<i32, tokio_postgres::Error> {
        if !client.query_one(has_migrations, &[]).await?.get::<_, bool>("has_migrations") {
            return Ok(0);
        }
        let last = "SELECT coalesce(max(number), 0) AS last FROM qrlogin.migrations";
        Ok(client.query_one(last, &[]).await?.get("last"))
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
        let has_schema = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'qrlogin') AS has_schema";
        if !transaction.query_one(has_schema, &[]).await?.get::<_, bool>("has_schema") {
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
