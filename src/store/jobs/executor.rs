//! Runs the queued jobs on the database, on the thread of a caller or on the job thread.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::batch::{Remainder, run_reads, run_writes};
use super::job::{Access, QueuedJob};
use super::queue::{Jobs, Queue};
use super::watchdog::Watchdog;
use super::{JobDatabase, Progress, closed, unavailable};
use crate::store::StoreError;

/// Maximum number of jobs in the queue. Further calls fail with [`StoreError::Unavailable`].
const MAX_QUEUE: usize = 8192;
/// Time between the first two attempts while another process has the database locked. It doubles with each attempt.
const FIRST_RETRY: Duration = Duration::from_millis(1);
/// Maximum time between two attempts while another process has the database locked.
const LAST_RETRY: Duration = Duration::from_millis(20);

/// The queue, and the database on which its jobs run one after the other.
pub(super) struct Executor<D> {
    queue: Mutex<Queue<D>>,
    /// Wakes the job thread when it has jobs to run.
    wakes_thread: Condvar,
    /// The database. `None` after the executor was closed.
    database: Mutex<Option<D>>,
    pub(super) watchdog: Watchdog,
}

impl<D: JobDatabase> Executor<D> {
    pub(super) fn new(database: D) -> Self {
        Self {
            queue: Mutex::new(Queue::new()),
            wakes_thread: Condvar::new(),
            database: Mutex::new(Some(database)),
            watchdog: Watchdog::default(),
        }
    }

    /// Appends a job to the queue.
    pub(super) fn push(&self, access: Access, job: Box<dyn QueuedJob<D>>) -> Result<(), StoreError> {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return Err(closed());
        }
        if queue.len() >= MAX_QUEUE {
            return Err(unavailable("too many jobs wait for it"));
        }
        queue.push(access, job);
        Ok(())
    }

    /// Runs one batch if the database is free, and leaves the rest to the job thread.
    pub(super) fn run_as_caller(&self) {
        // A holder of the database checks the queue again after it has released the database. So a job that was pushed
        // meanwhile is run by that holder or here.
        while self.queue.lock().has_runnable() {
            let Some(mut database) = self.database.try_lock() else { return };
            let Some(open) = &mut *database else { return };
            let progress = self.run_batch(open, false);
            drop(database);
            if progress != Progress::Idle {
                self.queue.lock().is_handed_over = true;
                self.wakes_thread.notify_all();
                return;
            }
        }
    }

    /// Runs the job thread until the executor is closed. While another process has the database locked, it tries again
    /// after a pause.
    pub(super) fn run_thread(&self) {
        let mut pause = FIRST_RETRY;
        while self.wait_for_jobs() {
            match self.run_batch_of_thread() {
                Progress::Locked(_) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LAST_RETRY);
                }
                Progress::Idle | Progress::More => pause = FIRST_RETRY,
            }
        }
    }

    /// Waits until the job thread has jobs to run. Returns false once the executor is closed.
    fn wait_for_jobs(&self) -> bool {
        let mut queue = self.queue.lock();
        while !queue.is_closed && queue.locked.is_none() && !queue.is_handed_over {
            self.wakes_thread.wait(&mut queue);
        }
        !queue.is_closed
    }

    /// Runs one batch on the job thread.
    fn run_batch_of_thread(&self) -> Progress {
        let progress = self.run_batch_blocking();
        if progress == Progress::Idle {
            self.queue.lock().is_handed_over = false;
            // The caller of a job that was pushed before the database was released found it in use, and left the job
            // in the queue.
            self.run_as_caller();
        }
        progress
    }

    /// Waits for the database and runs one batch, with the jobs for which the database was locked.
    pub(super) fn run_batch_blocking(&self) -> Progress {
        match &mut *self.database.lock() {
            Some(database) => self.run_batch(database, true),
            None => Progress::Idle,
        }
    }

    /// Waits for the database and runs `work` on it, outside of the queue.
    pub(super) fn run_blocking<T>(&self, work: impl FnOnce(&mut D) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let result = match &mut *self.database.lock() {
            Some(database) => work(database),
            None => Err(closed()),
        };
        self.run_as_caller();
        result
    }

    /// Runs the queued jobs and drops the database. Jobs for which the database is locked fail.
    pub(super) fn close(&self) {
        self.queue.lock().is_closed = true;
        let mut database = self.database.lock();
        if let Some(open) = &mut *database {
            while self.run_batch(open, true) == Progress::More {}
        }
        drop(database.take());
        self.queue.lock().clear();
        self.wakes_thread.notify_all();
        self.watchdog.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.lock().is_closed
    }

    /// Returns the number of queued jobs.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue.lock().len()
    }

    /// Runs one batch: first the reads, then the writes. Jobs for which the database was locked are only tried again if
    /// `retries_locked` is set.
    fn run_batch(&self, database: &mut D, retries_locked: bool) -> Progress {
        self.watchdog.begin();
        let progress = self.take_and_run(database, retries_locked);
        self.watchdog.end();
        progress
    }

    fn take_and_run(&self, database: &mut D, retries_locked: bool) -> Progress {
        let (reads, writes, still_locked) = {
            let mut queue = self.queue.lock();
            let mut take = |access| {
                if retries_locked || queue.may_run(access) { queue.take(access) } else { Jobs::new() }
            };
            (take(Access::Read), take(Access::Write), queue.locked.filter(|_| !retries_locked))
        };
        let reads = run_reads(reads, database);
        let progress = match (reads.progress, still_locked) {
            (Progress::Idle, Some(access)) => Progress::Locked(access),
            (progress, _) => progress,
        };
        let writes = match progress {
            Progress::Idle => run_writes(writes, database),
            progress => Remainder { jobs: writes, progress },
        };
        let mut queue = self.queue.lock();
        queue.put_back(Access::Read, reads.jobs);
        queue.put_back(Access::Write, writes.jobs);
        queue.locked = match writes.progress {
            Progress::Locked(access) => Some(access),
            Progress::Idle | Progress::More => None,
        };
        if writes.progress == Progress::Idle && queue.len() > 0 { Progress::More } else { writes.progress }
    }
}
