//! One batch of jobs on the database: the reads one by one, the writes in one transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::error;

use super::job::{Access, JobError, Locked, QueuedJob, TransactionEnd};
use super::queue::Jobs;
use super::{JobDatabase, Progress, unavailable};
use crate::store::StoreError;

/// What is left of a batch.
pub(super) struct Remainder<D> {
    /// Jobs that must run again, in order.
    pub(super) jobs: Jobs<D>,
    pub(super) progress: Progress,
}

impl<D> Remainder<D> {
    fn none() -> Self {
        Self { jobs: Jobs::new(), progress: Progress::Idle }
    }

    fn locked(jobs: Jobs<D>, access: Access) -> Self {
        Self { jobs, progress: Progress::Locked(access) }
    }
}

/// The end of one run of a job.
#[derive(PartialEq, Eq)]
enum Run {
    Done,
    Locked,
    Panicked,
}

/// Runs jobs that only read, each by itself, until a lock of another process stops one.
pub(super) fn run_reads<D: JobDatabase>(mut jobs: Jobs<D>, database: &mut D) -> Remainder<D> {
    while let Some(mut job) = jobs.pop_front() {
        match run(&mut job, database) {
            Run::Done => finish(job, &TransactionEnd::Committed),
            Run::Panicked => {}
            Run::Locked => {
                jobs.push_front(job);
                return Remainder::locked(jobs, Access::Read);
            }
        }
    }
    Remainder::none()
}

/// Runs jobs that may write, in one transaction if there are several.
pub(super) fn run_writes<D: JobDatabase>(mut jobs: Jobs<D>, database: &mut D) -> Remainder<D> {
    if jobs.len() > 1 {
        return run_in_transaction(jobs, database);
    }
    let Some(job) = jobs.pop_front() else { return Remainder::none() };
    run_alone(job, database)
}

/// Runs a job that needs no transaction around it. It opens its own if it has several statements.
fn run_alone<D: JobDatabase>(mut job: Box<dyn QueuedJob<D>>, database: &mut D) -> Remainder<D> {
    let ran = run(&mut job, database);
    if database.is_in_transaction() {
        database.rollback();
    }
    match ran {
        Run::Done => finish(job, &TransactionEnd::Committed),
        Run::Panicked => {}
        Run::Locked => return Remainder::locked(Jobs::from([job]), Access::Write),
    }
    Remainder::none()
}

/// Runs several jobs in one transaction. All of them are answered after the commit. If the transaction is rolled back
/// because of one job, the others run again.
fn run_in_transaction<D: JobDatabase>(mut jobs: Jobs<D>, database: &mut D) -> Remainder<D> {
    match database.begin() {
        Ok(()) => {}
        Err(JobError::Locked) => return Remainder::locked(jobs, Access::Write),
        Err(JobError::Failed(error)) => return fail(jobs, &error),
    }
    let mut ran = Jobs::new();
    while let Some(mut job) = jobs.pop_front() {
        let end = run(&mut job, database);
        let is_rolled_back = !database.is_in_transaction();
        if end == Run::Done && !is_rolled_back {
            ran.push_back(job);
            continue;
        }
        if !is_rolled_back {
            database.rollback();
        }
        // The jobs that ran before this one must run again.
        let progress = match end {
            // SQLite has rolled back the whole transaction because of this job's error.
            Run::Done => {
                finish(job, &TransactionEnd::Failed(&unavailable("the transaction was rolled back")));
                Progress::More
            }
            Run::Panicked => Progress::More,
            Run::Locked => {
                ran.push_back(job);
                Progress::Locked(Access::Write)
            }
        };
        ran.append(&mut jobs);
        return Remainder { jobs: ran, progress };
    }
    commit(ran, database)
}

/// Commits the transaction in which these jobs ran, and answers them.
fn commit<D: JobDatabase>(jobs: Jobs<D>, database: &mut D) -> Remainder<D> {
    let Err(error) = database.commit() else {
        for job in jobs {
            finish(job, &TransactionEnd::Committed);
        }
        return Remainder::none();
    };
    if database.is_in_transaction() {
        database.rollback();
    }
    match error {
        JobError::Locked => Remainder::locked(jobs, Access::Write),
        JobError::Failed(error) => fail(jobs, &error),
    }
}

/// Answers these jobs with an error.
fn fail<D>(jobs: Jobs<D>, error: &StoreError) -> Remainder<D> {
    for job in jobs {
        finish(job, &TransactionEnd::Failed(error));
    }
    Remainder::none()
}

fn run<D: JobDatabase>(job: &mut Box<dyn QueuedJob<D>>, database: &mut D) -> Run {
    match catch_unwind(AssertUnwindSafe(|| job.run(database))) {
        Ok(Ok(())) => Run::Done,
        Ok(Err(Locked)) => Run::Locked,
        Err(_) => {
            // The panic hook has logged the panic. Dropping the job answers its caller with an error.
            error!(event = "store job panicked");
            Run::Panicked
        }
    }
}

/// Sends the answer of a job. A panic in the announcer must not prevent the answers of other jobs.
fn finish<D>(job: Box<dyn QueuedJob<D>>, end: &TransactionEnd<'_>) {
    if catch_unwind(AssertUnwindSafe(|| job.finish(end))).is_err() {
        error!(event = "announcement panicked");
    }
}
