//! The reader that shares queries between concurrent reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use qrlogin::internals::store::{BatchingReader, SqliteStore, Store as _};
use qrlogin::internals::system::clock::Clock;
use qrlogin::internals::system::shutdown::Shutdown;
use qrlogin::session::SessionId;

use super::fixture::new_session;
use qrlogin_testing::failing_store::FailingStore;
use qrlogin_testing::harness::START;
use qrlogin_testing::test;

#[test]
async fn concurrent_reads_share_a_query_and_its_failure() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("reader.db").display());
    let store = Arc::new(FailingStore::new(Arc::new(SqliteStore::open(&url, Clock::manual(START).0).unwrap())));
    let mut keys = Vec::new();
    for _ in 0..300 {
        let session = new_session();
        store.insert(&session).await.unwrap();
        keys.push(session.key);
    }
    keys.push(SessionId::from_random([7; 32]).key());
    let reader = BatchingReader::new(store.clone(), Shutdown::new().vital("reader"));
    let before = store.reads.load(Ordering::SeqCst);
    let held = store.read_gate.write().await;
    // Without the cooperative budget of tokio, all reads are requested in one poll.
    let reading = tokio::task::unconstrained(join_all(keys.iter().map(|key| reader.read(*key))));
    let mut reading = std::pin::pin!(reading);
    assert!(futures_util::poll!(&mut reading).is_pending(), "all reads are requested, and the store is busy");
    drop(held);
    let answers = reading.await;
    for (key, answer) in keys.iter().zip(&answers).take(300) {
        assert_eq!(answer.as_ref().unwrap().as_ref().map(|session| session.key), Some(*key));
    }
    assert!(answers[300].as_ref().unwrap().is_none());
    // One query for the reads that were requested before it began, and one for the others.
    assert!(store.reads.load(Ordering::SeqCst) - before <= 2);

    store.fail(true);
    assert!(reader.read(keys[0]).await.is_err());
    store.fail(false);
    assert!(reader.read(keys[0]).await.is_ok(), "later reads succeed");
    store.close().await;
}
