//! Combines concurrent reads of single sessions into one query.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{Store, StoreError};
use crate::metrics::Stopwatch;
use crate::session::{Session, SessionKey};
use crate::system::shutdown::Vital;

/// Maximum number of rows per query.
const MAX_BATCH: usize = 500;
/// Maximum number of queued reads. Callers beyond it wait before they enter the queue.
const QUEUE: usize = 4096;

type Reply = oneshot::Sender<Result<Option<Session>, Arc<StoreError>>>;

/// Reads single sessions. While a query runs, further reads are queued and share the next query. A read that finds the
/// reader idle is not delayed.
#[derive(Clone)]
pub struct BatchingReader(mpsc::Sender<(SessionKey, Reply)>);

impl BatchingReader {
    /// Makes a reader of a store. Its task ends when the last clone is dropped.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, vital: Vital) -> Self {
        let (asks, queue) = mpsc::channel(QUEUE);
        tokio::spawn(vital.with(serve(store, queue)));
        Self(asks)
    }

    /// Returns the session with this key.
    ///
    /// # Errors
    /// The store failed, for all reads that share the query.
    pub async fn read(&self, key: SessionKey) -> Result<Option<Session>, Arc<StoreError>> {
        let (reply, answer) = oneshot::channel();
        let gone = || Arc::new(StoreError::Unavailable("its reader has ended".into()));
        self.0.send((key, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Runs the queries until all senders are dropped.
async fn serve(store: Arc<dyn Store>, mut queue: mpsc::Receiver<(SessionKey, Reply)>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let keys: Vec<_> = batch.iter().map(|(key, _)| *key).collect();
        let query = |keys: Vec<_>| {
            let store = store.clone();
            async move { store.read(&keys).await }
        };
        let read = read_isolated(&keys, query).await;
        let found: HashMap<_, _> = read.found.into_iter().map(|session| (session.key, session)).collect();
        let failed: HashMap<_, _> = read.failed.into_iter().collect();
        for (key, reply) in batch.drain(..) {
            // The receiver may have been dropped; ignore the error.
            drop(reply.send(match failed.get(&key) {
                Some(error) => Err(error.clone()),
                None => Ok(found.get(&key).cloned()),
            }));
        }
    }
}

/// The result of [`read_isolated`].
pub struct PartialResult<T> {
    /// Results for the sessions that were read.
    pub found: Vec<T>,
    /// Keys of the sessions that could not be read, with the error.
    pub failed: Vec<(SessionKey, Arc<StoreError>)>,
}

impl<T> PartialResult<T> {
    fn fail(&mut self, keys: &[SessionKey], error: StoreError) {
        let error = Arc::new(error);
        self.failed.extend(keys.iter().map(|key| (*key, error.clone())));
    }
}

/// Time within which a failure cannot be a timeout. Such a query is repeated once, because the connection may have been
/// closed while it was idle.
const FAILED_AT_ONCE: Duration = Duration::from_secs(1);
/// Time after which a search for a row that cannot be read does not continue.
const MAX_SEARCH: Duration = Duration::from_secs(2);

/// Runs a query for many sessions and limits the effect of a failure. If the store fails at once, the query is repeated
/// on a new connection. If a row cannot be read, the query is repeated for each half of the keys, and so on, so that
/// only this row fails. Keys that have not been queried again within 2 seconds fail too.
pub async fn read_isolated<T, F>(keys: &[SessionKey], query: impl Fn(Vec<SessionKey>) -> F) -> PartialResult<T>
where
    F: Future<Output = Result<Vec<T>, StoreError>>,
{
    let started = Stopwatch::start();
    let mut result = PartialResult { found: Vec::new(), failed: Vec::new() };
    let mut answer = query(keys.to_vec()).await;
    if let Err(StoreError::Unavailable(_)) = answer
        && started.elapsed() < FAILED_AT_ONCE
    {
        answer = query(keys.to_vec()).await;
    }
    // Parts of the keys with the answer of their query.
    let mut answered = vec![(keys, answer)];
    while let Some((keys, answer)) = answered.pop() {
        match answer {
            Ok(found) => result.found.extend(found),
            Err(StoreError::Corrupt(_)) if keys.len() > 1 && started.elapsed() < MAX_SEARCH => {
                let (left, right) = keys.split_at(keys.len() / 2);
                for half in [left, right] {
                    answered.push((half, query(half.to_vec()).await));
                }
            }
            Err(error) => {
                if let ([key], StoreError::Corrupt(_)) = (keys, &error) {
                    warn!(event = "session not read", session = %key, %error);
                }
                result.fail(keys, error);
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn keys(count: u8) -> Vec<SessionKey> {
        (0..count).map(|index| SessionKey([index; 32])).collect()
    }

    #[tokio::test]
    async fn unreadable_row_fails_only_its_own_key() {
        let (keys, queries) = (keys(200), Cell::new(0));
        let bad = keys[77];
        let result = read_isolated(&keys, async |some: Vec<SessionKey>| {
            queries.set(queries.get() + 1);
            if some.contains(&bad) { Err(StoreError::Corrupt("no state".into())) } else { Ok(some) }
        })
        .await;
        let failed: Vec<_> = result.failed.iter().map(|(key, _)| *key).collect();
        assert_eq!((result.found.len(), failed), (199, vec![bad]));
        assert!(queries.get() <= 17, "{} queries", queries.get());
    }

    #[tokio::test]
    async fn search_for_unreadable_rows_has_an_end() {
        let (keys, queries) = (keys(64), Cell::new(0));
        let result = read_isolated(&keys, async |_: Vec<SessionKey>| {
            queries.set(queries.get() + 1);
            std::thread::sleep(MAX_SEARCH / 2);
            Err::<Vec<SessionKey>, _>(StoreError::Corrupt("no state".into()))
        })
        .await;
        assert_eq!((result.found.len(), result.failed.len()), (0, 64));
        assert!(queries.get() <= 3, "{} queries", queries.get());
    }

    #[tokio::test]
    async fn query_that_fails_at_once_is_repeated_once() {
        let (keys, queries) = (keys(3), Cell::new(0));
        let result = read_isolated(&keys, async |some: Vec<SessionKey>| {
            queries.set(queries.get() + 1);
            if queries.get() == 1 { Err(StoreError::Unavailable("closed".into())) } else { Ok(some) }
        })
        .await;
        assert_eq!((result.found, result.failed.len(), queries.get()), (keys, 0, 2));
    }
}
