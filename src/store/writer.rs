//! The queue of an SQLite database: jobs that run one after the other on the database's one connection.
//!
//! A caller pushes a job. If the connection is free, the caller runs the job itself, so that a lone decision takes one
//! thread and no context switch. If it is not, the job waits in the queue, and the caller awaits its answer without
//! blocking its thread. What is left in the queue after one batch, and everything while another process has the
//! database locked, is run by a thread of the writer.
//!
//! Each job has exactly one outcome:
//!
//! | outcome | meaning |
//! | --- | --- |
//! | committed | The job ran, and its transaction is committed. Only then [`Asked::finish`] turns the job's result into the answer (for a change: into a [`Committed`](super::Committed), which announces). |
//! | failed | The job's own statement failed, or the transaction was rolled back at the commit. Nothing is stored. |
//! | abandoned | The caller had stopped waiting before the job ran. The job does not run. |
//!
//! A job that was part of a transaction which SQLite rolled back because of another job runs again. A job that runs
//! when its caller gives up is committed, and its answer is dropped, which announces the change.
//!
//! This module knows nothing of SQLite: [`Database`] is implemented by the connection, and by the model in
//! `hub/history`, which runs the queue through stalls, failures and abandoned calls.

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
use crate::clock::Clock;

/// Maximum number of jobs in one transaction.
const MAX_BATCH: usize = 64;
/// Maximum number of jobs in the queue. A caller beyond it fails with [`StoreError::Unavailable`].
const MAX_QUEUE: usize = 8192;
/// Time after which a call fails with [`StoreError::Unavailable`], in seconds.
const PATIENCE_SECONDS: u32 = 5;
/// Time between two attempts while another process has the database locked.
const FIRST_RETRY: Duration = Duration::from_millis(1);
const LAST_RETRY: Duration = Duration::from_millis(20);

/// A connection on which one job runs at a time.
pub(crate) trait Database: Send + 'static {
    /// Begins a transaction that may write.
    fn begin(&mut self) -> Result<(), Failure>;
    /// Commits the transaction. After a failure it is either still open or rolled back.
    fn commit(&mut self) -> Result<(), Failure>;
    /// Rolls the transaction back.
    fn rollback(&mut self);
    /// Whether a transaction is open. A failed statement may have rolled it back.
    fn is_in_transaction(&self) -> bool;
}

/// Why a statement did nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another process holds a lock that the statement needs. The statement may succeed later.
    Locked,
    /// Anything else.
    Failed(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Whether a job may write. Jobs that only read also run while another process holds the write lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The state after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// No job is left that could run.
    Idle,
    /// More jobs are in the queue.
    More,
    /// Another process has the database locked, for jobs of this access.
    Stalled(Access),
}

/// How a job's transaction ended.
enum Outcome<'a> {
    Committed,
    Failed(&'a StoreError),
}

trait Job<D>: Send {
    /// Whether the caller has stopped waiting.
    fn is_abandoned(&self) -> bool;
    /// Runs the job and keeps its result. Runs again if the transaction is rolled back.
    fn run(&mut self, database: &mut D) -> Result<(), Locked>;
    /// Sends the answer.
    fn end(self: Box<Self>, outcome: &Outcome<'_>);
}

/// The job could not run because of a lock of another process.
struct Locked;

/// A job with the channel for its answer.
struct Asked<R, F, T, A> {
    work: R,
    /// Turns the result into the answer once it is committed.
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
        // A caller that has gone drops the answer. The answer of a committed change announces it then.
        drop(reply.send(answer));
    }
}

/// The queue and its connection. Clones share them.
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
    /// Signalled when the writer's thread has something to do.
    wakes_thread: Condvar,
    /// `None` once it is closed.
    database: Mutex<Option<D>>,
    watch: Watch,
}

/// Notices that a job takes long, and keeps the runtime going meanwhile.
///
/// A job runs on a thread of the runtime. While that thread is blocked by the disk, it may be that no other thread of
/// the runtime waits for sockets: an idle one is only woken for a task that is ready. So a thread of the writer looks
/// every few milliseconds, and wakes one by spawning a task that does nothing.
#[derive(Default)]
struct Watch {
    /// Counts the begins and ends of batches: odd while one runs.
    batches: AtomicU64,
    /// The watching thread sleeps until the next batch.
    is_parked: AtomicBool,
    thread: OnceLock<Thread>,
}

/// Time between two looks.
const WATCH_PERIOD: Duration = Duration::from_millis(10);
/// Looks that find no batch, after which the thread sleeps until the next batch. Few, because an idle server has a batch
/// every 1.5 seconds.
const IDLE_LOOKS: u32 = 3;

impl Watch {
    fn begin(&self) {
        self.batches.fetch_add(1, Ordering::SeqCst);
        if self.is_parked.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn end(&self) {
        self.batches.fetch_add(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Watches until `is_closed`.
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
                // A batch that began before it could see that this thread is to be woken.
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
    /// Another process has the database locked, for writing or altogether: only the writer's thread tries again.
    stalled: Option<Access>,
    /// The writer's thread is to run what is in the queue.
    is_handed_over: bool,
    is_closed: bool,
}

impl<D> Queue<D> {
    fn len(&self) -> usize {
        self.reads.len() + self.writes.len()
    }

    /// Whether a caller would find a job to run.
    fn has_runnable(&self) -> bool {
        (self.may_run(Access::Read) && !self.reads.is_empty())
            || (self.may_run(Access::Write) && !self.writes.is_empty())
    }

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

    /// Takes up to a batch of jobs, without those whose caller has gone.
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

    /// Puts jobs back to the front, in their order.
    fn put_back(&mut self, access: Access, mut jobs: VecDeque<Box<dyn Job<D>>>) {
        let lane = self.lane(access);
        jobs.append(lane);
        *lane = jobs;
    }
}

impl<D: Database> Writer<D> {
    /// Takes the connection. [`Writer::start_threads`] is to follow.
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

    /// Starts the thread that runs jobs while the database is locked, and jobs beyond one batch; and within a runtime the
    /// thread that watches jobs. They end when the writer is closed.
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

    /// Runs `work` and returns its result, which `finish` has turned into the answer after the commit.
    ///
    /// # Errors
    /// The job failed, or it did not end within 5 seconds. Then it does not run any more, unless it runs right now.
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
                return Err(unavailable("too many wait for it"));
            }
            queue.lane(access).push_back(Box::new(Asked { work, finish, result: None, reply }));
        }
        self.shared.run_as_caller();
        match answer.try_recv() {
            Ok(answer) => return answer,
            // The receiver must not be awaited after this.
            Err(oneshot::error::TryRecvError::Closed) => return Err(dropped()),
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        match self.clock.timeout(PATIENCE_SECONDS, answer).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(dropped()),
            None => Err(unavailable("it takes too long")),
        }
    }

    /// As [`Writer::ask`], of a result that is the answer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        access: Access,
        work: impl FnMut(&mut D) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(access, work, std::convert::identity).await
    }

    /// Runs `work` on the connection outside of the queue and of any transaction. Blocks: not for a thread that serves
    /// clients.
    pub(crate) fn run_blocking<T>(&self, work: impl FnOnce(&mut D) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let done = match &mut *lock(&self.shared.database) {
            Some(database) => work(database),
            None => Err(closed()),
        };
        self.shared.run_as_caller();
        done
    }

    /// Runs what is in the queue and closes the connection. While another process has the database locked, what is in
    /// the queue fails. Blocks.
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

    /// One step of the writer's thread.
    #[cfg(test)]
    pub(crate) fn step(&self) -> Progress {
        match &mut *lock(&self.shared.database) {
            Some(database) => self.shared.run_batch(database, true),
            None => Progress::Idle,
        }
    }

    /// Whether a step of the writer's thread would find a job.
    #[cfg(test)]
    pub(crate) fn has_jobs(&self) -> bool {
        lock(&self.shared.queue).len() > 0
    }
}

impl<D: Database> Shared<D> {
    /// Runs one batch if the connection is free, and hands what is left to the writer's thread.
    fn run_as_caller(&self) {
        // The thread that holds the connection looks into the queue again after it has released it. So a job that was
        // pushed meanwhile is run by one of the two.
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

    /// Waits for jobs and runs a batch of them; `None` once the writer is closed.
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
            // A job that was pushed before the connection was released found it taken.
            self.run_as_caller();
        }
        Some(progress)
    }

    /// Runs some of what is in the queue: reads first, then writes in one transaction. Jobs that a lock of another
    /// process holds up are only tried if `tries_stalled`.
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

/// How one run of a job ended.
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
            // The panic hook has logged why. The caller is answered with an error when the job is dropped.
            error!(event = "store job panicked");
            Ran::Panicked
        }
    }
}

/// Sends the answer. A panic of an announcement must not keep the other answers back.
fn end<D>(job: Box<dyn Job<D>>, outcome: &Outcome<'_>) {
    if catch_unwind(AssertUnwindSafe(|| job.end(outcome))).is_err() {
        error!(event = "announcement panicked");
    }
}

type Jobs<D> = VecDeque<Box<dyn Job<D>>>;

/// Runs these jobs, in one transaction if there are several; returns those that are to run again.
fn run_writes<D: Database>(mut jobs: Jobs<D>, database: &mut D) -> (Jobs<D>, Progress) {
    match jobs.len() {
        0 => return (jobs, Progress::Idle),
        // A single job needs no transaction around it.
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
        // The whole transaction is undone, by SQLite because of this job's error or here. What ran before runs again.
        if !is_undone {
            database.rollback();
        }
        match how {
            // Its own error undid the transaction.
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

/// Locks a mutex whose data no panic can leave half changed.
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

    /// A disk that answers when it is told to.
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
    async fn a_job_that_panics_fails_its_caller_only() {
        let (_answers, disk) = mpsc::channel();
        let writer = Writer::new(Disk(disk), Clock::system());
        let failed = writer.run::<()>(Access::Write, |_| panic!("a panic that is part of a test")).await;
        assert!(failed.unwrap_err().to_string().contains("panicked"));
        assert_eq!(writer.run(Access::Write, |_| Ok(1)).await.unwrap(), 1);
    }

    #[test]
    fn a_job_that_blocks_its_thread_stops_no_other_task_of_the_runtime() {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (answers, disk) = mpsc::channel();
        let (address, jobs) = runtime.block_on(async {
            let writer = Writer::new(Disk(disk), Clock::system());
            writer.start_threads().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // Answers each byte: with a job in between if the byte is 1.
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
            // The last client's job blocks its thread now, and the others are served.
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
