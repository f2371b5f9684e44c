//! Reading one row each for many who ask at once, in one query.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Store, StoreError};
use crate::session::{Session, SessionKey};
use crate::shutdown::Vital;

/// Rows in one query.
const MAX_BATCH: usize = 500;
/// Who asks beyond this many waits for a place before it asks.
const QUEUE: usize = 4096;

type Reply = oneshot::Sender<Result<Option<Session>, Arc<StoreError>>>;

/// Where one asks for a row. While a query runs, those who come meanwhile are gathered for the next: alone, one asks
/// alone and at once; in a storm of returning browsers, hundreds share a query.
#[derive(Clone)]
pub struct BatchingReader(mpsc::Sender<(SessionKey, Reply)>);

impl BatchingReader {
    /// A reader of this store. It reads until the last clone is gone.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, vital: Vital) -> Self {
        let (asks, queue) = mpsc::channel(QUEUE);
        tokio::spawn(vital.with(serve(store, queue)));
        Self(asks)
    }

    /// The session of this key.
    ///
    /// # Errors
    /// The store failed, for all who shared the query.
    pub async fn read(&self, key: SessionKey) -> Result<Option<Session>, Arc<StoreError>> {
        let (reply, answer) = oneshot::channel();
        let gone = || Arc::new(StoreError::Unavailable("its reader is gone".into()));
        self.0.send((key, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn serve(store: Arc<dyn Store>, mut queue: mpsc::Receiver<(SessionKey, Reply)>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let keys: Vec<_> = batch.iter().map(|(key, _)| *key).collect();
        let read = store.read(&keys).await.map_err(Arc::new);
        let found: Result<HashMap<_, _>, _> =
            read.map(|sessions| sessions.into_iter().map(|session| (session.key, session)).collect());
        for (key, reply) in batch.drain(..) {
            // Whoever hung up meanwhile does not want to know.
            drop(reply.send(found.as_ref().map(|found| found.get(&key).cloned()).map_err(Arc::clone)));
        }
    }
}
