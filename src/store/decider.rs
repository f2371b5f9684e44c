//! The one connection through which everything goes that decides, and its thread.
//!
//! What has come while it was busy is done in one transaction, and answered when that is committed: under load, many
//! decisions share a commit; alone, each has its own.

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use crate::clock::Clock;

/// Decisions in one transaction.
const MAX_BATCH: usize = 64;
/// Who comes when this many wait, waits to be among them.
const QUEUE: usize = 1024;
/// A store that has not answered after this long is said not to.
const PATIENCE_SECONDS: u32 = 5;

/// Does its work, and gives the answer, which is to be sent once it is committed.
type Work = Box<dyn FnOnce(&Connection) -> Answer + Send>;
/// Sends the answer; or, if all was for nothing, says why.
type Answer = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

enum Order {
    Do(Work),
    RestartLog(oneshot::Sender<Result<(), StoreError>>),
    Stop(oneshot::Sender<()>),
}

/// See the module.
pub(super) struct Decider {
    orders: mpsc::Sender<Order>,
    clock: Clock,
}

impl Decider {
    /// Takes the connection.
    pub(super) fn start(connection: Connection, clock: Clock) -> std::io::Result<Self> {
        let (orders, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("qrlogin-store".to_owned()).spawn(move || serve(connection, queue))?;
        Ok(Self { orders, clock })
    }

    /// Has `work` done.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            let done = work(connection);
            // Whoever hung up meanwhile does not want to know.
            Box::new(move |committed| {
                drop(
                    reply.send(committed.map_err(|error| StoreError::Unavailable(error.to_string().into())).and(done)),
                );
            })
        });
        self.order(Order::Do(work), answer).await?
    }

    /// Makes the write-ahead log begin anew.
    pub(super) async fn restart_log(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::RestartLog(reply), answer).await?
    }

    /// Closes the connection, once all that was ordered is done.
    pub(super) async fn stop(&self) {
        let (reply, answer) = oneshot::channel();
        drop(self.order(Order::Stop(reply), answer).await);
    }

    async fn order<T>(&self, order: Order, answer: oneshot::Receiver<T>) -> Result<T, StoreError> {
        let answered = async {
            self.orders.send(order).await.ok()?;
            answer.await.ok()
        };
        match self.clock.timeout(PATIENCE_SECONDS, answered).await {
            Some(Some(answer)) => Ok(answer),
            Some(None) => Err(StoreError::Unavailable("it is closed".into())),
            None => Err(StoreError::Unavailable("it takes too long".into())),
        }
    }
}

fn serve(connection: Connection, mut queue: mpsc::Receiver<Order>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while let Some(order) = queue.blocking_recv() {
        let mut next = Some(order);
        // Only work is put together; what else there is ends the batch.
        let other = loop {
            match next {
                Some(Order::Do(work)) => batch.push(work),
                other => break other,
            }
            if batch.len() == MAX_BATCH {
                break None;
            }
            next = queue.try_recv().ok();
        };
        work_off(&connection, &mut batch);
        match other {
            Some(Order::RestartLog(reply)) => {
                let done = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
                let _ = reply.send(done.map_err(StoreError::from));
            }
            Some(Order::Stop(reply)) => {
                drop(connection);
                let _ = reply.send(());
                return;
            }
            Some(Order::Do(_)) | None => {}
        }
    }
}

fn work_off(connection: &Connection, batch: &mut Vec<Work>) {
    if batch.len() < 2 {
        for work in batch.drain(..) {
            work(connection)(Ok(()));
        }
        return;
    }
    let began = connection.execute_batch("BEGIN IMMEDIATE");
    let answers: Vec<_> = batch.drain(..).map(|work| work(connection)).collect();
    // Where it did not begin, each was committed by itself; unless that failed, too, which each then says itself. An
    // error that is more than one statement's undoes the whole transaction; then there is none left to commit.
    let committed = match began {
        Ok(()) => connection.execute_batch("COMMIT"),
        Err(_) => Ok(()),
    };
    if committed.is_err() && !connection.is_autocommit() {
        drop(connection.execute_batch("ROLLBACK"));
    }
    for answer in answers {
        answer(committed.as_ref().copied());
    }
}
