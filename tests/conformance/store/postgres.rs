//! The Postgres store: the conformance suite, and behaviour that several nodes need.

use std::sync::Arc;

use futures_util::future::join_all;
use qrlogin::internals::cluster::node::{NodeName, Notification, Waits};
use qrlogin::internals::postgres::Postgres;
use qrlogin::internals::store::{Attached, PostgresSetup, PostgresStore, Record, Store as _, Undelivered};
use qrlogin::internals::system::clock::Clock;
use qrlogin::session::{Session, Timestamp};

use super::fixture::{CODE, Replaced, ann, confirmed, new_session, replace, session_of_now, stepped, stored};
use super::records::new_record;
use super::{Time, conforms};
use qrlogin_testing::harness::START;
use qrlogin_testing::real_time::until;
use qrlogin_testing::services;
use qrlogin_testing::test;

/// Opens the store of a new node on this database.
async fn node(url: &str) -> (NodeName, PostgresStore) {
    let node = NodeName::random();
    let setup =
        PostgresSetup { node: node.clone(), clock: Clock::shared(), max_connections: 4, sends_notifications: true };
    (node, PostgresStore::open(&Postgres::parse(url).unwrap(), setup).await.unwrap())
}

#[test(needs(Postgres))]
async fn postgres_refuses_an_overdue_attachment() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    let session = new_session();
    store.insert(&session).await.unwrap();
    // This node's clock is years behind, so Postgres finds that its request is overdue.
    let (clock, _hands) = Clock::manual(Timestamp::from_millis(1_600_000_000_000));
    let setup = PostgresSetup { node: NodeName::random(), clock, max_connections: 1, sends_notifications: true };
    let late = PostgresStore::open(&Postgres::parse(&url).unwrap(), setup).await.unwrap();
    assert!(late.attach(&[session.key]).await.unwrap_err().to_string().contains("too late"));
    assert!(late.attach(&[new_session().key]).await.unwrap().is_empty());
    assert_eq!(store.attach(&[session.key]).await.unwrap()[0].attachment, 1);
}

#[test(needs(Postgres))]
async fn postgres_conforms() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    let client = services::connect(&url).await.unwrap();
    let held_still = format!(
        "CREATE TABLE qrlogin.test_time AS SELECT {}::bigint AS millis;
         CREATE OR REPLACE FUNCTION qrlogin.now_millis() RETURNS bigint LANGUAGE sql VOLATILE
             AS 'SELECT millis FROM qrlogin.test_time'",
        START.as_millis()
    );
    client.batch_execute(&held_still).await.unwrap();
    conforms(Arc::new(store), &Time::Postgres(client)).await;
}

fn notification_of(session: &Session, attachment: u32) -> Notification {
    Notification { key: session.key, version: session.version, attachment }
}

#[test(needs(Postgres))]
async fn row_names_the_node_to_which_its_browser_was_attached_last() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let ((here, ours), (there, theirs)) = (node(&url).await, node(&url).await);
    let session = session_of_now(&ours).await;

    let first = ours.attach(&[session.key, new_session().key]).await.unwrap();
    assert_eq!(first, [Attached { session: session.clone(), attachment: 1, superseded_node: None }]);
    let again = ours.attach(&[session.key]).await.unwrap();
    assert_eq!(
        (again[0].attachment, &again[0].superseded_node),
        (2, &None),
        "a node supersedes no connection of its own"
    );
    let moved = theirs.attach(&[session.key]).await.unwrap();
    assert_eq!((moved[0].attachment, &moved[0].superseded_node), (3, &Some(here)));

    let scanned = stepped(session.scan(&ann(), CODE, session.created_at));
    let waits = Waits { node: there, attachment: 3 };
    assert_eq!(replace(&ours, &scanned).await, Replaced::Written(Some(waits)));
}

#[test(needs(Postgres))]
async fn undelivered_change_stays_with_its_node_until_it_is_delivered() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let ((_, ours), (_, theirs)) = (node(&url).await, node(&url).await);
    let session = session_of_now(&ours).await;
    let scanned = stepped(session.scan(&ann(), CODE, session.created_at));
    replace(&ours, &scanned).await;
    assert_eq!(ours.undelivered().await.unwrap(), [], "no browser waits");

    theirs.attach(&[session.key]).await.unwrap();
    let confirmed = confirmed(&scanned, session.created_at);
    replace(&ours, &confirmed).await;
    assert_eq!(ours.undelivered().await.unwrap(), []);
    let undelivered = theirs.undelivered().await.unwrap();
    assert_eq!(
        undelivered,
        [Undelivered { notification: notification_of(&confirmed, 1), session: Some(confirmed.clone()) }]
    );

    theirs.mark_delivered(&[notification_of(&scanned, 1)]).await.unwrap();
    assert_eq!(theirs.undelivered().await.unwrap(), undelivered, "an older version was delivered");
    theirs.mark_delivered(&[notification_of(&confirmed, 1)]).await.unwrap();
    assert_eq!(theirs.undelivered().await.unwrap(), []);
    let claimed = stepped(confirmed.acknowledge(session.created_at));
    replace(&ours, &claimed).await;
    assert_eq!(theirs.undelivered().await.unwrap(), [], "no browser waits for an acknowledgement");

    ours.attach(&[session.key]).await.unwrap();
    assert_eq!(
        theirs.undelivered().await.unwrap(),
        [Undelivered { notification: notification_of(&claimed, 2), session: Some(claimed) }]
    );
}

#[test(needs(Postgres))]
async fn sweep_deletes_old_undelivered_changes_and_waits_for_no_lock() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    let mut client = services::connect(&url).await.unwrap();
    let (now, _) = store.read_settled(&[]).await.unwrap();
    let long_ago = now.plus_seconds(60).plus_millis(-3 * 3_600_000);
    let insert = "INSERT INTO qrlogin.untold (node, id, version, attachment, since) VALUES ('gone', $1, 2, 1, $2)";
    for (id, since) in [(b"1", long_ago), (b"2", long_ago), (b"3", now)] {
        client.execute(insert, &[&&id[..], &since.as_millis()]).await.unwrap();
    }
    let left = "SELECT convert_from(string_agg(id, '' ORDER BY id), 'UTF8') FROM qrlogin.untold";

    let holder = client.transaction().await.unwrap();
    holder.execute("SELECT 1 FROM qrlogin.untold WHERE id = '1' FOR UPDATE", &[]).await.unwrap();
    store.sweep(now, 10).await.unwrap();
    assert_eq!(holder.query_one(left, &[]).await.unwrap().get::<_, String>(0), "13");
    holder.commit().await.unwrap();
    store.sweep(now, 10).await.unwrap();
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, String>(0), "3");
}

#[test(needs(Postgres))]
async fn sweep_of_records_waits_for_no_lock_and_keeps_a_record_that_is_being_prolonged() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    let mut client = services::connect(&url).await.unwrap();
    let [ended, prolonged] = [new_record(), new_record()];
    for record in [&ended, &prolonged] {
        assert!(store.insert_record(record).await.unwrap());
    }
    let holder = client.transaction().await.unwrap();
    let prolong = "UPDATE qrlogin.records SET version = version + 1, expires_at = expires_at + 60000 WHERE id = $1";
    holder.execute(prolong, &[&&prolonged.id.0[..]]).await.unwrap();
    let after_the_end = ended.expires_at.plus_millis(1);
    assert_eq!(store.sweep_records(after_the_end, 10).await.unwrap(), 1);
    holder.commit().await.unwrap();
    assert_eq!(store.read_record(&ended.id).await.unwrap(), None);
    assert_eq!(store.sweep_records(after_the_end, 10).await.unwrap(), 0);
    assert_eq!(store.read_record(&prolonged.id).await.unwrap().map(|record| record.version), Some(2));
    store.close().await;
}

#[test(needs(Postgres))]
async fn concurrent_replacements_of_two_nodes_write_each_version_once() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let ((_, ours), (_, theirs)) = (node(&url).await, node(&url).await);
    let record = new_record();
    assert!(ours.insert_record(&record).await.unwrap());
    for version in 2..=100 {
        let next = |data: &str| Record { version, data: data.to_owned(), ..record.clone() };
        let (our_next, their_next) = (next("ours"), next("theirs"));
        let (our_end, their_end) = tokio::join!(ours.replace_record(&our_next), theirs.replace_record(&their_next));
        let written = if our_end.unwrap() { our_next } else { their_next.clone() };
        assert_eq!(their_end.unwrap(), written == their_next);
        assert_eq!(ours.read_record(&record.id).await.unwrap(), Some(written));
    }
}

#[test(needs(Postgres))]
async fn postgres_database_of_the_previous_release_is_migrated_and_keeps_its_sessions() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let client = services::connect(&url).await.unwrap();
    let schema = "CREATE SCHEMA qrlogin;
        CREATE TABLE qrlogin.migrations (number integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
        INSERT INTO qrlogin.migrations (number) VALUES (1), (2)";
    let migrations = [
        include_str!("../../../migrations/postgres/0001_sessions.sql"),
        include_str!("../../../migrations/postgres/0002_hostile_web.sql"),
    ];
    for statements in [schema, migrations[0], migrations[1]] {
        client.batch_execute(statements).await.unwrap();
    }
    let (before, after) = (new_session(), new_session());
    insert_as_the_previous_release(&client, &before).await;
    let (_, store) = node(&url).await;
    // The previous release also inserts into the new schema.
    insert_as_the_previous_release(&client, &after).await;
    for session in [before, after] {
        assert_eq!(stored(&store, session.key).await, Some(session));
    }
    assert!(store.insert_record(&new_record()).await.unwrap());
    store.close().await;
}

/// Inserts a pending session with the statement of the release before the table `records`.
async fn insert_as_the_previous_release(connection: &tokio_postgres::Client, session: &Session) {
    let client = &session.client;
    let insert = "INSERT INTO qrlogin.sessions (id, code, version, state, created_at, expires_at,
             client_ip, client_browser, client_os, client_origin, client_info, client_network)
         VALUES ($1, $2, $3, 'pending', $4, $5, $6, $7, $8, $9, $10, $11)";
    let inserted = connection
        .execute(
            insert,
            &[
                &&session.key.0[..],
                &&session.code.0[..],
                &i64::from(session.version),
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
        .await;
    assert_eq!(inserted.unwrap(), 1);
}

#[test(needs(Postgres))]
async fn concurrent_attachment_or_decision_sees_the_other() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let ((_, ours), (there, theirs)) = (node(&url).await, node(&url).await);
    for _ in 0..200 {
        let session = session_of_now(&ours).await;
        let scanned = stepped(session.scan(&ann(), CODE, session.created_at));
        let keys = [session.key];
        let (attached, replaced) = tokio::join!(theirs.attach(&keys), replace(&ours, &scanned));
        let sees_decision = attached.unwrap()[0].session == scanned;
        let Replaced::Written(waits) = replaced else { panic!("no other write happens") };
        assert!(sees_decision || waits.is_some_and(|waits| waits.node == there));
    }
}

#[test(needs(Postgres))]
async fn decision_that_waits_for_a_lock_past_the_deadline_is_not_written() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    let store = Arc::new(store);
    let mut session = session_of_now(&*store).await;
    session.expires_at = session.created_at.plus_millis(400);
    let mut client = services::connect(&url).await.unwrap();
    let set = "UPDATE qrlogin.sessions SET expires_at = $2 WHERE id = $1";
    client.execute(set, &[&&session.key.0[..], &session.expires_at.as_millis()]).await.unwrap();

    // Hold the lock of the row past the deadline, as a reading at the deadline does.
    let holder = client.transaction().await.unwrap();
    holder.execute("SELECT 1 FROM qrlogin.sessions WHERE id = $1 FOR SHARE", &[&&session.key.0[..]]).await.unwrap();
    let late = stepped(session.scan(&ann(), CODE, session.created_at));
    let writing = {
        let store = store.clone();
        tokio::spawn(async move { replace(&*store, &late).await })
    };
    holder.batch_execute("SELECT pg_sleep(0.6)").await.unwrap();
    holder.commit().await.unwrap();
    assert_eq!(writing.await.unwrap(), Replaced::Stale);
    let (now, settled) = store.read_settled(&[session.key]).await.unwrap();
    assert!(now >= session.expires_at);
    assert_eq!(settled, [session]);
}

#[test(needs(Postgres))]
async fn nodes_that_start_together_on_an_empty_database_create_one_schema() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let started = join_all((0..6).map(|_| node(&url))).await;
    let session = session_of_now(&started[0].1).await;
    assert_eq!(started[5].1.read(&[session.key]).await.unwrap(), [session]);
}

#[test(needs(Postgres))]
async fn updates_of_a_login_touch_no_index_of_postgres() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    for _ in 0..100 {
        let session = session_of_now(&store).await;
        let now = session.created_at;
        store.attach(&[session.key]).await.unwrap();
        let scanned = stepped(session.scan(&ann(), CODE, now));
        let confirmed = confirmed(&scanned, now);
        for next in [&scanned, &confirmed, &stepped(confirmed.acknowledge(now))] {
            replace(&store, next).await;
        }
    }
    store.close().await;
    let client = services::connect(&url).await.unwrap();
    let (mut updates, mut hot) = (0, 0);
    // Postgres counts the updates of a connection when it ends, or a moment later.
    until("all updates are counted", async || {
        let counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'";
        let row = client.query_one(counts, &[]).await.unwrap();
        (updates, hot) = (row.get::<_, i64>(0), row.get::<_, i64>(1));
        updates >= 400
    })
    .await;
    assert_eq!((updates, hot), (400, 400));
}

#[test]
async fn unusable_postgres_is_refused_without_quoting_its_password() {
    let url = format!("postgres://ann:hunter2@127.0.0.1:{}/x", services::free_port());
    let setup = PostgresSetup {
        node: NodeName::random(),
        clock: Clock::shared(),
        max_connections: 1,
        sends_notifications: true,
    };
    let refused = PostgresStore::open(&Postgres::parse(&url).unwrap(), setup).await.err().unwrap().to_string();
    assert!(refused.starts_with("database_url: ") && refused.contains("127.0.0.1"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
    for bad in ["postgres://", "postgres://localhost:port/x", "postgres://u@h/db?sslmode=perhaps"] {
        assert!(Postgres::parse(bad).is_err(), "{bad}");
    }
}

#[test(needs(Postgres))]
async fn failed_statement_keeps_its_pooled_connection() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let setup = PostgresSetup {
        node: NodeName::random(),
        clock: Clock::shared(),
        max_connections: 1,
        sends_notifications: true,
    };
    let store = PostgresStore::open(&Postgres::parse(&url).unwrap(), setup).await.unwrap();
    let admin = services::connect(&url).await.unwrap();
    let connection = async || {
        let of_store =
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'qrlogin' AND datname = current_database()";
        admin.query(of_store, &[]).await.unwrap().iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>()
    };
    let before = connection().await;
    assert_eq!(before.len(), 1);
    let session = new_session();
    store.insert(&session).await.unwrap();
    let mut unstorable = new_session();
    unstorable.client.client_info = Some("a\0b".into());
    for refused in [&unstorable, &session] {
        let error = store.insert(refused).await.unwrap_err().to_string();
        assert!(error.contains("0x00") || error.contains("duplicate key"), "{error}");
        assert_eq!(store.read(&[session.key]).await.unwrap().len(), 1);
        assert_eq!(connection().await, before);
    }
    // A connection that ends is replaced.
    admin.execute("SELECT pg_terminate_backend($1)", &[&before[0]]).await.unwrap();
    until("the store answers on another connection", async || store.read(&[session.key]).await.is_ok()).await;
    assert_ne!(connection().await, before);
    store.close().await;
}
