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
        let read = read_apart(&keys, query).await;
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

/// The result of [`read_apart`].
pub struct Apart<T> {
    /// Results for the sessions that were read.
    pub found: Vec<T>,
    /// Keys of the sessions that could not be read, with the error.
    pub failed: Vec<(SessionKey, Arc<StoreError>)>,
}

/// Time within which a failure cannot be a timeout. Such a query is repeated once, because the connection may have been
/// closed while it was idle.
const FAILED_AT_ONCE: Duration = Duration::from_secs(1);

/// Runs a query for many sessions and limits the effect of a failure. If the store fails at once, the query is repeated
/// on a new connection. If a row cannot be read, each session is queried on its own, so that only this row fails.
pub async fn read_apart<T, F>(keys: &[SessionKey], query: impl Fn(Vec<SessionKey>) -> F) -> Apart<T>
where
    F: Future<Output = Result<Vec<T>, StoreError>>,
{
    let all = |error: StoreError| {
        let error = Arc::new(error);
        Apart { found: Vec::new(), failed: keys.iter().map(|key| (*key, error.clone())).collect() }
    };
    let asked = Stopwatch::start();
    let error = match query(keys.to_vec()).await {
        Ok(found) => return Apart { found, failed: Vec::new() },
        Err(error) => error,
    };
    match error {
        StoreError::Unavailable(_) if asked.elapsed() < FAILED_AT_ONCE => match query(keys.to_vec()).await {
            Ok(found) => Apart { found, failed: Vec::new() },
            Err(error) => all(error),
        },
        StoreError::Corrupt(_) if keys.len() > 1 => {
            let mut apart = Apart { found: Vec::new(), failed: Vec::new() };
            for key in keys {
                match query(vec![*key]).await {
                    Ok(found) => apart.found.extend(found),
                    Err(error) => {
                        warn!(event = "session not read", session = %key, %error);
                        apart.failed.push((*key, Arc::new(error)));
                    }
                }
            }
            apart
        }
        error => all(error),
    }
}
