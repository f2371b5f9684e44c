//! Records: the part of the conformance suite, and their sweep by the server.

use std::sync::Arc;

use futures_util::future::join_all;
use qrlogin::internals::store::{Record, RecordId, Store};
use qrlogin::internals::system::random;
use qrlogin_testing::harness::{START, Server};
use qrlogin_testing::real_time::until;
use qrlogin_testing::test;

/// Number of concurrent writes of a race.
const WRITERS: u32 = 50;

/// Returns a record that ends an hour after [`START`], which is not stored.
pub fn new_record() -> Record {
    let id = RecordId(random::bytes());
    Record { id, version: 1, expires_at: START.plus_seconds(3600), data: r#"{"client":"a"}"#.to_owned() }
}

/// Returns the next version of a record, with this content.
fn next_version(record: &Record, data: &str) -> Record {
    Record { version: record.version + 1, data: data.to_owned(), ..record.clone() }
}

/// Checks what every store does with records.
pub async fn records_conform(store: &Arc<dyn Store>) {
    record_is_inserted_once(&**store).await;
    one_of_many_concurrent_inserts_stores_its_record(store).await;
    record_is_replaced_only_by_the_next_version(&**store).await;
    one_of_many_concurrent_replacements_of_a_version_is_stored(store).await;
    deleted_record_is_unknown(&**store).await;
    one_of_many_concurrent_deletions_deletes_the_record(store).await;
    any_text_and_extreme_numbers_are_read_as_they_were_written(&**store).await;
    ended_records_are_swept_in_batches(&**store).await;
}

async fn record_is_inserted_once(store: &dyn Store) {
    let record = new_record();
    assert_eq!(store.read_record(&record.id).await.unwrap(), None);
    assert!(store.insert_record(&record).await.unwrap());
    let other = Record { version: 7, expires_at: START, data: "other".to_owned(), ..record.clone() };
    for again in [&record, &other] {
        assert!(!store.insert_record(again).await.unwrap());
        assert_eq!(store.read_record(&record.id).await.unwrap().as_ref(), Some(&record));
    }
}

async fn one_of_many_concurrent_inserts_stores_its_record(store: &Arc<dyn Store>) {
    let record = new_record();
    let writes = (0..WRITERS).map(|index| {
        let (store, record) = (store.clone(), Record { data: format!("writer {index}"), ..record.clone() });
        tokio::spawn(async move { (store.insert_record(&record).await.unwrap(), record) })
    });
    let written = only_written(join_all(writes).await);
    assert_eq!(store.read_record(&record.id).await.unwrap(), Some(written));
}

async fn record_is_replaced_only_by_the_next_version(store: &dyn Store) {
    let first = new_record();
    let second = Record { expires_at: START.plus_seconds(7200), ..next_version(&first, "second") };
    let third = next_version(&second, "third");
    assert!(!store.replace_record(&second).await.unwrap(), "the record does not exist");
    assert_eq!(store.read_record(&first.id).await.unwrap(), None);
    assert!(store.insert_record(&first).await.unwrap());
    for stale in [&first, &third, &Record { version: 0, ..first.clone() }] {
        assert!(!store.replace_record(stale).await.unwrap());
        assert_eq!(store.read_record(&first.id).await.unwrap().as_ref(), Some(&first));
    }
    assert!(store.replace_record(&second).await.unwrap());
    assert!(!store.replace_record(&second).await.unwrap());
    assert_eq!(store.read_record(&first.id).await.unwrap().as_ref(), Some(&second));
    assert!(store.replace_record(&third).await.unwrap());
    assert_eq!(store.read_record(&first.id).await.unwrap(), Some(third));
}

async fn one_of_many_concurrent_replacements_of_a_version_is_stored(store: &Arc<dyn Store>) {
    let mut record = new_record();
    assert!(store.insert_record(&record).await.unwrap());
    for _ in 0..10 {
        let writes = (0..WRITERS).map(|index| {
            let (store, next) = (store.clone(), next_version(&record, &format!("writer {index}")));
            tokio::spawn(async move { (store.replace_record(&next).await.unwrap(), next) })
        });
        record = only_written(join_all(writes).await);
        assert_eq!(store.read_record(&record.id).await.unwrap().as_ref(), Some(&record));
    }
}

/// Returns the record of the one write that was done. Panics if there is not exactly one.
fn only_written(writes: Vec<Result<(bool, Record), tokio::task::JoinError>>) -> Record {
    let mut written: Vec<_> = writes
        .into_iter()
        .map(Result::unwrap)
        .filter(|(is_written, _)| *is_written)
        .map(|(_, record)| record)
        .collect();
    assert_eq!(written.len(), 1, "{written:?}");
    written.remove(0)
}

async fn deleted_record_is_unknown(store: &dyn Store) {
    let (record, other) = (new_record(), new_record());
    assert!(!store.delete_record(&record.id).await.unwrap());
    for stored in [&record, &other] {
        assert!(store.insert_record(stored).await.unwrap());
    }
    assert!(store.delete_record(&record.id).await.unwrap());
    assert!(!store.delete_record(&record.id).await.unwrap());
    assert_eq!(store.read_record(&record.id).await.unwrap(), None);
    assert!(!store.replace_record(&next_version(&record, "next")).await.unwrap());
    assert_eq!(store.read_record(&other.id).await.unwrap(), Some(other));
    assert!(store.insert_record(&record).await.unwrap(), "the id is free again");
}

async fn one_of_many_concurrent_deletions_deletes_the_record(store: &Arc<dyn Store>) {
    let record = new_record();
    assert!(store.insert_record(&record).await.unwrap());
    let deletions = (0..WRITERS).map(|_| {
        let (store, id) = (store.clone(), record.id);
        tokio::spawn(async move { store.delete_record(&id).await.unwrap() })
    });
    let deleted = join_all(deletions).await.into_iter().filter(|deleted| *deleted.as_ref().unwrap()).count();
    assert_eq!(deleted, 1);
}

async fn any_text_and_extreme_numbers_are_read_as_they_were_written(store: &dyn Store) {
    let long = "ä安🎉".repeat(20_000);
    for data in
        ["", "'; DROP TABLE records; --", r#"{"a":"\"\\\u0000"}"#, "$1 ?1 :a @a %s", "\r\n\t\u{1}\u{7f}\u{202E}", &long]
    {
        let ends_last = Record { expires_at: START.plus_millis(1 << 52), data: data.to_owned(), ..new_record() };
        assert!(store.insert_record(&ends_last).await.unwrap());
        assert_eq!(store.read_record(&ends_last.id).await.unwrap().as_ref(), Some(&ends_last));
        let next = next_version(&ends_last, &format!("{data}{data}"));
        assert!(store.replace_record(&next).await.unwrap());
        assert_eq!(store.read_record(&next.id).await.unwrap(), Some(next));
    }
    let last = Record { version: u32::MAX - 1, ..new_record() };
    assert!(store.insert_record(&last).await.unwrap());
    assert!(store.replace_record(&next_version(&last, "last")).await.unwrap());
    assert_eq!(store.read_record(&last.id).await.unwrap().map(|record| record.version), Some(u32::MAX));
}

async fn ended_records_are_swept_in_batches(store: &dyn Store) {
    let now = START.plus_seconds(100_000);
    // Remove what earlier checks have left.
    until("all that has ended is swept", async || store.sweep_records(now, 1000).await.unwrap() == 0).await;

    let with_end = |millis| Record { expires_at: now.plus_millis(millis), ..new_record() };
    let ended: Vec<_> = (0..5).map(with_end).collect();
    let (living, prolonged) = (with_end(10), with_end(1));
    for record in ended.iter().chain([&living, &prolonged]) {
        assert!(store.insert_record(record).await.unwrap());
    }
    let prolonged = Record { expires_at: now.plus_seconds(60), ..next_version(&prolonged, "used") };
    assert!(store.replace_record(&prolonged).await.unwrap());

    assert_eq!(store.read_record(&ended[0].id).await.unwrap().as_ref(), Some(&ended[0]), "ended and not swept");
    assert_eq!(store.sweep_records(now, 2).await.unwrap(), 0, "the end is not before the time");
    let before = now.plus_millis(10);
    assert_eq!(store.sweep_records(before, 0).await.unwrap(), 0);
    assert_eq!(store.sweep_records(before, 2).await.unwrap(), 2, "a batch");
    for (record, is_swept) in [(&ended[0], true), (&ended[1], true), (&ended[2], false)] {
        assert_eq!(store.read_record(&record.id).await.unwrap().is_none(), is_swept, "the oldest are swept first");
    }
    assert_eq!(store.sweep_records(before, 10).await.unwrap(), 3);
    assert_eq!(store.sweep_records(before, 10).await.unwrap(), 0);
    for kept in [living, prolonged] {
        assert_eq!(store.read_record(&kept.id).await.unwrap(), Some(kept));
    }
}

#[test]
async fn server_sweeps_records_at_their_end() {
    let server = Server::start().await;
    let now = server.clock.now();
    let with_end = |seconds| Record { expires_at: now.plus_seconds(seconds), ..new_record() };
    // More records than one batch has.
    let mut ended = Vec::new();
    for _ in 0..501 {
        let record = with_end(60);
        assert!(server.store.insert_record(&record).await.unwrap());
        ended.push(record);
    }
    let living = with_end(100);
    assert!(server.store.insert_record(&living).await.unwrap());
    server.hands.advance_seconds(50);
    assert!(server.store.read_record(&ended[0].id).await.unwrap().is_some());
    server.hands.advance_seconds(21);
    for record in &ended {
        until("the record is swept", async || server.store.read_record(&record.id).await.unwrap().is_none()).await;
    }
    assert_eq!(server.store.read_record(&living.id).await.unwrap(), Some(living));
    server.stop().await;
}
