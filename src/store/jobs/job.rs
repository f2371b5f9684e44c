//! A job, its state while it is queued, and its outcome.

use tokio::sync::oneshot;

use super::unavailable;
use crate::store::StoreError;

/// Work on the database, in two steps: [`Job::run`] within a transaction, and [`Job::committed`] after its commit.
pub(crate) trait Job<D>: Send + 'static {
    /// The result of the work, which is not committed yet.
    type Uncommitted: Send;
    /// The answer to the caller.
    type Answer: Send;

    /// Does the work. Called again if the transaction is rolled back.
    fn run(&mut self, database: &mut D) -> Result<Self::Uncommitted, JobError>;

    /// Converts the result of the last run to the answer. Called at most once, after the commit.
    fn committed(self, result: Self::Uncommitted) -> Self::Answer;
}

/// A job without a second step: its answer is its result.
pub(super) struct Simple<F>(pub(super) F);

impl<D, T, F> Job<D> for Simple<F>
where
    F: FnMut(&mut D) -> Result<T, JobError> + Send + 'static,
    T: Send,
{
    type Uncommitted = T;
    type Answer = T;

    fn run(&mut self, database: &mut D) -> Result<T, JobError> {
        (self.0)(database)
    }

    fn committed(self, result: T) -> T {
        result
    }
}

/// The access that a job needs. Jobs that only read also run while another process holds the write lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The reason for which a statement had no effect.
#[derive(Debug)]
pub(crate) enum JobError {
    /// Another process holds a lock that the statement needs. The statement may succeed later.
    Locked,
    /// Any other error.
    Failed(StoreError),
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Another process holds a lock that the job needs. The job stays in the queue.
pub(super) struct Locked;

/// The end of the transaction in which a job ran.
pub(super) enum TransactionEnd<'a> {
    Committed,
    /// The transaction was rolled back because of this error.
    Failed(&'a StoreError),
}

/// A job in the queue, without its types.
pub(super) trait QueuedJob<D>: Send {
    /// Returns whether the caller has stopped waiting. Such a job is cancelled: it is not started.
    fn is_cancelled(&self) -> bool;

    /// Runs the job and keeps its result. Called again if the transaction is rolled back.
    fn run(&mut self, database: &mut D) -> Result<(), Locked>;

    /// Sends the answer to the caller.
    fn finish(self: Box<Self>, end: &TransactionEnd<'_>);
}

/// A job, the result of its last run, and the channel for its answer.
pub(super) struct Queued<D, J: Job<D>> {
    pub(super) job: J,
    pub(super) result: Option<Result<J::Uncommitted, StoreError>>,
    pub(super) reply: oneshot::Sender<Result<J::Answer, StoreError>>,
}

impl<D, J: Job<D>> QueuedJob<D> for Queued<D, J> {
    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(&mut self, database: &mut D) -> Result<(), Locked> {
        self.result = Some(match self.job.run(database) {
            Ok(result) => Ok(result),
            Err(JobError::Failed(error)) => Err(error),
            Err(JobError::Locked) => return Err(Locked),
        });
        Ok(())
    }

    fn finish(self: Box<Self>, end: &TransactionEnd<'_>) {
        let Self { job, result, reply } = *self;
        let answer = match (end, result) {
            (TransactionEnd::Committed, Some(Ok(result))) => Ok(job.committed(result)),
            (_, Some(Err(error))) => Err(error),
            (TransactionEnd::Committed, None) => Err(unavailable("the job did not run")),
            (TransactionEnd::Failed(error), _) => Err(unavailable(error)),
        };
        // The receiver may have been dropped. Then the answer is dropped, and a committed change in it is passed to the
        // announcer.
        drop(reply.send(answer));
    }
}
