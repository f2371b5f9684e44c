//! Jobs on a database with one connection, which run one after the other.
//!
//! A caller pushes a job onto the queue ([`JobQueue::run`]). If the database is free, the caller runs the job itself, so
//! that a lone decision takes one thread and no context switch. If the database is in use, the job stays in the queue,
//! and the caller awaits the answer without blocking its thread. The job thread runs the jobs beyond one batch, and
//! those for which another process has the database locked.
//!
//! Each job has exactly one outcome:
//!
//! - *committed*: The job ran, and its transaction is committed. Only then [`Job::committed`] converts the job's result
//!   to the answer. For a change, this makes the [`Committed`](super::Committed), which is passed to the announcer.
//! - *failed*: The job's own statement failed, or the transaction was rolled back at the commit. Nothing is stored.
//! - *cancelled*: The caller had stopped waiting before the job ran. The job does not run.
//!
//! A job runs again if SQLite rolled back its transaction because of another job. If the caller stops waiting while the
//! job runs, the job is committed, and its answer is dropped, which passes the change to the announcer.
//!
//! The files, from the caller to the database:
//!
//! - this file: how a caller waits for its job, and the threads
//! - `job.rs`: a job and its outcome
//! - `executor.rs`: which thread runs the next batch
//! - `queue.rs`: the waiting jobs
//! - `batch.rs`: one batch, in one transaction
//! - `watchdog.rs`: what happens while a job blocks a thread of the runtime
//!
//! This module does not depend on SQLite. [`JobDatabase`] is implemented by the SQLite connection, and by the model in
//! `hub/history`, which tests the queue with stalls, failures and cancelled calls.

mod batch;
mod executor;
mod job;
mod queue;
mod watchdog;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::executor::Executor;
use self::job::{Queued, Simple};
use super::StoreError;
use crate::system::clock::Clock;

pub(crate) use self::job::{Access, Job, JobError};

/// Time after which a call fails with [`StoreError::Unavailable`], in seconds.
const TIMEOUT_SECONDS: u32 = 5;

/// A database connection. It runs one job at a time.
pub(crate) trait JobDatabase: Send + 'static {
    /// Begins a transaction that may write.
    fn begin(&mut self) -> Result<(), JobError>;
    /// Commits the transaction. After an error the transaction is either still open or rolled back.
    fn commit(&mut self) -> Result<(), JobError>;
    /// Rolls the transaction back.
    fn rollback(&mut self);
    /// Returns whether a transaction is open. A failed statement may have rolled it back.
    fn is_in_transaction(&self) -> bool;
}

/// The state of the queue after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// No job that can run is left.
    Idle,
    /// More jobs are in the queue.
    More,
    /// Another process has the database locked for jobs of this access.
    Locked(Access),
}

/// A queue of jobs and its database. Clones share both.
pub(crate) struct JobQueue<D> {
    executor: Arc<Executor<D>>,
    clock: Clock,
}

impl<D> Clone for JobQueue<D> {
    fn clone(&self) -> Self {
        Self { executor: self.executor.clone(), clock: self.clock.clone() }
    }
}

impl<D: JobDatabase> JobQueue<D> {
    /// Makes a queue for this database. Call [`JobQueue::start_threads`] next.
    pub(crate) fn new(database: D, clock: Clock) -> Self {
        Self { executor: Arc::new(Executor::new(database)), clock }
    }

    /// Starts the job thread and, within a runtime, the watchdog's thread. The threads end when the queue is closed.
    ///
    /// # Errors
    /// A thread cannot be created.
    pub(crate) fn start_threads(&self) -> std::io::Result<()> {
        if let Ok(runtime) = Handle::try_current() {
            let executor = self.executor.clone();
            let watch = move || executor.watchdog.run(&runtime, || executor.is_closed());
            std::thread::Builder::new().name("qrlogin-watch".to_owned()).spawn(watch)?;
        }
        let executor = self.executor.clone();
        std::thread::Builder::new().name("qrlogin-store".to_owned()).spawn(move || executor.run_thread()).map(drop)
    }

    /// Runs a job and returns its answer.
    ///
    /// # Errors
    /// The job failed, or did not end within 5 seconds. In the second case the job is cancelled. If it is running, it
    /// runs to its end, and its answer is dropped.
    pub(crate) async fn run<J: Job<D>>(&self, access: Access, job: J) -> Result<J::Answer, StoreError>
    where
        J::Answer: 'static,
        J::Uncommitted: 'static,
    {
        // Dropping `answer` cancels the job.
        let (reply, mut answer) = oneshot::channel();
        self.executor.push(access, Box::new(Queued { job, result: None, reply }))?;
        self.executor.run_as_caller();
        match answer.try_recv() {
            Ok(answer) => return answer,
            // A receiver must not be polled after it has returned `Closed`.
            Err(oneshot::error::TryRecvError::Closed) => return Err(dropped()),
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        match self.clock.timeout(TIMEOUT_SECONDS, answer).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(dropped()),
            None => Err(unavailable("it takes too long")),
        }
    }

    /// Runs `work` as a job that only reads, and returns its result. See [`JobQueue::run`].
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut D) -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(Access::Read, Simple(work)).await
    }

    /// Runs `work` as a job that may write, and returns its result. See [`JobQueue::run`].
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut D) -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(Access::Write, Simple(work)).await
    }

    /// Runs `work` on the database, outside of the queue and of any transaction. Blocks, so it must not be called on a
    /// thread that serves clients.
    pub(crate) fn run_blocking<T>(&self, work: impl FnOnce(&mut D) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.executor.run_blocking(work)
    }

    /// Runs the queued jobs and closes the database. Jobs for which another process has it locked fail. Blocks.
    pub(crate) fn close(&self) {
        self.executor.close();
    }

    /// Runs one step of the job thread.
    #[cfg(test)]
    pub(crate) fn step(&self) -> Progress {
        self.executor.run_batch_blocking()
    }

    /// Returns whether a step of the job thread would find a job.
    #[cfg(test)]
    pub(crate) fn has_jobs(&self) -> bool {
        self.executor.queued() > 0
    }
}

fn dropped() -> StoreError {
    unavailable("it is closed, or the statement panicked")
}

pub(super) fn closed() -> StoreError {
    unavailable("it is closed")
}

fn unavailable(reason: impl ToString) -> StoreError {
    StoreError::Unavailable(reason.to_string().into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::runtime;

    use super::*;

    /// A database whose jobs block until the test sends an answer.
    struct Disk(mpsc::Receiver<()>);

    impl JobDatabase for Disk {
        fn begin(&mut self) -> Result<(), JobError> {
            Ok(())
        }
        fn commit(&mut self) -> Result<(), JobError> {
            Ok(())
        }
        fn rollback(&mut self) {}
        fn is_in_transaction(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn panicking_job_fails_only_its_caller() {
        let (_answers, disk) = mpsc::channel();
        let jobs = JobQueue::new(Disk(disk), Clock::system());
        let failed = jobs.write::<()>(|_| panic!("a panic that is part of a test")).await;
        assert!(failed.unwrap_err().to_string().contains("panicked"));
        assert_eq!(jobs.write(|_| Ok(1)).await.unwrap(), 1);
    }

    #[test]
    fn blocked_job_does_not_stop_other_tasks_of_the_runtime() {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (answers, disk) = mpsc::channel();
        let (address, server) = runtime.block_on(async {
            let jobs = JobQueue::new(Disk(disk), Clock::system());
            jobs.start_threads().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // Echoes each byte, after a job if the byte is 1.
            let server = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let jobs = jobs.clone();
                    tokio::spawn(async move {
                        while let Ok(byte) = stream.read_u8().await {
                            if byte == 1 {
                                let wait = |disk: &mut Disk| disk.0.recv().map_err(|_| JobError::Failed(closed()));
                                jobs.write(wait).await.unwrap();
                            }
                            stream.write_u8(byte).await.unwrap();
                        }
                    });
                }
            });
            (address, server)
        });
        let mut clients = [0, 0, 1].map(|byte| (byte, TcpStream::connect(address).unwrap()));
        for round in 0..200 {
            for (byte, client) in &mut clients {
                client.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
                client.write_all(&[*byte]).unwrap();
                if *byte == 0 {
                    client.read_exact(&mut [0]).unwrap();
                }
            }
            // The job of the last client blocks its thread now. The other clients must still be served.
            for (_, client) in &mut clients[..2] {
                client.write_all(&[0]).unwrap();
                client.read_exact(&mut [0]).unwrap_or_else(|error| panic!("round {round}: {error}"));
            }
            answers.send(()).unwrap();
            clients[2].1.read_exact(&mut [0]).unwrap();
        }
        server.abort();
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}
