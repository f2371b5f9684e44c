//! The jobs that wait for the database.

use std::collections::VecDeque;

use super::job::{Access, QueuedJob};

/// Maximum number of jobs in one transaction.
const MAX_BATCH: usize = 64;

/// Jobs in the order in which they run.
pub(super) type Jobs<D> = VecDeque<Box<dyn QueuedJob<D>>>;

/// The waiting jobs, and which threads may run them.
pub(super) struct Queue<D> {
    reads: Jobs<D>,
    writes: Jobs<D>,
    /// Access for which another process has the database locked. Only the job thread tries such jobs again.
    pub(super) locked: Option<Access>,
    /// Whether the job thread is to run the queued jobs.
    pub(super) is_handed_over: bool,
    pub(super) is_closed: bool,
}

impl<D> Queue<D> {
    pub(super) fn new() -> Self {
        Self { reads: Jobs::new(), writes: Jobs::new(), locked: None, is_handed_over: false, is_closed: false }
    }

    pub(super) fn len(&self) -> usize {
        self.reads.len() + self.writes.len()
    }

    /// Appends a job.
    pub(super) fn push(&mut self, access: Access, job: Box<dyn QueuedJob<D>>) {
        self.of(access).push_back(job);
    }

    /// Returns whether a caller may run one of the queued jobs.
    pub(super) fn has_runnable(&self) -> bool {
        (self.may_run(Access::Read) && !self.reads.is_empty())
            || (self.may_run(Access::Write) && !self.writes.is_empty())
    }

    /// Returns whether a caller may run jobs of this access. While another process holds only the write lock, jobs that
    /// read can run.
    pub(super) fn may_run(&self, access: Access) -> bool {
        match self.locked {
            None => true,
            Some(Access::Write) => access == Access::Read,
            Some(Access::Read) => false,
        }
    }

    /// Removes up to one batch of jobs, and drops those that are cancelled.
    pub(super) fn take(&mut self, access: Access) -> Jobs<D> {
        let jobs = self.of(access);
        let mut batch = Jobs::new();
        while batch.len() < MAX_BATCH
            && let Some(job) = jobs.pop_front()
        {
            if !job.is_cancelled() {
                batch.push_back(job);
            }
        }
        batch
    }

    /// Puts jobs back at the front, in order.
    pub(super) fn put_back(&mut self, access: Access, mut returned: Jobs<D>) {
        let jobs = self.of(access);
        returned.append(jobs);
        *jobs = returned;
    }

    /// Drops all jobs. Their callers get an error.
    pub(super) fn clear(&mut self) {
        (self.reads, self.writes) = (Jobs::new(), Jobs::new());
    }

    fn of(&mut self, access: Access) -> &mut Jobs<D> {
        match access {
            Access::Read => &mut self.reads,
            Access::Write => &mut self.writes,
        }
    }
}
