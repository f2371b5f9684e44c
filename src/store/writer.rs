//! The queue of an SQLite database. Its jobs run one after the other on the one connection of the database.
//!
//! A caller pushes a job. If the connection is free, the caller runs the job itself, so that a lone decision takes one
//! thread and no context switch. If the connection is in use, the job stays in the queue, and the caller awaits the
//! answer without blocking its thread. A thread of the writer runs the jobs beyond one batch, and those that had to
//! wait for a lock of another process.
//!
//! Each job has exactly one outcome:
//!
//! - *committed*: The job ran, and its transaction is committed. Only then [`Asked::finish`] converts the job's result
//!   into the answer (for a change: into a [`Committed`](super::Committed), which is passed to the announcer).
//! - *failed*: The job's own statement failed, or the transaction was rolled back at the commit. Nothing is stored.
//! - *abandoned*: The caller had stopped waiting before the job ran. The job does not run.
//!
//! A job runs again if SQLite rolled back its transaction because of another job. If the caller gives up while the job
//! runs, the job is committed, and its answer is dropped, which passes the change to the announcer.
//!
//! This module does not depend on SQLite. [`Database`] is implemented by the connection, and by the model in
//! `hub/history`, which tests the queue with stalls, failures and abandoned calls.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::Thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::error;

use super::StoreError;
use crate::system::clock::Clock;

/// Maximum number of jobs in one transaction.
const MAX_BATCH: usize = 64;
/// Maximum number of jobs in the queue. Further calls fail with [`StoreError::Unavailable`].
const MAX_QUEUE: usize = 8192;
/// Time after which a call fails with [`StoreError::Unavailable`], in seconds.
const PATIENCE_SECONDS: u32 = 5;
/// Time between the first two attempts while another process has the database locked. It doubles with each attempt.
const FIRST_RETRY: Duration = Duration::from_millis(1);
/// Maximum time between two attempts while another process has the database locked.
const LAST_RETRY: Duration = Duration::from_millis(20);

/// A database connection. It runs one job at a time.
pub(crate) trait Database: Send + 'static {
    /// Begins a transaction that may write.
    fn begin(&mut self) -> Result<(), Failure>;
    /// Commits the transaction. After a failure the transaction is either still open or rolled back.
    fn commit(&mut self) -> Result<(), Failure>;
    /// Rolls the transaction back.
    fn rollback(&mut self);
    /// Returns whether a transaction is open. A failed statement may have rolled it back.
    fn is_in_transaction(&self) -> bool;
}

/// The reason for which a statement had no effect.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another process holds a lock that the statement needs. The statement may succeed later.
    Locked,
    /// Any other error.
    Failed(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// The access that a job needs. Jobs that only read also run while another process holds the write lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The state of the queue after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// No job that can run is left.
    Idle,
    /// More jobs are in the queue.
    More,
    /// Another process has the database locked for jobs of this access.
    Stalled(Access),
}

/// The end of the transaction of a job.
enum Outcome<'a> {
    Committed,
    Failed(&'a StoreError),
}

trait Job<D>: Send {
    /// Returns whether the caller has stopped waiting.
    fn is_abandoned(&self) -> bool;
    /// Runs the job and keeps its result. Called again if the transaction is rolled back.
    fn run(&mut self, database: &mut D) -> Result<(), Locked>;
    /// Sends the answer.
    fn end(self: Box<Self>, outcome: &Outcome<'_>);
}

/// The job could not run, because another process holds a lock.
struct Locked;

/// A job and the channel for its answer.
struct Asked<R, F, T, A> {
    work: R,
    /// Converts the result to the answer, after the commit.
    finish: F,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<A, StoreError>>,
}

impl<D, R, F, T, A> Job<D> for Asked<R, F, T, A>
where
    R: FnMut(&mut D) -> Result<T, Failure> + Send,
    F: FnOnce(T) -> A + Send,
    T: Send,
    A: Send,
{
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(&mut self, database: &mut D) -> Result<(), Locked> {
        self.result = Some(match (self.work)(database) {
            Ok(result) => Ok(result),
            Err(Failure::Failed(error)) => Err(error),
            Err(Failure::Locked) => return Err(Locked),
        });
        Ok(())
    }

    fn end(self: Box<Self>, outcome: &Outcome<'_>) {
        let Self { finish, result, reply, .. } = *self;
        let answer = match (outcome, result) {
            (Outcome::Committed, Some(result)) => result.map(finish),
            (Outcome::Committed, None) => Err(unavailable("the job did not run")),
            (Outcome::Failed(_), Some(Err(error))) => Err(error),
            (Outcome::Failed(error), _) => Err(unavailable(error)),
        };
        // The receiver may have been dropped. Then the answer is dropped, and a committed change in it is passed to the
        // announcer.
        drop(reply.send(answer));
    }
}

/// The queue and its connection. Clones share both.
pub(crate) struct Writer<D> {
    shared: Arc<Shared<D>>,
    clock: Clock,
}

impl<D> Clone for Writer<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), clock: self.clock.clone() }
    }
}

struct Shared<D> {
    queue: Mutex<Queue<D>>,
    /// Wakes the thread of the writer when it has jobs to run.
    wakes_thread: Condvar,
    /// The connection. `None` after the writer was closed.
    database: Mutex<Option<D>>,
    watch: Watch,
}

/// Detects jobs that take long and keeps the runtime responsive meanwhile.
///
/// A job runs on a thread of the runtime. While the disk blocks that thread, it can happen that no other thread of the
/// runtime polls for I/O, because an idle thread is only woken for a task that is ready. So a thread of the writer
/// checks every few milliseconds whether the same batch still runs, and then spawns an empty task to wake a thread of
/// the runtime.
#[derive(Default)]
struct Watch {
    /// Number of begins and ends of batches. It is odd while a batch runs.
    batches: AtomicU64,
    /// Whether the watching thread sleeps until the next batch.
    is_parked: AtomicBool,
    thread: OnceLock<Thread>,
}

/// Time between two checks for a long job.
const WATCH_PERIOD: Duration = Duration::from_millis(10);
/// Number of checks without a batch after which the watching thread sleeps until the next batch. It is small, because
/// an idle server has a batch every 1.5 seconds, and the thread should sleep in between.
const IDLE_LOOKS: u32 = 3;

impl Watch {
    /// Records that a batch begins, and wakes the watching thread if it sleeps.
    fn begin(&self) {
        self.batches.fetch_add(1, Ordering::SeqCst);
        if self.is_parked.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Records that a batch has ended.
    fn end(&self) {
        self.batches.fetch_add(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Runs the watching thread until `is_closed` returns true.
    fn run(&self, runtime: &Handle, is_closed: impl Fn() -> bool) {
        drop(self.thread.set(std::thread::current()));
        let (mut seen, mut idle) = (0, 0);
        while !is_closed() {
            std::thread::sleep(WATCH_PERIOD);
            let now = self.batches.load(Ordering::SeqCst);
            let is_running = now % 2 == 1;
            if is_running && now == seen {
                drop(runtime.spawn(std::future::ready(())));
            }
            idle = if now == seen && !is_running { idle + 1 } else { 0 };
            seen = now;
            if idle >= IDLE_LOOKS {
                idle = 0;
                self.is_parked.store(true, Ordering::SeqCst);
                // Check once more: a batch that began before `is_parked` was set does not wake this thread.
                if self.batches.load(Ordering::SeqCst) == now && !is_closed() {
                    std::thread::park();
                }
                self.is_parked.store(false, Ordering::SeqCst);
            }
        }
    }
}

struct Queue<D> {
    reads: VecDeque<Box<dyn Job<D>>>,
    writes: VecDeque<Box<dyn Job<D>>>,
    /// Access for which another process has the database locked. Only the thread of the writer tries such jobs again.
    stalled: Option<Access>,
    /// Whether the thread of the writer is to run the queued jobs.
    is_handed_over: bool,
    is_closed: bool,
}

impl<D> Queue<D> {
    fn len(&self) -> usize {
        self.reads.len() + self.writes.len()
    }

    /// Returns whether a caller may run one of the queued jobs.
    fn has_runnable(&self) -> bool {
        (self.may_run(Access::Read) && !self.reads.is_empty())
            || (self.may_run(Access::Write) && !self.writes.is_empty())
    }

    /// Returns whether a caller may run jobs of this access.
    fn may_run(&self, access: Access) -> bool {
        match self.stalled {
            None => true,
            Some(Access::Write) => access == Access::Read,
            Some(Access::Read) => false,
        }
    }

    fn lane(&mut self, access: Access) -> &mut VecDeque<Box<dyn Job<D>>> {
        match access {
            Access::Read => &mut self.reads,
            Access::Write => &mut self.writes,
        }
    }

    /// Removes up to one batch of jobs from the queue and drops those whose caller has stopped waiting.
    fn take(&mut self, access: Access) -> VecDeque<Box<dyn Job<D>>> {
        let lane = self.lane(access);
        let mut batch = VecDeque::new();
        while batch.len() < MAX_BATCH
            && let Some(job) = lane.pop_front()
        {
            if !job.is_abandoned() {
                batch.push_back(job);
            }
        }
        batch
    }

    /// Puts jobs back at the front of the queue, in order.
    fn put_back(&mut self, access: Access, mut jobs: VecDeque<Box<dyn Job<D>>>) {
        let lane = self.lane(access);
        jobs.append(lane);
        *lane = jobs;
    }
}

impl<D: Database> Writer<D> {
    /// Makes a writer for this connection. Call [`Writer::start_threads`] next.
    pub(crate) fn new(database: D, clock: Clock) -> Self {
        let queue = Queue {
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            stalled: None,
            is_handed_over: false,
            is_closed: false,
        };
        let shared = Shared {
            queue: Mutex::new(queue),
            wakes_thread: Condvar::new(),
            database: Mutex::new(Some(database)),
            watch: Watch::default(),
        };
        Self { shared: Arc::new(shared), clock }
    }

    /// Starts the thread that runs jobs beyond one batch and jobs while the database is locked. Within a runtime, also
    /// starts the thread that watches for long jobs. The threads end when the writer is closed.
    ///
    /// # Errors
    /// A thread cannot be created.
    pub(crate) fn start_threads(&self) -> std::io::Result<()> {
        if let Ok(runtime) = Handle::try_current() {
            let shared = self.shared.clone();
            let watch = move || shared.watch.run(&runtime, || lock(&shared.queue).is_closed);
            std::thread::Builder::new().name("qrlogin-watch".to_owned()).spawn(watch)?;
        }
        let shared = self.shared.clone();
        let run = move || {
            let mut pause = FIRST_RETRY;
            loop {
                match shared.run_as_thread() {
                    Some(Progress::Stalled(_)) => {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(LAST_RETRY);
                    }
                    Some(_) => pause = FIRST_RETRY,
                    None => return,
                }
            }
        };
        std::thread::Builder::new().name("qrlogin-store".to_owned()).spawn(run).map(drop)
    }

    /// Runs `work` as a job and returns its result, converted by `finish` after the commit.
    ///
    /// # Errors
    /// The job failed, or did not end within 5 seconds. In the second case the job does not start any more. If it is
    /// running, it runs to its end, and its answer is dropped.
    pub(crate) async fn ask<T, A>(
        &self,
        access: Access,
        work: impl FnMut(&mut D) -> Result<T, Failure> + Send + 'static,
        finish: impl FnOnce(T) -> A + Send + 'static,
    ) -> Result<A, StoreError>
    where
        T: Send + 'static,
        A: Send + 'static,
    {
        let (reply, mut answer) = oneshot::channel();
        {
            let mut queue = lock(&self.shared.queue);
            if queue.is_closed {
                return Err(closed());
            }
            if queue.len() >= MAX_QUEUE {
                return Err(unavailable("too many jobs wait for it"));
            }
            queue.lane(access).push_back(Box::new(Asked { work, finish, result: None, reply }));
        }
        self.shared.run_as_caller();
        match answer.try_recv() {
            Ok(answer) => return answer,
            // A receiver must not be polled after it has returned `Closed`.
            Err(oneshot::error::TryRecvError::Closed) => return Err(dropped()),
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        match self.clock.timeout(PATIENCE_SECONDS, answer).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(dropped()),
            None => Err(unavailable("it takes too long")),
        }
    }

    /// Runs `work` as a job and returns its result. See [`Writer::ask`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        access: Access,
        work: impl FnMut(&mut D) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(access, work, std::convert::identity).await
    }

    /// Runs `work` on the connection, outside of the queue and of any transaction. Blocks, so it must not be called on
    /// a thread that serves clients.
    pub(crate) fn run_blocking<T>(&self, work: impl FnOnce(&mut D) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let done = match &mut *lock(&self.shared.database) {
            Some(database) => work(database),
            None => Err(closed()),
        };
        self.shared.run_as_caller();
        done
    }

    /// Runs the queued jobs and closes the connection. Jobs that another process locks out fail. Blocks.
    pub(crate) fn close(&self) {
        lock(&self.shared.queue).is_closed = true;
        let mut database = lock(&self.shared.database);
        if let Some(open) = &mut *database {
            while self.shared.run_batch(open, true) == Progress::More {}
        }
        drop(database.take());
        let mut queue = lock(&self.shared.queue);
        (queue.reads, queue.writes) = (VecDeque::new(), VecDeque::new());
        self.shared.wakes_thread.notify_all();
        self.shared.watch.wake();
    }

    /// Runs one step of the thread of the writer.
    #[cfg(test)]
    pub(crate) fn step(&self) -> Progress {
        match &mut *lock(&self.shared.database) {
            Some(database) => self.shared.run_batch(database, true),
            None => Progress::Idle,
        }
    }

    /// Returns whether a step of the thread of the writer would find a job.
    #[cfg(test)]
    pub(crate) fn has_jobs(&self) -> bool {
        lock(&self.shared.queue).len() > 0
    }
}

impl<D: Database> Shared<D> {
    /// Runs one batch if the connection is free, and leaves the rest to the thread of the writer.
    fn run_as_caller(&self) {
        // The holder of the connection checks the queue again after it has released it. So a job that was pushed
        // meanwhile is run by the holder or here.
        while lock(&self.queue).has_runnable() {
            let mut database = match self.database.try_lock() {
                Ok(database) => database,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let Some(open) = &mut *database else { return };
            let progress = self.run_batch(open, false);
            drop(database);
            if progress != Progress::Idle {
                lock(&self.queue).is_handed_over = true;
                self.wakes_thread.notify_all();
                return;
            }
        }
    }

    /// Waits for jobs and runs one batch. Returns `None` after the writer was closed.
    fn run_as_thread(&self) -> Option<Progress> {
        let mut queue = lock(&self.queue);
        while !queue.is_closed && queue.stalled.is_none() && !queue.is_handed_over {
            queue = self.wakes_thread.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.is_closed {
            return None;
        }
        drop(queue);
        let progress = match &mut *lock(&self.database) {
            Some(database) => self.run_batch(database, true),
            None => return None,
        };
        if progress == Progress::Idle {
            lock(&self.queue).is_handed_over = false;
            // The caller of a job that was pushed before the connection was released found it in use, and left the job
            // in the queue.
            self.run_as_caller();
        }
        Some(progress)
    }

    /// Runs one batch: first the reads, then the writes in one transaction. Jobs that a lock of another process stalls
    /// are only tried if `tries_stalled` is set.
    fn run_batch(&self, database: &mut D, tries_stalled: bool) -> Progress {
        self.watch.begin();
        let progress = self.run_some(database, tries_stalled);
        self.watch.end();
        progress
    }

    fn run_some(&self, database: &mut D, tries_stalled: bool) -> Progress {
        let (mut reads, writes, stalled) = {
            let mut queue = lock(&self.queue);
            let mut take = |access| {
                if tries_stalled || queue.may_run(access) { queue.take(access) } else { VecDeque::new() }
            };
            (take(Access::Read), take(Access::Write), queue.stalled.filter(|_| !tries_stalled))
        };
        let mut progress = stalled.map_or(Progress::Idle, Progress::Stalled);
        while let Some(mut job) = reads.pop_front() {
            match run_one(&mut job, database) {
                Ran::Done => end(job, &Outcome::Committed),
                Ran::Panicked => {}
                Ran::Locked => {
                    reads.push_front(job);
                    progress = Progress::Stalled(Access::Read);
                    break;
                }
            }
        }
        let (writes, progress) =
            if progress == Progress::Idle { run_writes(writes, database) } else { (writes, progress) };
        let mut queue = lock(&self.queue);
        queue.put_back(Access::Read, reads);
        queue.put_back(Access::Write, writes);
        queue.stalled = match progress {
            Progress::Stalled(access) => Some(access),
            Progress::Idle | Progress::More => None,
        };
        if progress == Progress::Idle && queue.len() > 0 { Progress::More } else { progress }
    }
}

/// The end of one run of a job.
#[derive(PartialEq, Eq)]
enum Ran {
    Done,
    Locked,
    Panicked,
}

fn run_one<D: Database>(job: &mut Box<dyn Job<D>>, database: &mut D) -> Ran {
    match catch_unwind(AssertUnwindSafe(|| job.run(database))) {
        Ok(Ok(())) => Ran::Done,
        Ok(Err(Locked)) => Ran::Locked,
        Err(_) => {
            // The panic hook has logged the panic. Dropping the job answers its caller with an error.
            error!(event = "store job panicked");
            Ran::Panicked
        }
    }
}

/// Sends the answer of a job. A panic in the announcer must not prevent the answers of other jobs.
fn end<D>(job: Box<dyn Job<D>>, outcome: &Outcome<'_>) {
    if catch_unwind(AssertUnwindSafe(|| job.end(outcome))).is_err() {
        error!(event = "announcement panicked");
    }
}

type Jobs<D> = VecDeque<Box<dyn Job<D>>>;

/// Runs these jobs, in one transaction if there are several. Returns the jobs that must run again.
fn run_writes<D: Database>(mut jobs: Jobs<D>, database: &mut D) -> (Jobs<D>, Progress) {
    match jobs.len() {
        0 => return (jobs, Progress::Idle),
        // A single job needs no transaction around it. It opens its own if it has several statements.
        1 => {
            let Some(mut job) = jobs.pop_front() else { return (jobs, Progress::Idle) };
            let ran = run_one(&mut job, database);
            if database.is_in_transaction() {
                database.rollback();
            }
            match ran {
                Ran::Done => end(job, &Outcome::Committed),
                Ran::Panicked => {}
                Ran::Locked => {
                    jobs.push_front(job);
                    return (jobs, Progress::Stalled(Access::Write));
                }
            }
            return (jobs, Progress::Idle);
        }
        _ => {}
    }
    match database.begin() {
        Ok(()) => {}
        Err(Failure::Locked) => return (jobs, Progress::Stalled(Access::Write)),
        Err(Failure::Failed(error)) => {
            fail(jobs, &error);
            return (VecDeque::new(), Progress::Idle);
        }
    }
    let mut ran = VecDeque::new();
    while let Some(mut job) = jobs.pop_front() {
        let how = run_one(&mut job, database);
        let is_undone = !database.is_in_transaction();
        if how == Ran::Done && !is_undone {
            ran.push_back(job);
            continue;
        }
        // SQLite has rolled back the whole transaction because of this error, or it is rolled back here. The jobs that
        // ran before must run again.
        if !is_undone {
            database.rollback();
        }
        match how {
            // The error of this job caused the rollback.
            Ran::Done => end(job, &Outcome::Failed(&unavailable("the transaction was rolled back"))),
            Ran::Panicked => {}
            Ran::Locked => {
                ran.push_back(job);
                ran.append(&mut jobs);
                return (ran, Progress::Stalled(Access::Write));
            }
        }
        ran.append(&mut jobs);
        return (ran, Progress::More);
    }
    match database.commit() {
        Ok(()) => {
            for job in ran {
                end(job, &Outcome::Committed);
            }
            (VecDeque::new(), Progress::Idle)
        }
        Err(failure) => {
            if database.is_in_transaction() {
                database.rollback();
            }
            match failure {
                Failure::Locked => (ran, Progress::Stalled(Access::Write)),
                Failure::Failed(error) => {
                    fail(ran, &error);
                    (VecDeque::new(), Progress::Idle)
                }
            }
        }
    }
}

/// Answers these jobs with an error.
fn fail<D>(jobs: Jobs<D>, error: &StoreError) {
    for job in jobs {
        end(job, &Outcome::Failed(error));
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

/// Locks a mutex, even if a thread has panicked while it held the lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::sync::mpsc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::runtime;

    use super::*;

    /// A database whose jobs block until the test sends an answer.
    struct Disk(mpsc::Receiver<()>);

    impl Database for Disk {
        fn begin(&mut self) -> Result<(), Failure> {
            Ok(())
        }
        fn commit(&mut self) -> Result<(), Failure> {
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
        let writer = Writer::new(Disk(disk), Clock::system());
        let failed = writer.run::<()>(Access::Write, |_| panic!("a panic that is part of a test")).await;
        assert!(failed.unwrap_err().to_string().contains("panicked"));
        assert_eq!(writer.run(Access::Write, |_| Ok(1)).await.unwrap(), 1);
    }

    #[test]
    fn blocked_job_does_not_stop_other_tasks_of_the_runtime() {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (answers, disk) = mpsc::channel();
        let (address, jobs) = runtime.block_on(async {
            let writer = Writer::new(Disk(disk), Clock::system());
            writer.start_threads().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // Echoes each byte, after a job if the byte is 1.
            let jobs = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let writer = writer.clone();
                    tokio::spawn(async move {
                        while let Ok(byte) = stream.read_u8().await {
                            if byte == 1 {
                                let wait = |disk: &mut Disk| disk.0.recv().map_err(|_| Failure::Failed(closed()));
                                writer.run(Access::Write, wait).await.unwrap();
                            }
                            stream.write_u8(byte).await.unwrap();
                        }
                    });
                }
            });
            (address, jobs)
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
        jobs.abort();
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}
