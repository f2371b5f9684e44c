//! The one connection through which everything goes that decides.
//!
//! Whoever has something to decide leaves it in the queue; whoever finds the connection free takes it, and does all that
//! is in the queue, in order. So alone, one decides at once, and no thread has to wake another; under load, one works
//! for all, many decisions share a commit, and nobody is held up who could do something else meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::StoreError;
use crate::clock::Clock;

/// Decisions in one transaction.
const MAX_BATCH: usize = 64;
/// Who comes when this many wait is told that the store does not answer.
const MAX_QUEUE: usize = 8192;
/// A store that has not answered after this long is said not to.
const PATIENCE_SECONDS: u32 = 5;

/// Does its work, and gives the answer, which is to be sent once it is committed.
type Work = Box<dyn FnOnce(&Connection) -> Answer + Send>;
/// Sends the answer; or, if all was for nothing, says why.
type Answer = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

/// See the module.
#[derive(Clone)]
pub(super) struct Decider {
    shared: Arc<Shared>,
    clock: Clock,
}

struct Shared {
    queue: Mutex<VecDeque<Work>>,
    /// Until it is closed.
    connection: Mutex<Option<Connection>>,
}

impl Decider {
    /// Takes the connection.
    pub(super) fn new(connection: Connection, clock: Clock) -> Self {
        let shared = Shared { queue: Mutex::default(), connection: Mutex::new(Some(connection)) };
        Self { shared: Arc::new(shared), clock }
    }

    /// Has `work` done.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, mut answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let done = work(connection);
            // Whoever hung up meanwhile does not want to know.
            Box::new(move |committed| {
                drop(
                    reply.send(committed.map_err(|error| StoreError::Unavailable(error.to_string().into())).and(done)),
                );
            })
        });
        {
            let mut queue = lock(&self.shared.queue);
            if queue.len() >= MAX_QUEUE {
                return Err(StoreError::Unavailable("too many wait for it".into()));
            }
            queue.push_back(work);
        }
        self.shared.clone().work_off();
        if let Ok(done) = answer.try_recv() {
            return done;
        }
        match self.clock.timeout(PATIENCE_SECONDS, answer).await {
            Some(Ok(done)) => done,
            Some(Err(_)) => Err(StoreError::Unavailable("it is closed".into())),
            None => Err(StoreError::Unavailable("it takes too long".into())),
        }
    }

    /// Has `work` done outside of any transaction, waiting for the connection: not for a thread that has else to do.
    pub(super) fn run_alone<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let connection = lock(&self.shared.connection);
        let done = match &*connection {
            Some(connection) => work(connection),
            None => Err(StoreError::Unavailable("it is closed".into())),
        };
        drop(connection);
        self.shared.clone().work_off();
        done
    }

    /// Closes the connection, once all that is queued is done.
    pub(super) fn close(&self) {
        let mut connection = lock(&self.shared.connection);
        if let Some(connection) = &*connection {
            while self.shared.work_off_batch(connection) {}
        }
        drop(connection.take());
        // Whoever comes now is told so.
        lock(&self.shared.queue).clear();
    }
}

impl Shared {
    /// Does what is queued, if nobody does.
    fn work_off(self: Arc<Self>) {
        // Whoever holds the connection looks into the queue again after letting it go: what was left there since is
        // done by one of the two.
        while !lock(&self.queue).is_empty() {
            let connection = match self.connection.try_lock() {
                Ok(connection) => connection,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let Some(open) = &*connection else { return lock(&self.queue).clear() };
            if self.work_off_batch(open) {
                drop(connection);
                // The one who was first has its answer, and is not to work for others on and on.
                tokio::spawn(async move { self.work_off() });
                return;
            }
        }
    }

    /// Does some of what is queued, in one transaction if it is more than one thing; whether there is more.
    fn work_off_batch(&self, connection: &Connection) -> bool {
        let mut queue = lock(&self.queue);
        let count = queue.len().min(MAX_BATCH);
        let mut batch: Vec<_> = queue.drain(..count).collect();
        drop(queue);
        if batch.len() < 2 {
            for work in batch.drain(..) {
                work(connection)(Ok(()));
            }
        } else {
            work_off_together(connection, batch);
        }
        !lock(&self.queue).is_empty()
    }
}

fn work_off_together(connection: &Connection, batch: Vec<Work>) {
    let began = connection.execute_batch("BEGIN IMMEDIATE");
    let answers: Vec<_> = batch.into_iter().map(|work| work(connection)).collect();
    // Where it did not begin, each was committed by itself; unless that failed, too, which each then says itself. An
    // error that is more than one statement's undoes the whole transaction; then there is none left to commit.
    let committed = if began.is_ok() { connection.execute_batch("COMMIT") } else { Ok(()) };
    if committed.is_err() && !connection.is_autocommit() {
        drop(connection.execute_batch("ROLLBACK"));
    }
    for answer in answers {
        answer(committed.as_ref().copied());
    }
}

/// A panic leaves neither the queue nor the connection half changed: what had begun is rolled back.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
