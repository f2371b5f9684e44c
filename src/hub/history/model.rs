//! The store of the simulated histories: the real [`JobQueue`] and the real change of a session, on a model of a database
//! that stalls and fails as the history demands.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::InjectedFault;
use super::machine::{ForeignLock, Machine, ModelRow};
use crate::cluster::node::{NodeName, Notification, Waits};
use crate::session::{CodeKey, Session, SessionKey, Timestamp};
use crate::store::change::{SessionTable, UncommittedChange, change};
use crate::store::jobs::{Access, Job, JobDatabase, JobError, JobQueue, Progress};
use crate::store::{
    Announcer, Attached, Changed, Ended, LargestNetwork, Record, RecordId, SessionSelector, Store, StoreError, Stored,
    Transition, Undelivered,
};
use crate::system::clock::Clock;

/// Message of an injected panic of a statement.
pub(super) const INJECTED_PANIC: &str = "an injected panic of a statement";

/// The connection to the database.
pub(super) struct Model {
    machine: Arc<Machine>,
    /// The rows as they were before the open transaction.
    before: Option<HashMap<SessionKey, ModelRow>>,
    fault: InjectedFault,
}

impl Model {
    fn read(&self) -> Result<(), JobError> {
        let mut disk = self.machine.disk.lock();
        if std::mem::take(&mut disk.panics) {
            drop(disk);
            panic!("{INJECTED_PANIC}");
        }
        if disk.foreign == ForeignLock::Everything { Err(JobError::Locked) } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), JobError> {
        self.read()?;
        let mut disk = self.machine.disk.lock();
        if self.before.is_none() && disk.foreign != ForeignLock::Nothing {
            return Err(JobError::Locked);
        }
        if std::mem::take(&mut disk.fails_statement) {
            if let Some(before) = self.before.take() {
                disk.rows = before;
            }
            return Err(JobError::Failed(StoreError::Unavailable("the disk is full".into())));
        }
        Ok(())
    }

    /// Commits a statement outside of a transaction, which waits while the disk is slow.
    fn commit_statement(&self) {
        if self.before.is_none() {
            self.machine.wait_while_slow();
        }
    }
}

impl JobDatabase for Model {
    fn begin(&mut self) -> Result<(), JobError> {
        let disk = self.machine.disk.lock();
        if disk.foreign != ForeignLock::Nothing {
            return Err(JobError::Locked);
        }
        self.before = Some(disk.rows.clone());
        Ok(())
    }

    fn commit(&mut self) -> Result<(), JobError> {
        self.machine.wait_while_slow();
        let mut disk = self.machine.disk.lock();
        if std::mem::take(&mut disk.fails_commit) {
            return Err(JobError::Failed(StoreError::Unavailable("the disk is full".into())));
        }
        self.before = None;
        Ok(())
    }

    fn rollback(&mut self) {
        if let Some(before) = self.before.take() {
            self.machine.disk.lock().rows = before;
        }
    }

    fn is_in_transaction(&self) -> bool {
        // With this fault the queue does not notice a rollback. Later statements commit by themselves, and the batch
        // ends as if nothing had been rolled back.
        self.before.is_some() || self.fault == InjectedFault::RollbackUnnoticed
    }
}

impl SessionTable for Model {
    type RowId = SessionKey;

    fn find(&mut self, selector: SessionSelector) -> Result<Option<(SessionKey, Session)>, JobError> {
        self.read()?;
        let disk = self.machine.disk.lock();
        let found = disk.rows.values().map(|row| &row.session).find(|session| match selector {
            SessionSelector::Key(key) => session.key == key,
            SessionSelector::Code(code) => session.code == code,
        });
        Ok(found.map(|session| (session.key, session.clone())))
    }

    fn update(&mut self, key: SessionKey, next: &Session) -> Result<bool, JobError> {
        self.write()?;
        let mut disk = self.machine.disk.lock();
        let row = disk.rows.get_mut(&key).filter(|row| row.session.version + 1 == next.version);
        let is_written = row.map(|row| row.session = next.clone()).is_some();
        drop(disk);
        self.commit_statement();
        Ok(is_written)
    }
}

/// An announcer that does nothing. With the injected fault, only a caller that still waits announces its change.
struct SilentAnnouncer;

impl Announcer for SilentAnnouncer {
    fn announce(&self, _: &Stored) {}
}

/// A job that changes one session.
struct ChangeSession {
    selector: SessionSelector,
    transition: Transition,
    clock: Clock,
    announcer: Arc<dyn Announcer>,
    recent: Arc<Mutex<Vec<Notification>>>,
    /// Whether the answer has the written session, because `announcer` does nothing.
    is_silent: bool,
}

impl Job<Model> for ChangeSession {
    type Uncommitted = UncommittedChange;
    type Answer = (Changed, Option<Arc<Session>>);

    fn run(&mut self, model: &mut Model) -> Result<UncommittedChange, JobError> {
        change(model, self.selector, &self.transition, &self.clock)
    }

    fn committed(self, change: UncommittedChange) -> Self::Answer {
        self.recent.lock().extend(change.notification());
        let written = match &change {
            UncommittedChange::Written(session) if self.is_silent => Some(Arc::new(session.clone())),
            _ => None,
        };
        (change.committed(self.announcer), written)
    }
}

/// A store on the model of a database.
pub(super) struct ModelStore {
    pub(super) machine: Arc<Machine>,
    pub(super) jobs: JobQueue<Model>,
    clock: Clock,
    fault: InjectedFault,
    /// Whether the store numbers connections, as with several nodes.
    is_numbered: bool,
    node: NodeName,
    recent: Arc<Mutex<Vec<Notification>>>,
    /// Whether attaching waits before it reads the rows.
    pub(super) holds_before_read: Mutex<bool>,
    /// Whether attaching waits after it has read the rows.
    pub(super) holds_after_read: Mutex<bool>,
    /// Releases of the waiting calls.
    held: Mutex<Vec<oneshot::Sender<()>>>,
}

impl ModelStore {
    pub(super) fn new(machine: Arc<Machine>, clock: Clock, fault: InjectedFault, is_numbered: bool) -> Self {
        let model = Model { machine: machine.clone(), before: None, fault };
        Self {
            machine,
            jobs: JobQueue::new(model, clock.clone()),
            clock,
            fault,
            is_numbered,
            node: NodeName::from_stored("here".to_owned()),
            recent: Arc::default(),
            holds_before_read: Mutex::default(),
            holds_after_read: Mutex::default(),
            held: Mutex::default(),
        }
    }

    pub(super) fn insert_now(&self, session: Session) {
        self.machine.disk.lock().rows.insert(session.key, ModelRow { session, attachment: 0 });
    }

    /// Waits to be released, if calls are held at this point.
    async fn hold(&self, holds: &Mutex<bool>) -> Result<(), StoreError> {
        if !*holds.lock() {
            return Ok(());
        }
        let (release, released) = oneshot::channel();
        self.held.lock().push(release);
        // A call that waits at a restart is never released.
        released.await.map_err(|_| StoreError::Unavailable("gone".into()))
    }

    /// Releases the waiting call with this number modulo their count. Returns whether there was one.
    pub(super) fn release(&self, number: usize) -> bool {
        let mut held = self.held.lock();
        if held.is_empty() {
            return false;
        }
        let index = number % held.len();
        let _ = held.swap_remove(index).send(());
        true
    }

    /// Runs one step of the queue.
    pub(super) fn step(&self) -> Progress {
        self.jobs.step()
    }
}

#[async_trait]
impl Store for ModelStore {
    fn is_shared(&self) -> bool {
        false
    }

    async fn insert(&self, _: &Session) -> Result<(), StoreError> {
        unreachable!("histories insert sessions directly")
    }

    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<Session>, StoreError> {
        self.read_settled(keys).await.map(|(_, sessions)| sessions)
    }

    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError> {
        let (keys, is_numbered) = (keys.to_vec(), self.is_numbered);
        let attach = move |model: &mut Model| {
            model.read()?;
            let mut disk = model.machine.disk.lock();
            let mut attached = Vec::new();
            for key in &keys {
                let Some(row) = disk.rows.get_mut(key) else { continue };
                row.attachment += u32::from(is_numbered);
                let (session, attachment) = (row.session.clone(), row.attachment);
                attached.push(Attached { session, attachment, superseded_node: None });
            }
            Ok(attached)
        };
        self.hold(&self.holds_before_read).await?;
        let attached = self.jobs.read(attach).await?;
        self.hold(&self.holds_after_read).await?;
        Ok(attached)
    }

    async fn find_by_code(&self, _: &CodeKey) -> Result<Option<Session>, StoreError> {
        Ok(None)
    }

    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<Session>), StoreError> {
        let (keys, clock) = (keys.to_vec(), self.clock.clone());
        let read = move |model: &mut Model| {
            model.read()?;
            let disk = model.machine.disk.lock();
            let session = |key| disk.rows.get(key).map(|row| row.session.clone());
            Ok((clock.now(), keys.iter().filter_map(session).collect()))
        };
        self.jobs.read(read).await
    }

    async fn change(
        &self,
        selector: SessionSelector,
        transition: Transition,
        announcer: Arc<dyn Announcer>,
    ) -> Result<Changed, StoreError> {
        let (machine, node) = (self.machine.clone(), self.node.clone());
        let announcer: Arc<dyn Announcer> =
            if self.is_numbered { Arc::new(NumberingAnnouncer { announcer, machine, node }) } else { announcer };
        let is_silent = self.fault == InjectedFault::LateCommitIsSilent;
        let (clock, recent) = (self.clock.clone(), self.recent.clone());
        let job_announcer = if is_silent { Arc::new(SilentAnnouncer) } else { announcer.clone() };
        let job = ChangeSession { selector, transition, clock, announcer: job_announcer, recent, is_silent };
        let (changed, written) = self.jobs.run(Access::Write, job).await?;
        if let Some(session) = written {
            // With this fault, a caller that still waits announces its own change, and no state that was found is
            // announced.
            let since = crate::metrics::Stopwatch::start();
            announcer.announce(&Stored { session, waits: None, is_new: true, since });
        }
        Ok(changed)
    }

    async fn largest_network(&self, _: Timestamp, _: u32) -> Result<LargestNetwork, StoreError> {
        Ok(LargestNetwork::default())
    }

    async fn undelivered(&self) -> Result<Vec<Undelivered>, StoreError> {
        let mut notifications = std::mem::take(&mut *self.recent.lock());
        let mut disk = self.machine.disk.lock();
        if std::mem::take(&mut disk.has_foreign_commits) {
            let notification =
                |row: &ModelRow| Notification { key: row.session.key, version: row.session.version, attachment: 0 };
            notifications.extend(disk.rows.values().map(notification));
        }
        if self.fault == InjectedFault::LateCommitIsSilent {
            notifications.clear();
        }
        Ok(notifications.into_iter().map(|notification| Undelivered { notification, session: None }).collect())
    }

    async fn mark_delivered(&self, _: &[Notification]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn sweep(&self, _: Timestamp, _: u32) -> Result<Vec<Ended>, StoreError> {
        Ok(Vec::new())
    }

    async fn insert_record(&self, _: &Record) -> Result<bool, StoreError> {
        unreachable!("histories have no records")
    }

    async fn read_record(&self, _: &RecordId) -> Result<Option<Record>, StoreError> {
        Ok(None)
    }

    async fn replace_record(&self, _: &Record) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn delete_record(&self, _: &RecordId) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn sweep_records(&self, _: Timestamp, _: u32) -> Result<u32, StoreError> {
        Ok(0)
    }

    async fn maintain(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

/// Adds the session's node and attachment to an announcement, as a store of several nodes does.
struct NumberingAnnouncer {
    announcer: Arc<dyn Announcer>,
    machine: Arc<Machine>,
    node: NodeName,
}

impl Announcer for NumberingAnnouncer {
    fn announce(&self, stored: &Stored) {
        let attachment = self.machine.disk.lock().rows.get(&stored.session.key).map_or(0, |row| row.attachment);
        let waits = Some(Waits { node: self.node.clone(), attachment });
        self.announcer.announce(&Stored { waits, ..stored.clone() });
    }
}
