//! The SQLite store: the conformance suite, and its file.

use std::sync::Arc;

use futures_util::future::{join, join_all};
use qrlogin::internals::store::{SqliteStore, Store as _};
use qrlogin::internals::system::clock::Clock;
use qrlogin::session::Session;

use super::fixture::{new_session, stored};
use super::records::new_record;
use super::{Time, conforms};
use qrlogin_testing::harness::START;
use qrlogin_testing::test;

#[test]
async fn sqlite_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hands) = Clock::manual(START);
    let url = format!("sqlite://{}", dir.path().join("conformance.db").display());
    let store = Arc::new(SqliteStore::open(&url, clock).unwrap());
    conforms(store.clone(), &Time::Manual(hands)).await;
    store.close().await;
}

#[test]
async fn sqlite_keeps_sessions_in_a_private_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kept.db");
    let url = format!("sqlite://{}", path.display());
    let session = new_session();
    for round in 0..2 {
        let store = SqliteStore::open(&url, Clock::manual(START).0).unwrap();
        if round == 0 {
            store.insert(&session).await.unwrap();
        }
        assert_eq!(stored(&store, session.key).await.as_ref(), Some(&session));
        store.close().await;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
async fn sqlite_database_of_the_previous_release_is_migrated_and_keeps_its_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.db");
    let session = new_session();
    {
        let old = rusqlite::Connection::open(&path).unwrap();
        old.execute_batch(include_str!("../../../migrations/sqlite/0001_sessions.sql")).unwrap();
        old.execute_batch(include_str!("../../../migrations/sqlite/0002_hostile_web.sql")).unwrap();
        old.pragma_update(None, "user_version", 2).unwrap();
        insert_as_the_previous_release(&old, &session);
    }
    let store = SqliteStore::open(&format!("sqlite://{}", path.display()), Clock::manual(START).0).unwrap();
    assert_eq!(stored(&store, session.key).await, Some(session));
    assert!(store.insert_record(&new_record()).await.unwrap());
    store.close().await;
    // The previous release also inserts into the new schema.
    let of_old = new_session();
    let migrated = rusqlite::Connection::open(&path).unwrap();
    insert_as_the_previous_release(&migrated, &of_old);
    drop(migrated);
    let store = SqliteStore::open(&format!("sqlite://{}", path.display()), Clock::manual(START).0).unwrap();
    assert_eq!(stored(&store, of_old.key).await, Some(of_old));
    store.close().await;
}

/// Inserts a pending session with the statement of the release before the table `records`.
fn insert_as_the_previous_release(connection: &rusqlite::Connection, session: &Session) {
    let client = &session.client;
    let insert = "INSERT INTO sessions (id, code, version, state, created_at, expires_at,
             client_ip, client_browser, client_os, client_origin, client_info, client_network)
         VALUES (?1, ?2, ?3, 'pending', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let params = rusqlite::params![
        session.key.0,
        session.code.0,
        session.version,
        session.created_at.as_millis(),
        session.expires_at.as_millis(),
        client.ip,
        client.browser,
        client.os,
        client.origin,
        client.client_info,
        client.network(),
    ];
    assert_eq!(connection.execute(insert, params).unwrap(), 1);
}

#[test]
async fn closed_store_releases_its_file_before_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("qrlogin.db").display());
    let first = SqliteStore::open(&url, Clock::system()).unwrap();
    assert!(SqliteStore::open(&url, Clock::system()).is_err());
    first.close().await;
    let second = SqliteStore::open(&url, Clock::system());
    assert!(second.is_ok(), "{:?}", second.err());
    drop(first);
}

#[test]
async fn write_ahead_log_of_sqlite_stays_small_under_constant_writes() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("busy.db").display());
    let store = Arc::new(SqliteStore::open(&url, Clock::manual(START).0).unwrap());
    // Each round of writes has one call of `maintain` beside it, as a server has one every second, however slow the
    // machine is.
    for _ in 0..40 {
        let writers = (0..8).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    store.insert(&new_session()).await.unwrap();
                }
            })
        });
        let (written, maintained) = join(join_all(writers), store.maintain()).await;
        maintained.unwrap();
        assert!(written.iter().all(Result::is_ok));
    }
    let log_bytes = std::fs::metadata(dir.path().join("busy.db-wal")).unwrap().len();
    assert!(log_bytes < 48 * 1024 * 1024, "{log_bytes} bytes");
    store.close().await;
}

#[test]
async fn unusable_sqlite_url_is_refused_and_its_fault_named() {
    let dir = tempfile::tempdir().unwrap();
    let nonsense = dir.path().join("nonsense.db");
    std::fs::write(&nonsense, "this is not a database, although it is long enough to be looked at ".repeat(100))
        .unwrap();
    for (url, part) in [
        (format!("sqlite://{}/missing/x.db", dir.path().display()), "missing/x.db"),
        (format!("sqlite://{}", dir.path().display()), "database_url"),
        (format!("sqlite://{}", nonsense.display()), "nonsense.db"),
        ("postgres://localhost/x".to_owned(), "sqlite://FILE"),
        ("host=db user=u password=hunter2".to_owned(), "sqlite://FILE"),
        ("sqlite://".to_owned(), "names no file"),
        ("sqlite://:memory:".to_owned(), "a database in memory"),
        ("sqlite://:memory:?cache=shared".to_owned(), "a database in memory"),
        ("sqlite://file:q.db".to_owned(), "SQLite's own URIs"),
        ("sqlite://file:q.db?mode=memory".to_owned(), "SQLite's own URIs"),
        ("sqlite://q.db?key=hunter2".to_owned(), "no parameters"),
        ("sqlite:///var/lib/a%20b/q.db".to_owned(), "percent-encoded"),
        ("sqlite://q%2Edb".to_owned(), "percent-encoded"),
        ("sqlite://q.db\r".to_owned(), "control character"),
        ("sqlite://q\0.db".to_owned(), "control character"),
    ] {
        let error = SqliteStore::open(&url, Clock::system()).err().unwrap().to_string();
        assert!(error.starts_with("database_url: ") && error.contains(part), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
async fn path_of_sqlite_is_taken_literally() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["file:q.db", "100%.db", "a b.db", "a#b.db", "安.db", "%zz.db"] {
        let file = dir.path().join(name);
        let store = SqliteStore::open(&format!("sqlite://{}", file.display()), Clock::system()).unwrap();
        store.ping().await.unwrap();
        assert!(file.metadata().unwrap().len() > 0, "{name}");
        store.close().await;
    }
    assert!(!dir.path().join("q.db").exists());
}
